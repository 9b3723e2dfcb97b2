//! Products of weights in blocks of 32: exact sums of bytes within a block, one fused multiply-add a block in ascending order.
//!
//! With `i` the integer sum of a block, `w` its scale (and `m` its minimum) and `a` the scale of the activations:
//! `y = fma(f32(i) * w, a, y)`, and in formats with a minimum then `y = fma(m, a * sum of the activations, y)`. Every instruction set
//! computes just that.
//!
//! A block of a panel, of 32 outputs:
//!
//! | format | content | bytes |
//! |---|---|--:|
//! | `Q8_0` | `[8 units][32 outputs][4 k]` of `q + 128`, `[32]` f16 scales | 1088 |
//! | `Q4_0` | `[4 units][32 outputs][4 k]`: `q + 8` of k in the low, of k + 16 in the high half; `[32]` f16 scales | 576 |
//! | `Q4_1` | likewise of `q`, `[32]` f16 scales, `[32]` f16 minima | 640 |

use super::lanes::{ByteLanes, Lanes};
use super::matrix::PANEL;
use super::operand::{BLOCK_UNITS, Factor};
use super::product::store;
use super::tile::{Prefetch, Product, Sums, TileInput};
use crate::ops::{BLOCK_VALUES, BlockFormat};
use std::marker::PhantomData;

/// Bytes of a unit of 32 outputs.
const UNIT_BYTES: usize = 4 * PANEL;

/// Bytes of one f16 for each output.
pub(super) const SCALES_BYTES: usize = 2 * PANEL;

/// Bytes of the integers of a block of a panel.
pub(super) const fn quant_bytes(format: BlockFormat) -> usize {
    match format {
        BlockFormat::Q8_0 => 8 * UNIT_BYTES,
        BlockFormat::Q4_0 | BlockFormat::Q4_1 => 4 * UNIT_BYTES,
    }
}

/// Bytes of a block of a panel.
pub(super) const fn block_bytes(format: BlockFormat) -> usize {
    quant_bytes(format) + if matches!(format, BlockFormat::Q4_1) { 2 * SCALES_BYTES } else { SCALES_BYTES }
}

/// What is added to the products of a block of activations with `scale` and `sum`: minus the offset of the weights times the sum, as an
/// i32; for formats with a minimum what that is multiplied with, as an f32.
#[inline(always)]
pub(super) fn extra(format: BlockFormat, scale: f32, sum: f32) -> u32 {
    match format {
        BlockFormat::Q8_0 => (sum as i32 * -128) as u32,
        BlockFormat::Q4_0 => (sum as i32 * -8) as u32,
        BlockFormat::Q4_1 => (sum * scale).to_bits(),
    }
}

/// How the blocks of a format are multiplied.
pub(super) trait BlockProduct {
    const FORMAT: BlockFormat;

    /// Adds the products of one block: `weights` is the block of the panel, `x` and `factors` those of `R` rows.
    ///
    /// # Safety
    /// As said; as the methods of [`Lanes`].
    unsafe fn add<V: ByteLanes, const R: usize, const H: usize>(
        weights: (*const u8, usize),
        x: *const u32,
        factors: *const Factor,
        sums: &mut [[V; H]; R],
    );
}

/// All blocks of a tile.
pub(super) struct Blocks<B>(PhantomData<B>);

impl<B: BlockProduct> Product for Blocks<B> {
    const BLOCK_INPUTS: usize = BLOCK_VALUES;
    const BLOCK_BYTES: usize = block_bytes(B::FORMAT);

    #[inline(always)]
    fn tile_rows<V: ByteLanes>() -> usize {
        V::BYTE_TILE_ROWS
    }

    #[inline(always)]
    unsafe fn tile<V: ByteLanes, const R: usize, const H: usize>(input: TileInput, half: usize, mut prefetch: Prefetch, out: &mut Sums) {
        // SAFETY: the caller's promise.
        unsafe {
            let TileInput { mut weights, units: mut x, mut factors, inputs } = input;
            let mut sums = [[V::splat(0.0); H]; R];
            for _ in 0..inputs / BLOCK_VALUES {
                prefetch.step::<V>();
                B::add::<V, R, H>((weights, half), x, factors, &mut sums);
                weights = weights.add(Self::BLOCK_BYTES);
                x = x.add(R * BLOCK_UNITS);
                factors = factors.add(R);
            }
            store(&sums, half, out);
        }
    }
}

/// `Q8_0`.
pub(super) struct Q8Product;
/// `Q4_0`, and `Q4_1` with `MINIMUM`.
pub(super) struct Q4Product<const MINIMUM: bool>;

impl BlockProduct for Q8Product {
    const FORMAT: BlockFormat = BlockFormat::Q8_0;

    #[inline(always)]
    unsafe fn add<V: ByteLanes, const R: usize, const H: usize>(
        (weights, half): (*const u8, usize),
        x: *const u32,
        factors: *const Factor,
        sums: &mut [[V; H]; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let integers = bytes::<V, R, H>((weights, half), x, |r| (*factors.add(r)).extra as i32);
            let scales = load_scales::<V, H>(weights.add(quant_bytes(Self::FORMAT)), half);
            for r in 0..R {
                let scale = V::splat((*factors.add(r)).scale);
                for h in 0..H {
                    sums[r][h] = V::from_byte_sums(integers[r][h]).mul(scales[h]).mul_add(scale, sums[r][h]);
                }
            }
        }
    }
}

