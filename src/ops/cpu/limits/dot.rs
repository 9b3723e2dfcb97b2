//! The dot-product instructions of x86, each in sixteen chains of registers that do not wait for each other.

use std::arch::x86_64::*;
use std::hint::black_box;

/// Independent accumulators: the instructions take four to five cycles, and a core starts at most two a cycle.
const CHAINS: usize = 16;

/// The same for sequences of instructions on 256-bit registers, of which there are sixteen.
const PAIR_CHAINS: usize = 12;

/// Whether the CPU has `vdpbf16ps` on 512-bit registers.
pub(super) fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

/// Whether the CPU has `vpdpbusd` on 512-bit registers.
fn has_int8() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// What adds products of bytes fastest on this CPU, as a function of iterations that returns operations; `None` without AVX2.
/// AVX-VNNI counts as AVX2: no machine that has it alone was at hand.
pub(super) fn int8_products() -> Option<fn(usize) -> f64> {
    if has_int8() {
        // SAFETY: the features are there.
        return Some(|iterations| unsafe { int8(iterations) });
    }
    // SAFETY: the feature is there.
    is_x86_feature_detected!("avx2").then_some(|iterations| unsafe { int8_by_pairs(iterations) })
}

/// `iterations` times one `vdpbf16ps` in each chain; returns the operations: 32 products, each multiplied and added.
///
/// # Safety
/// [`has_bf16`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn bf16(iterations: usize) -> f64 {
    let ones = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(black_box(-1.0)));
    let factor = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.5)));
    let mut sums: [__m512; CHAINS] = std::array::from_fn(|i| _mm512_set1_ps(black_box(i as f32)));
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, ones, factor);
        }
    }
    let total = sums.into_iter().fold(_mm512_setzero_ps(), |a, b| _mm512_add_ps(a, b));
    black_box(_mm512_reduce_add_ps(total));
    (iterations * CHAINS * 32 * 2) as f64
}

/// `iterations` times one `vpdpbusd` in each chain; returns the operations: 64 products, each multiplied and added.
///
/// # Safety
/// [`has_int8`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int8(iterations: usize) -> f64 {
    let (a, b) = (_mm512_set1_epi8(black_box(1)), _mm512_set1_epi8(black_box(-1)));
    let mut sums: [__m512i; CHAINS] = std::array::from_fn(|i| _mm512_set1_epi32(black_box(i as i32)));
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    let total = sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b));
    black_box(_mm512_reduce_add_epi32(total));
    (iterations * CHAINS * 64 * 2) as f64
}

/// `iterations` times `vpmaddubsw`, `vpmaddwd` and an addition in each of [`PAIR_CHAINS`]; returns the operations: 32 products, each
/// multiplied and added. So it goes with 8-bit weights; 4-bit ones need `vpmaddwd` once a block alone, and their share of this limit flatters
/// them.
///
/// # Safety
/// AVX2.
#[target_feature(enable = "avx2")]
unsafe fn int8_by_pairs(iterations: usize) -> f64 {
    let (a, ones) = (_mm256_set1_epi8(black_box(1)), _mm256_set1_epi16(black_box(1)));
    let mut sums: [__m256i; PAIR_CHAINS] = std::array::from_fn(|i| _mm256_set1_epi32(black_box(i as i32)));
    for _ in 0..iterations {
        for sum in &mut sums {
            // The factor depends on the sum, so that no product is computed once and for all.
            let products = _mm256_madd_epi16(_mm256_maddubs_epi16(a, *sum), ones);
            *sum = _mm256_add_epi32(*sum, products);
        }
    }
    let total = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi32(a, b));
    black_box(_mm256_extract_epi32::<0>(total));
    (iterations * PAIR_CHAINS * 32 * 2) as f64
}
