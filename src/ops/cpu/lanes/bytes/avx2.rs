//! Products of bytes with two 256-bit registers: `vpmaddubsw` and `vpmaddwd`, or AVX-VNNI's `vpdpbusd`.
//!
//! `vpmaddubsw` adds two products in 16 bits. Four-bit weights fit eight times over (8 * 2 * 15 * 127 < 2^15), so a block needs one
//! `vpmaddwd`. Eight-bit weights give their sign to the activations: 2 * 128 * 127 < 2^15 then, where 255 * 127 would not do.

use super::super::avx2::{Avx2, rows};
use super::ByteLanes;
use std::arch::x86_64::*;

/// 4 bytes in each of 16 lanes.
type Pair = (__m256i, __m256i);

/// Eight-bit weights without their sign, and with it; with AVX-VNNI both as they are stored.
#[derive(Clone, Copy)]
pub(in super::super::super) struct Signed {
    magnitude: Pair,
    signed: Pair,
}

/// `vpdpbusd` of AVX-VNNI. A function of its own, since closures and generics do not carry features.
///
/// # Safety
/// The CPU must have AVX-VNNI.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn dot(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    _mm256_dpbusd_avx_epi32(sums, weights, x)
}

/// Adds products of magnitudes with activations that took over the sign of the weight.
///
/// # Safety
/// The CPU must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_signed(sums: __m256i, magnitude: __m256i, signed: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, signed));
    _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// Reads 64 bytes.
///
/// # Safety
/// As said; AVX2.
#[inline(always)]
unsafe fn load(from: *const u8) -> Pair {
    // SAFETY: the caller's promise.
    unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
}

/// Four activations in all lanes.
///
/// # Safety
/// Four bytes at `x`; AVX2.
#[inline(always)]
unsafe fn splat(x: *const u32) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi32(x.read_unaligned() as i32) }
}

/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn both(value: i32) -> Pair {
    // SAFETY: the caller's promise.
    unsafe { (_mm256_set1_epi32(value), _mm256_set1_epi32(value)) }
}

// SAFETY of all blocks below: the type is only used inside `run`, which enables the features; pointers are the caller's promise.
impl<const VNNI: bool> ByteLanes for Avx2<VNNI> {
    const BYTE_TILE_ROWS: usize = rows::MOST_BYTES;
    const NIBBLE_COLUMN_FROM_ROWS: usize = if VNNI { usize::MAX } else { rows::FEWEST };

    type Bytes = Signed;
    type ByteSums = Pair;
    type Nibbles = Pair;
    type NibbleSums = Pair;

    #[inline(always)]
    unsafe fn byte_sums(correction: i32) -> Pair {
        // SAFETY: see above.
        unsafe { both(if VNNI { correction } else { 0 }) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Signed {
        // SAFETY: see above.
        unsafe {
            let stored = load(from);
            if VNNI {
                return Signed { magnitude: stored, signed: stored };
            }
            let sign = _mm256_set1_epi8(i8::MIN);
            let signed = (_mm256_xor_si256(stored.0, sign), _mm256_xor_si256(stored.1, sign));
            Signed { magnitude: (_mm256_abs_epi8(signed.0), _mm256_abs_epi8(signed.1)), signed }
        }
    }

    #[inline(always)]
    unsafe fn add_bytes(sums: Pair, Signed { magnitude, signed }: Signed, x: *const u32) -> Pair {
        // SAFETY: see above.
        unsafe {
            let x = splat(x);
            if VNNI {
                return (dot(sums.0, magnitude.0, x), dot(sums.1, magnitude.1, x));
            }
            (add_signed(sums.0, magnitude.0, signed.0, x), add_signed(sums.1, magnitude.1, signed.1, x))
        }
    }

    #[inline(always)]
    unsafe fn from_byte_sums(sums: Pair) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_cvtepi32_ps(sums.0), _mm256_cvtepi32_ps(sums.1)) }
    }

    #[inline(always)]
    unsafe fn nibble_sums(correction: i32) -> Pair {
        // SAFETY: see above.
        unsafe { both(if VNNI { correction } else { 0 }) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> (Pair, Pair) {
        // SAFETY: see above.
        unsafe {
            let (low, high) = load(from);
            let mask = _mm256_set1_epi8(15);
            let upper = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
            ((_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)), (upper(low), upper(high)))
        }
    }

    #[inline(always)]
    unsafe fn add_nibbles(sums: Pair, weights: Pair, x: *const u32) -> Pair {
        // SAFETY: see above.
        unsafe {
            let x = splat(x);
            if VNNI {
                return (dot(sums.0, weights.0, x), dot(sums.1, weights.1, x));
            }
            let add = |sums, weights| _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, x));
            (add(sums.0, weights.0), add(sums.1, weights.1))
        }
    }

    #[inline(always)]
    unsafe fn add_nibble_column<const R: usize, const H: usize>(sums: &mut [[Pair; H]; R], vector: usize, weights: Pair, x: *const u32) {
        // SAFETY: see above.
        unsafe { rows::add_bytes(sums, vector, weights, x) }
    }

    #[inline(always)]
    unsafe fn from_nibble_sums(sums: Pair, correction: i32) -> Self {
        // SAFETY: see above.
        unsafe {
            if VNNI {
                return Self::from_byte_sums(sums);
            }
            let (ones, correction) = (_mm256_set1_epi16(1), _mm256_set1_epi32(correction));
            let widen = |sums| _mm256_add_epi32(_mm256_madd_epi16(sums, ones), correction);
            Self::from_byte_sums((widen(sums.0), widen(sums.1)))
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            // Packing goes by halves of a register: lanes 0-3, 8-11, 4-7, 12-15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
}