impl<const MINIMUM: bool> BlockProduct for Q4Product<MINIMUM> {
    const FORMAT: BlockFormat = if MINIMUM { BlockFormat::Q4_1 } else { BlockFormat::Q4_0 };

    #[inline(always)]
    unsafe fn add<V: ByteLanes, const R: usize, const H: usize>(
        (weights, half): (*const u8, usize),
        x: *const u32,
        factors: *const Factor,
        sums: &mut [[V; H]; R],
    ) {
        // SAFETY: the caller's promise; only formats with a minimum have minima behind the scales.
        unsafe {
            let correction = |r: usize| if MINIMUM { 0 } else { (*factors.add(r)).extra as i32 };
            let integers = nibbles::<V, R, H>((weights, half), x, correction);
            let after = weights.add(quant_bytes(Self::FORMAT));
            let scales = load_scales::<V, H>(after, half);
            let minima = if MINIMUM { load_scales::<V, H>(after.add(SCALES_BYTES), half) } else { scales };
            for r in 0..R {
                let Factor { scale, extra } = *factors.add(r);
                for h in 0..H {
                    let sum = V::from_nibble_sums(integers[r][h], correction(r));
                    let product = sum.mul(scales[h]).mul_add(V::splat(scale), sums[r][h]);
                    sums[r][h] = if MINIMUM { minima[h].mul_add(V::splat(f32::from_bits(extra)), product) } else { product };
                }
            }
        }
    }
}

/// The f16 of `16 * H` outputs, from half `half` on.
///
/// # Safety
/// 64 bytes at `from`; as the methods of [`Lanes`].
#[inline(always)]
unsafe fn load_scales<V: Lanes, const H: usize>(from: *const u8, half: usize) -> [V; H] {
    // SAFETY: the caller's promise.
    unsafe {
        let at = |h: usize| from.add((half + h) * SCALES_BYTES / 2).cast();
        let mut scales = [V::load_f16(at(0)); H];
        for h in 1..H {
            scales[h] = V::load_f16(at(h));
        }
        scales
    }
}

/// Integer sums of a block of eight-bit weights.
///
/// # Safety
/// As [`BlockProduct::add`].
#[inline(always)]
unsafe fn bytes<V: ByteLanes, const R: usize, const H: usize>(
    (weights, half): (*const u8, usize),
    x: *const u32,
    correction: impl Fn(usize) -> i32,
) -> [[V::ByteSums; H]; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let weights = weights.add(half * UNIT_BYTES / 2);
        let mut integers = [[V::byte_sums(0); H]; R];
        if R >= V::BLOCK_FROM_ROWS {
            for h in 0..H {
                let sums = V::byte_block::<R>(weights.add(h * UNIT_BYTES / 2), UNIT_BYTES, x);
                for r in 0..R {
                    integers[r][h] = sums[r];
                }
            }
            return integers;
        }
        for r in 0..R {
            integers[r] = [V::byte_sums(correction(r)); H];
        }
        for unit in 0..BLOCK_UNITS {
            let from = weights.add(unit * UNIT_BYTES);
            let mut w = [V::load_bytes(from); H];
            for h in 1..H {
                w[h] = V::load_bytes(from.add(h * UNIT_BYTES / 2));
            }
            for r in 0..R {
                for h in 0..H {
                    integers[r][h] = V::add_bytes(integers[r][h], w[h], x.add(r * BLOCK_UNITS + unit));
                }
            }
        }
        integers
    }
}

/// Integer sums of a block of four-bit weights.
///
/// # Safety
/// As [`BlockProduct::add`].
#[inline(always)]
unsafe fn nibbles<V: ByteLanes, const R: usize, const H: usize>(
    (weights, half): (*const u8, usize),
    x: *const u32,
    correction: impl Fn(usize) -> i32,
) -> [[V::NibbleSums; H]; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let weights = weights.add(half * UNIT_BYTES / 2);
        let mut integers = [[V::nibble_sums(0); H]; R];
        if R >= V::BLOCK_FROM_ROWS {
            for h in 0..H {
                let sums = V::nibble_block::<R>(weights.add(h * UNIT_BYTES / 2), UNIT_BYTES, x, &correction);
                for r in 0..R {
                    integers[r][h] = sums[r];
                }
            }
            return integers;
        }
        for r in 0..R {
            integers[r] = [V::nibble_sums(correction(r)); H];
        }
        for unit in 0..BLOCK_UNITS / 2 {
            let from = weights.add(unit * UNIT_BYTES);
            if R >= V::NIBBLE_COLUMN_FROM_ROWS {
                for h in 0..H {
                    // Read twice, so that one half of the bytes after the other takes registers.
                    let from = from.add(h * UNIT_BYTES / 2);
                    V::add_nibble_column(&mut integers, h, V::load_nibbles(from).0, x.add(unit));
                    V::add_nibble_column(&mut integers, h, V::load_nibbles(from).1, x.add(BLOCK_UNITS / 2 + unit));
                }
                continue;
            }
            let mut w = [V::load_nibbles(from); H];
            for h in 1..H {
                w[h] = V::load_nibbles(from.add(h * UNIT_BYTES / 2));
            }
            for r in 0..R {
                let x = x.add(r * BLOCK_UNITS + unit);
                for h in 0..H {
                    integers[r][h] = V::add_nibbles(integers[r][h], w[h].0, x);
                    integers[r][h] = V::add_nibbles(integers[r][h], w[h].1, x.add(BLOCK_UNITS / 2));
                }
            }
        }
        integers
    }
}
