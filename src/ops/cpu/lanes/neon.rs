//! Lanes as four 128-bit registers; with `DOT`, the CPU has the `sdot` of ARMv8.2 too, with `MATRIX` the `smmla` of ARMv8.6.
//!
//! A tile of the matrix kernel is 4 rows x 16 outputs: 16 of the 32 registers accumulate, 8 hold the widened weights of two k, 8 the two
//! activations of each row (one of them multiplied by lane, `fmla v, v, v[i]`). Five rows would need more than there are.
//!
//! Maximum and minimum compare and select: `FMAX` would let a NaN of either side through. Denormals are computed as everywhere else
//! (`FPCR.FZ` is off in a process that does not set it). The value of a NaN, of which nothing is promised, is the CPU's own: ARM's
//! default NaN is positive, Intel's negative.

use super::{Kernel, Lanes, Part};
use std::arch::aarch64::*;

#[derive(Clone, Copy)]
pub(in super::super) struct Neon<const DOT: bool, const MATRIX: bool>(
    pub(super) float32x4_t,
    pub(super) float32x4_t,
    pub(super) float32x4_t,
    pub(super) float32x4_t,
);

/// Runs `kernel` with NEON enabled.
///
/// # Safety
/// As [`Kernel::run`]; the CPU must have the feature.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: &K, part: Part) {
    // SAFETY: the feature is enabled here; the rest is the caller's promise.
    unsafe { kernel.run::<Neon<false, false>>(part) }
}

/// Runs `kernel` with NEON and `sdot` enabled.
///
/// # Safety
/// As [`Kernel::run`]; the CPU must have the features named.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run_dot<K: Kernel>(kernel: &K, part: Part) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { kernel.run::<Neon<true, false>>(part) }
}

/// Runs `kernel` with NEON, `sdot` and `smmla` enabled.
///
/// # Safety
/// As [`Kernel::run`]; the CPU must have the features named.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn run_matrix<K: Kernel>(kernel: &K, part: Part) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { kernel.run::<Neon<true, true>>(part) }
}

/// Applies an operation on registers to all four, of one, two or three vectors.
macro_rules! each {
    ($op:path, $a:expr $(, $more:expr)*) => {
        // SAFETY: the type is only used inside the functions that enable the features.
        unsafe { Self($op($a.0 $(, $more.0)*), $op($a.1 $(, $more.1)*), $op($a.2 $(, $more.2)*), $op($a.3 $(, $more.3)*)) }
    };
}

/// 2^n of four integers.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn power_of_two(n: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)))) }
}

/// `a > b ? a : b`.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn greater(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

/// `a < b ? a : b`.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn less(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
}

/// The even-numbered of eight bf16.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn even(pairs: uint32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)) }
}

/// The odd-numbered of eight bf16.
///
/// # Safety
/// NEON.
#[inline(always)]
unsafe fn odd(pairs: uint32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff_0000))) }
}

// SAFETY of all blocks below: the type is only used inside the functions that enable the features; pointers are the caller's promise, and
// loads and stores of a register take any alignment.
impl<const DOT: bool, const MATRIX: bool> Lanes for Neon<DOT, MATRIX> {
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        let value = unsafe { vdupq_n_f32(value) };
        Self(value, value, value, value)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (vreinterpretq_f16_u16(vld1q_u16(from)), vreinterpretq_f16_u16(vld1q_u16(from.add(8))));
            Self(vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)), vcvt_high_f32_f16(high))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: see above.
        unsafe {
            let bytes = vld1q_s8(from);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            let widened = |half: int16x8_t| (vcvtq_f32_s32(vmovl_s16(vget_low_s16(half))), vcvtq_f32_s32(vmovl_high_s16(half)));
            let ((a, b), (c, d)) = (widened(low), widened(high));
            Self(a, b, c, d)
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> (Self, Self) {
        // SAFETY: see above; two bf16 a word, the even-numbered one in the lower half.
        unsafe {
            let words: *const u32 = from.cast();
            let (a, b, c, d) = (vld1q_u32(words), vld1q_u32(words.add(4)), vld1q_u32(words.add(8)), vld1q_u32(words.add(12)));
            (Self(even(a), even(b), even(c), even(d)), Self(odd(a), odd(b), odd(c), odd(d)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            vst1q_f32(to, self.0);
            vst1q_f32(to.add(4), self.1);
            vst1q_f32(to.add(8), self.2);
            vst1q_f32(to.add(12), self.3);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        each!(vaddq_f32, self, other)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        each!(vsubq_f32, self, other)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        each!(vmulq_f32, self, other)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        each!(vdivq_f32, self, other)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        each!(vfmaq_f32, addend, self, factor)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        each!(greater, self, other)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        each!(less, self, other)
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        each!(vrndnq_f32, self)
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        each!(power_of_two, self)
    }

    #[inline(always)]
    unsafe fn keep_first(self, count: usize, fill: f32) -> Self {
        const INDEX: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        // SAFETY: see above.
        unsafe {
            let (limit, fill) = (vdupq_n_u32(count.min(16) as u32), vdupq_n_f32(fill));
            let keep = |from: usize, value: float32x4_t| vbslq_f32(vcltq_u32(vld1q_u32(INDEX.as_ptr().add(from)), limit), value, fill);
            Self(keep(0, self.0), keep(4, self.1), keep(8, self.2), keep(12, self.3))
        }
    }

    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32) {
        // SAFETY: see above.
        unsafe {
            vst1q_f32(low, self.0);
            vst1q_f32(low.add(4), self.1);
            vst1q_f32(high, self.2);
            vst1q_f32(high.add(4), self.3);
        }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: see above.
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(self.0, self.1), vmaxq_f32(self.2, self.3))) }
    }
}
