//! Products of bytes with one 512-bit register: `vpdpbusd`, or `vpmaddubsw` and `vpmaddwd` on the first CPUs with AVX-512.

use super::super::avx512::Avx512;
use super::ByteLanes;
use std::arch::x86_64::*;

/// `vpdpbusd`. A function of its own, since closures and generics do not carry features.
///
/// # Safety
/// The CPU must have AVX512_VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot(sums: __m512i, weights: __m512i, x: __m512i) -> __m512i {
    _mm512_dpbusd_epi32(sums, weights, x)
}

/// What [`dot`] gives, of weights `q + 128` whose sums start at 0: activations take over the sign of `q`, so that two products fit 16 bits.
///
/// # Safety
/// The CPU must have AVX512BW.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn add_signed(sums: __m512i, weights: __m512i, x: __m512i) -> __m512i {
    let signed = _mm512_xor_si512(weights, _mm512_set1_epi8(i8::MIN));
    let x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(signed), _mm512_setzero_si512(), x);
    add_pairs(sums, _mm512_abs_epi8(signed), x)
}

/// Adds products of weights without a sign, of which two fit 16 bits.
///
/// # Safety
/// The CPU must have AVX512BW.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_pairs(sums: __m512i, weights: __m512i, x: __m512i) -> __m512i {
    let pairs = _mm512_maddubs_epi16(weights, x);
    _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
}

/// Four activations in all lanes.
///
/// # Safety
/// Four bytes at `x`; AVX-512F.
#[inline(always)]
unsafe fn splat(x: *const u32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_set1_epi32(x.read_unaligned() as i32) }
}

// SAFETY of all blocks below: the type is only used inside `run`, which enables the features; pointers are the caller's promise.
impl<const VNNI: bool, const DOT: bool> ByteLanes for Avx512<VNNI, DOT> {
    type Bytes = __m512i;
    type ByteSums = __m512i;
    type Nibbles = __m512i;
    type NibbleSums = __m512i;

    #[inline(always)]
    unsafe fn byte_sums(correction: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(if VNNI { correction } else { 0 }) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn add_bytes(sums: __m512i, weights: __m512i, x: *const u32) -> __m512i {
        // SAFETY: see above.
        unsafe { if VNNI { dot(sums, weights, splat(x)) } else { add_signed(sums, weights, splat(x)) } }
    }

    #[inline(always)]
    unsafe fn from_byte_sums(sums: __m512i) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm512_cvtepi32_ps(sums)) }
    }

    #[inline(always)]
    unsafe fn nibble_sums(correction: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(correction) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> (__m512i, __m512i) {
        // SAFETY: see above.
        unsafe {
            let (bytes, mask) = (_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(15));
            (_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask))
        }
    }

    #[inline(always)]
    unsafe fn add_nibbles(sums: __m512i, weights: __m512i, x: *const u32) -> __m512i {
        // SAFETY: see above.
        unsafe { if VNNI { dot(sums, weights, splat(x)) } else { add_pairs(sums, weights, splat(x)) } }
    }

    #[inline(always)]
    unsafe fn from_nibble_sums(sums: __m512i, _correction: i32) -> Self {
        // SAFETY: see above.
        unsafe { Self::from_byte_sums(sums) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(self.0))) }
    }
}
