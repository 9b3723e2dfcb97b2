//! Lanes as one 512-bit register; with `VNNI`, the CPU has `vpdpbusd` too, with `DOT` also `vdpbf16ps`.

use super::{Kernel, Lanes, Part};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(in super::super) struct Avx512<const VNNI: bool, const DOT: bool>(pub(super) __m512);

/// Runs `kernel` with AVX-512 enabled.
///
/// # Safety
/// As [`Kernel::run`]; the CPU must have the features named.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn run<K: Kernel>(kernel: &K, part: Part) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { kernel.run::<Avx512<false, false>>(part) }
}

/// Runs `kernel` with AVX-512 and its byte products enabled.
///
/// # Safety
/// As [`Kernel::run`]; the CPU must have the features named.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn run_vnni<K: Kernel>(kernel: &K, part: Part) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { kernel.run::<Avx512<true, false>>(part) }
}

/// Runs `kernel` with AVX-512, its byte products and its bf16 instructions enabled.
///
/// # Safety
/// As [`Kernel::run`]; the CPU must have the features named.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: &K, part: Part) {
    // SAFETY: the features are enabled here; the rest is the caller's promise.
    unsafe { kernel.run::<Avx512<true, true>>(part) }
}

/// `vdpbf16ps`. A function of its own, since closures and generics do not carry features.
///
/// # Safety
/// The CPU must have AVX512_BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dot(sum: __m512, pairs: __m512, x: __m512) -> __m512 {
    // SAFETY: 64 bytes each, of which all bit patterns are values.
    unsafe { _mm512_dpbf16_ps(sum, std::mem::transmute::<__m512, __m512bh>(pairs), std::mem::transmute::<__m512, __m512bh>(x)) }
}

/// Rounds to bf16, to nearest even; denormals become 0.
///
/// # Safety
/// The CPU must have AVX512_BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn narrow(values: __m512) -> __m256i {
    // SAFETY: 32 bytes, of which all bit patterns are values.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values)) }
}

/// As [`narrow`], with integer operations and denormals kept; a NaN stays one.
///
/// # Safety
/// The CPU must have AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn narrow_by_integers(values: __m512) -> __m256i {
    let bits = _mm512_castps_si512(values);
    let lowest = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(lowest, _mm512_set1_epi32(0x7fff)));
    let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet)))
}

// SAFETY of all blocks below: the type is only used inside `run`, which enables the features; pointers are the caller's promise.
impl<const VNNI: bool, const DOT: bool> Lanes for Avx512<VNNI, DOT> {
    const TILE_ROWS: usize = 8;
    const TILE_VECTORS: usize = 2;
    const NATIVE_DOT: bool = DOT;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> (Self, Self) {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))), Self(_mm512_castsi512_ps(odd)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_div_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_min_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }

    #[inline(always)]
    unsafe fn exp2_integer(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
        }
    }

    #[inline(always)]
    unsafe fn keep_first(self, count: usize, fill: f32) -> Self {
        let mask = if count >= 16 { u16::MAX } else { (1u16 << count) - 1 };
        // SAFETY: see above.
        unsafe { Self(_mm512_mask_blend_ps(mask, _mm512_set1_ps(fill), self.0)) }
    }

    #[inline(always)]
    unsafe fn dot_bf16(self, pairs: Self, x: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            if DOT {
                return Self(dot(self.0, pairs.0, x.0));
            }
            let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let even = |v: Self| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(v.0)));
            let odd = |v: Self| _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v.0), mask));
            Self(_mm512_fmadd_ps(even(pairs), even(x), _mm512_fmadd_ps(odd(pairs), odd(x), self.0)))
        }
    }

    #[inline(always)]
    unsafe fn even_bf16(self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(self.0), _mm512_set1_epi32(0xffff)))) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        // SAFETY: see above.
        unsafe {
            let narrowed = if DOT { narrow(self.0) } else { narrow_by_integers(self.0) };
            _mm256_storeu_si256(to.cast(), narrowed);
        }
    }

    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(low, _mm512_castps512_ps256(self.0));
            _mm256_storeu_ps(high, _mm512_extractf32x8_ps::<1>(self.0));
        }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        // SAFETY: a hint; it does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
}
