//! Products of bytes with four 128-bit registers: `smull` and pairwise additions, or the `sdot` of ARMv8.2; tiles of two rows and more with
//! `smmla`, where it is.

use super::super::super::operand::BLOCK_UNITS;
use super::super::neon::Neon;
use super::ByteLanes;
use super::smmla::Block;
use std::arch::aarch64::*;
use std::arch::asm;

/// 4 bytes in each of 16 lanes.
pub(super) type Bytes = [int8x16_t; 4];
pub(super) type Sums = [int32x4_t; 4];

/// Adds the products of 4 lanes of 4 weights with 4 activations that stand in all lanes.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn add(sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(weights), vget_low_s8(x)));
        let high = vpaddlq_s16(vmull_high_s8(weights, x));
        vaddq_s32(sums, vpaddq_s32(low, high))
    }
}

/// As [`add`], in one instruction, whose intrinsic is not stable yet.
///
/// # Safety
/// The CPU must have `sdot`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot(mut sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone.
    unsafe {
        asm!("sdot {sums:v}.4s, {weights:v}.16b, {x:v}.16b", sums = inout(vreg) sums, weights = in(vreg) weights, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// # Safety
/// Four bytes at `x`; NEON, and `sdot` with `DOT`.
#[inline(always)]
unsafe fn add_all<const DOT: bool>(sums: Sums, weights: Bytes, x: *const u32) -> Sums {
    // SAFETY: the caller's promise.
    unsafe {
        let x = vreinterpretq_s8_u32(vdupq_n_u32(x.read_unaligned()));
        if DOT {
            return [dot(sums[0], weights[0], x), dot(sums[1], weights[1], x), dot(sums[2], weights[2], x), dot(sums[3], weights[3], x)];
        }
        [add(sums[0], weights[0], x), add(sums[1], weights[1], x), add(sums[2], weights[2], x), add(sums[3], weights[3], x)]
    }
}

/// # Safety
/// NEON.
#[inline(always)]
unsafe fn widen<const DOT: bool, const MATRIX: bool>(sums: Sums) -> Neon<DOT, MATRIX> {
    // SAFETY: the caller's promise.
    unsafe { Neon(vcvtq_f32_s32(sums[0]), vcvtq_f32_s32(sums[1]), vcvtq_f32_s32(sums[2]), vcvtq_f32_s32(sums[3])) }
}

/// The same bits.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn signed(bytes: uint8x16_t) -> int8x16_t {
    // SAFETY: the caller's promise.
    unsafe { vreinterpretq_s8_u8(bytes) }
}

/// # Safety
/// 64 bytes at `from`; NEON.
#[inline(always)]
unsafe fn load(from: *const u8) -> [uint8x16_t; 4] {
    // SAFETY: the caller's promise.
    unsafe { [vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48))] }
}

// SAFETY of all blocks below: the type is only used inside functions that enable the features; pointers are the caller's promise.
impl<const DOT: bool, const MATRIX: bool> ByteLanes for Neon<DOT, MATRIX> {
    const BLOCK_FROM_ROWS: usize = if MATRIX { 2 } else { usize::MAX };

    type Bytes = Bytes;
    type ByteSums = Sums;
    type Nibbles = Bytes;
    type NibbleSums = Sums;

    #[inline(always)]
    unsafe fn byte_sums(_correction: i32) -> Sums {
        // SAFETY: see above.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Bytes {
        // SAFETY: see above.
        unsafe {
            let (v, sign) = (load(from), vdupq_n_u8(0x80));
            [signed(veorq_u8(v[0], sign)), signed(veorq_u8(v[1], sign)), signed(veorq_u8(v[2], sign)), signed(veorq_u8(v[3], sign))]
        }
    }

    #[inline(always)]
    unsafe fn add_bytes(sums: Sums, weights: Bytes, x: *const u32) -> Sums {
        // SAFETY: see above.
        unsafe { add_all::<DOT>(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn from_byte_sums(sums: Sums) -> Self {
        // SAFETY: see above.
        unsafe { widen(sums) }
    }

    #[inline(always)]
    unsafe fn byte_block<const R: usize>(weights: *const u8, stride: usize, x: *const u32) -> [Sums; R] {
        // SAFETY: see above.
        unsafe {
            let mut block = Block::<R>::new();
            for unit in (0..BLOCK_UNITS).step_by(2) {
                let from = weights.add(unit * stride);
                block.add(Self::load_bytes(from), Self::load_bytes(from.add(stride)), x.add(unit));
            }
            block.rows(|_| 0)
        }
    }

    #[inline(always)]
    unsafe fn nibble_sums(correction: i32) -> Sums {
        // SAFETY: see above.
        unsafe { [vdupq_n_s32(correction); 4] }
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> (Bytes, Bytes) {
        // SAFETY: see above.
        unsafe {
            let (v, mask) = (load(from), vdupq_n_u8(15));
            let low =
                [signed(vandq_u8(v[0], mask)), signed(vandq_u8(v[1], mask)), signed(vandq_u8(v[2], mask)), signed(vandq_u8(v[3], mask))];
            let high = [vshrq_n_u8::<4>(v[0]), vshrq_n_u8::<4>(v[1]), vshrq_n_u8::<4>(v[2]), vshrq_n_u8::<4>(v[3])];
            (low, [signed(high[0]), signed(high[1]), signed(high[2]), signed(high[3])])
        }
    }

    #[inline(always)]
    unsafe fn add_nibbles(sums: Sums, weights: Bytes, x: *const u32) -> Sums {
        // SAFETY: see above.
        unsafe { add_all::<DOT>(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn from_nibble_sums(sums: Sums, _correction: i32) -> Self {
        // SAFETY: see above.
        unsafe { widen(sums) }
    }

    #[inline(always)]
    unsafe fn nibble_block<const R: usize>(
        weights: *const u8,
        stride: usize,
        x: *const u32,
        correction: impl Fn(usize) -> i32,
    ) -> [Sums; R] {
        // SAFETY: see above.
        unsafe {
            let mut block = Block::<R>::new();
            for unit in (0..BLOCK_UNITS / 2).step_by(2) {
                let from = weights.add(unit * stride);
                let (first, second) = (Self::load_nibbles(from), Self::load_nibbles(from.add(stride)));
                block.add(first.0, second.0, x.add(unit));
                block.add(first.1, second.1, x.add(BLOCK_UNITS / 2 + unit));
            }
            block.rows(correction)
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe {
            let words = |low, high| vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(low)), vqmovn_s32(vcvtnq_s32_f32(high)));
            let bytes = vcombine_s8(vqmovn_s16(words(self.0, self.1)), vqmovn_s16(words(self.2, self.3)));
            vst1q_s8(to.cast(), bytes);
        }
    }
}
