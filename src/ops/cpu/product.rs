//! What the matrix kernel does with two neighbouring k: how weights and activations come together, by dtype and arithmetic.

use super::lanes::Lanes;
use super::operand::BLOCK_UNITS;

/// Weights in panels times units of activations.
pub(super) trait Product {
    /// Units of activations that hold two k.
    const PAIR_UNITS: usize;
    /// Bytes of two k of 32 outputs.
    const PAIR_BYTES: usize;
    /// Pairs of k in a block of units.
    const BLOCK_PAIRS: usize = BLOCK_UNITS / Self::PAIR_UNITS;
    /// Weights of two k of 16 outputs.
    type Weights<V: Lanes>: Copy;

    /// Reads the weights of 16 outputs (`half` 0 or 1 of the panel).
    ///
    /// # Safety
    /// `PAIR_BYTES` must be readable at `pair`; as the methods of [`Lanes`].
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> Self::Weights<V>;

    /// `sums + weights * x`.
    ///
    /// # Safety
    /// `PAIR_UNITS` must be readable at `x`; as the methods of [`Lanes`].
    unsafe fn add<V: Lanes>(sums: V, weights: Self::Weights<V>, x: *const u32) -> V;
}

/// One fused multiply-add a k, in ascending order.
///
/// # Safety
/// Two f32 at `x`; as the methods of [`Lanes`].
#[inline(always)]
unsafe fn fused<V: Lanes>(sums: V, (even, odd): (V, V), x: *const u32) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let (x0, x1) = (V::splat(f32::from_bits(*x)), V::splat(f32::from_bits(*x.add(1))));
        odd.mul_add(x1, even.mul_add(x0, sums))
    }
}

/// bf16 weights, widened to f32.
pub(super) struct Bf16Product;
/// f16 weights, widened to f32.
pub(super) struct F16Product;
/// f32 weights.
pub(super) struct F32Product;
/// bf16 weights times bf16 activations, by [`Lanes::dot_bf16`].
pub(super) struct Bf16DotProduct;

impl Product for Bf16Product {
    const PAIR_UNITS: usize = 2;
    const PAIR_BYTES: usize = 128;
    type Weights<V: Lanes> = (V, V);

    #[inline(always)]
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: 64 bytes a half.
        unsafe { V::load_bf16_pairs(pair.add(half * 64).cast()) }
    }

    #[inline(always)]
    unsafe fn add<V: Lanes>(sums: V, weights: (V, V), x: *const u32) -> V {
        // SAFETY: the caller's promise.
        unsafe { fused(sums, weights, x) }
    }
}

impl Product for F16Product {
    const PAIR_UNITS: usize = 2;
    const PAIR_BYTES: usize = 128;
    type Weights<V: Lanes> = (V, V);

    #[inline(always)]
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: 64 bytes a k, 32 of them a half.
        unsafe { (V::load_f16(pair.add(half * 32).cast()), V::load_f16(pair.add(64 + half * 32).cast())) }
    }

    #[inline(always)]
    unsafe fn add<V: Lanes>(sums: V, weights: (V, V), x: *const u32) -> V {
        // SAFETY: the caller's promise.
        unsafe { fused(sums, weights, x) }
    }
}

impl Product for F32Product {
    const PAIR_UNITS: usize = 2;
    const PAIR_BYTES: usize = 256;
    type Weights<V: Lanes> = (V, V);

    #[inline(always)]
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: 128 bytes a k, 64 of them a half.
        unsafe { (V::load(pair.add(half * 64).cast()), V::load(pair.add(128 + half * 64).cast())) }
    }

    #[inline(always)]
    unsafe fn add<V: Lanes>(sums: V, weights: (V, V), x: *const u32) -> V {
        // SAFETY: the caller's promise.
        unsafe { fused(sums, weights, x) }
    }
}

impl Product for Bf16DotProduct {
    const PAIR_UNITS: usize = 1;
    const PAIR_BYTES: usize = 128;
    /// Two bf16 a lane.
    type Weights<V: Lanes> = V;

    #[inline(always)]
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> V {
        // SAFETY: 64 bytes a half.
        unsafe { V::load(pair.add(half * 64).cast()) }
    }

    #[inline(always)]
    unsafe fn add<V: Lanes>(sums: V, weights: V, x: *const u32) -> V {
        // SAFETY: the caller's promise.
        unsafe { sums.dot_bf16(weights, V::splat(f32::from_bits(*x))) }
    }
}
