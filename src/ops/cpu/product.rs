//! Products of weights that are numbers: two neighbouring k after the other, by dtype and arithmetic.

use super::lanes::{ByteLanes, Lanes, WIDTH};
use super::operand::BLOCK_UNITS;
use super::tile::{Prefetch, Product, Sums, TileInput};
use std::marker::PhantomData;

/// How two k come together.
pub(super) trait PairProduct {
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

    /// Adds two k of `R` rows to the sums of `16 * H` outputs, from half `half` on.
    ///
    /// # Safety
    /// One pair behind each pointer, of `R` rows; as the methods of [`Lanes`].
    #[inline(always)]
    unsafe fn add_pair<V: Lanes, const R: usize, const H: usize>(from: (*const u8, usize), x: *const u32, sums: &mut [[V; H]; R])
    where
        Self: Sized,
    {
        // SAFETY: the caller's promise.
        unsafe { add_pair_by_row::<V, Self, R, H>(from, x, sums) }
    }
}

/// Weights as f32.
pub(super) trait Widened {
    /// Bytes of two k of 32 outputs.
    const PAIR_BYTES: usize;

    /// Reads the even and the odd k of 16 outputs (`half` 0 or 1 of the panel).
    ///
    /// # Safety
    /// `PAIR_BYTES` must be readable at `pair`; as the methods of [`Lanes`].
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> (V, V);
}

/// bf16 weights.
pub(super) struct Bf16Weights;
/// f16 weights.
pub(super) struct F16Weights;
/// f32 weights.
pub(super) struct F32Weights;

impl Widened for Bf16Weights {
    const PAIR_BYTES: usize = 128;

    #[inline(always)]
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: 64 bytes a half.
        unsafe { V::load_bf16_pairs(pair.add(half * 64).cast()) }
    }
}

impl Widened for F16Weights {
    const PAIR_BYTES: usize = 128;

    #[inline(always)]
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: 64 bytes a k, 32 of them a half.
        unsafe { (V::load_f16(pair.add(half * 32).cast()), V::load_f16(pair.add(64 + half * 32).cast())) }
    }
}

impl Widened for F32Weights {
    const PAIR_BYTES: usize = 256;

    #[inline(always)]
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: 128 bytes a k, 64 of them a half.
        unsafe { (V::load(pair.add(half * 64).cast()), V::load(pair.add(128 + half * 64).cast())) }
    }
}

/// One fused multiply-add a k, in ascending order.
pub(super) struct Fused<W>(PhantomData<W>);

impl<W: Widened> PairProduct for Fused<W> {
    const PAIR_UNITS: usize = 2;
    const PAIR_BYTES: usize = W::PAIR_BYTES;
    type Weights<V: Lanes> = (V, V);

    #[inline(always)]
    unsafe fn load<V: Lanes>(pair: *const u8, half: usize) -> (V, V) {
        // SAFETY: the caller's promise.
        unsafe { W::load(pair, half) }
    }

    #[inline(always)]
    unsafe fn add<V: Lanes>(sums: V, (even, odd): (V, V), x: *const u32) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let (x0, x1) = (V::splat(f32::from_bits(*x)), V::splat(f32::from_bits(*x.add(1))));
            odd.mul_add(x1, even.mul_add(x0, sums))
        }
    }

    #[inline(always)]
    unsafe fn add_pair<V: Lanes, const R: usize, const H: usize>(
        (weights, half): (*const u8, usize),
        x: *const u32,
        sums: &mut [[V; H]; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if R < V::COLUMN_FROM_ROWS {
                return add_pair_by_row::<V, Self, R, H>((weights, half), x, sums);
            }
            for h in 0..H {
                // Read twice, so that one k after the other takes registers.
                V::add_column(sums, h, W::load::<V>(weights, half + h).0, x);
                V::add_column(sums, h, W::load::<V>(weights, half + h).1, x.add(1));
            }
        }
    }
}

/// bf16 weights times bf16 activations, by [`Lanes::dot_bf16`].
pub(super) struct Bf16DotProduct;

impl PairProduct for Bf16DotProduct {
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

/// All pairs of k of a tile.
pub(super) struct Pairs<P>(PhantomData<P>);

impl<P: PairProduct> Product for Pairs<P> {
    const BLOCK_INPUTS: usize = 2 * P::BLOCK_PAIRS;
    const BLOCK_BYTES: usize = P::BLOCK_PAIRS * P::PAIR_BYTES;

    #[inline(always)]
    fn tile_rows<V: ByteLanes>() -> usize {
        V::TILE_ROWS
    }

    #[inline(always)]
    unsafe fn tile<V: ByteLanes, const R: usize, const H: usize>(input: TileInput, half: usize, mut prefetch: Prefetch, out: &mut Sums) {
        // SAFETY: the caller's promise.
        unsafe {
            let (mut weights, mut x, pairs) = (input.weights, input.units, input.inputs.div_ceil(2));
            let mut sums = [[V::splat(0.0); H]; R];
            for _ in 0..pairs / P::BLOCK_PAIRS {
                prefetch.step::<V>();
                for pair in 0..P::BLOCK_PAIRS {
                    P::add_pair::<V, R, H>((weights.add(pair * P::PAIR_BYTES), half), x.add(pair * P::PAIR_UNITS), &mut sums);
                }
                weights = weights.add(Self::BLOCK_BYTES);
                x = x.add(R * BLOCK_UNITS);
            }
            for pair in 0..pairs % P::BLOCK_PAIRS {
                P::add_pair::<V, R, H>((weights.add(pair * P::PAIR_BYTES), half), x.add(pair * P::PAIR_UNITS), &mut sums);
            }
            store(&sums, half, out);
        }
    }
}

/// Puts the sums of a tile where they are finished.
///
/// # Safety
/// As the methods of [`Lanes`].
#[inline(always)]
pub(super) unsafe fn store<V: Lanes, const R: usize, const H: usize>(sums: &[[V; H]; R], half: usize, out: &mut Sums) {
    for r in 0..R {
        for h in 0..H {
            // SAFETY: 32 values a row, of which these are 16.
            unsafe { sums[r][h].store(out[r].as_mut_ptr().add((half + h) * WIDTH)) };
        }
    }
}

/// [`PairProduct::add_pair`], row after row.
///
/// # Safety
/// One pair behind each pointer, of `R` rows; as the methods of [`Lanes`].
#[inline(always)]
unsafe fn add_pair_by_row<V: Lanes, P: PairProduct, const R: usize, const H: usize>(
    (weights, half): (*const u8, usize),
    x: *const u32,
    sums: &mut [[V; H]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if V::TILE_VECTORS < H {
            // Sixteen registers hold the weights of one half beside the sums, not those of both.
            for h in 0..H {
                let pair = P::load::<V>(weights, half + h);
                for r in 0..R {
                    sums[r][h] = P::add(sums[r][h], pair, x.add(r * BLOCK_UNITS));
                }
            }
            return;
        }
        let mut pair = [P::load::<V>(weights, half); H];
        for h in 1..H {
            pair[h] = P::load::<V>(weights, half + h);
        }
        for r in 0..R {
            let x = x.add(r * BLOCK_UNITS);
            for h in 0..H {
                sums[r][h] = P::add(sums[r][h], pair[h], x);
            }
        }
    }
}
