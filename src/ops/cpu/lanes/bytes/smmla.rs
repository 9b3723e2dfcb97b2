//! Blocks of bytes with the `smmla` of ARMv8.6: eight weights of two lanes times eight activations of two rows in one instruction.

use super::super::super::operand::BLOCK_UNITS;
use super::neon::{Bytes, Sums};
use std::arch::aarch64::*;
use std::arch::asm;

/// Rows of a tile at most.
const MOST_ROWS: usize = 4;

/// Sums of two rows: register `i` holds lanes `2 * i` and `2 * i + 1` of the first row, then those of the second.
type Pair = [int32x4_t; 8];

/// One sum for each of two rows `x` and two lanes of weights. The intrinsic is not stable yet.
///
/// # Safety
/// The CPU must have `smmla`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn multiply(mut sums: int32x4_t, x: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone.
    unsafe {
        asm!("smmla {sums:v}.4s, {x:v}.16b, {weights:v}.16b", sums = inout(vreg) sums, x = in(vreg) x, weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// The 4 weights of each lane in `first`, followed by those in `second`, two lanes a register.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn eights(first: Bytes, second: Bytes) -> [int8x16_t; 8] {
    let mut weights = [first[0]; 8];
    for i in 0..4 {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (vreinterpretq_s32_s8(first[i]), vreinterpretq_s32_s8(second[i]));
            weights[2 * i] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
            weights[2 * i + 1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
        }
    }
    weights
}

/// Sums of products, not in the order of rows and lanes yet.
pub(super) struct Block<const R: usize>([Pair; MOST_ROWS / 2]);

impl<const R: usize> Block<R> {
    /// # Safety
    /// NEON.
    ///
    /// # Panics
    /// If a tile has no so many rows. Nothing of that is left in one that has them.
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        assert!(R <= MOST_ROWS);
        // SAFETY: the caller's promise.
        Self([[unsafe { vdupq_n_s32(0) }; 8]; MOST_ROWS / 2])
    }

    /// Adds the products of two units. The activations of the first row are at `x`, those of the next one a block of units further on.
    ///
    /// # Safety
    /// As said; the CPU must have `smmla`.
    #[inline(always)]
    pub(super) unsafe fn add(&mut self, first: Bytes, second: Bytes, x: *const u32) {
        // SAFETY: the caller's promise; a row without a second one is its own.
        unsafe {
            let weights = eights(first, second);
            let row = |r: usize| vld1_s8(x.add(r.min(R - 1) * BLOCK_UNITS).cast());
            for pair in 0..R.div_ceil(2) {
                let x = vcombine_s8(row(2 * pair), row(2 * pair + 1));
                for i in 0..8 {
                    self.0[pair][i] = multiply(self.0[pair][i], x, weights[i]);
                }
            }
        }
    }

    /// The sums of each row, and its `correction`.
    ///
    /// # Safety
    /// NEON.
    #[inline(always)]
    pub(super) unsafe fn rows(self, correction: impl Fn(usize) -> i32) -> [Sums; R] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut rows = [[vdupq_n_s32(0); 4]; R];
            for r in 0..R {
                for i in 0..4 {
                    let (a, b) = (vreinterpretq_s64_s32(self.0[r / 2][2 * i]), vreinterpretq_s64_s32(self.0[r / 2][2 * i + 1]));
                    let lanes = if r % 2 == 0 { vzip1q_s64(a, b) } else { vzip2q_s64(a, b) };
                    rows[r][i] = vaddq_s32(vreinterpretq_s32_s64(lanes), vdupq_n_s32(correction(r)));
                }
            }
            rows
        }
    }
}
