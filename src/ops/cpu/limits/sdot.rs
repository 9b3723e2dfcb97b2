//! The dot-product instruction of ARMv8.2, in sixteen chains of registers that do not wait for each other.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::hint::black_box;

/// Independent accumulators: the instruction takes three to four cycles, and a core starts at most four a cycle.
const CHAINS: usize = 16;

/// What adds products of bytes fastest on this CPU, as a function of iterations that returns operations; `None` without `sdot`, where f32
/// multiply-adds do as much.
pub(super) fn int8_products() -> Option<fn(usize) -> f64> {
    // SAFETY: the feature is there.
    is_aarch64_feature_detected!("dotprod").then_some(|iterations| unsafe { int8(iterations) })
}

/// `iterations` times one `sdot` in each chain; returns the operations: 16 products, each multiplied and added.
///
/// # Safety
/// The CPU must have `sdot`.
#[target_feature(enable = "neon,dotprod")]
unsafe fn int8(iterations: usize) -> f64 {
    let (a, b) = (vdupq_n_s8(black_box(1)), vdupq_n_s8(black_box(-1)));
    let mut sums: [int32x4_t; CHAINS] = std::array::from_fn(|i| vdupq_n_s32(black_box(i as i32)));
    for _ in 0..iterations {
        for sum in &mut sums {
            // SAFETY: registers alone. The intrinsic is not stable yet.
            unsafe {
                asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) *sum, a = in(vreg) a, b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags));
            }
        }
    }
    let total = sums.into_iter().fold(vdupq_n_s32(0), |a, b| vaddq_s32(a, b));
    black_box(vaddvq_s32(total));
    (iterations * CHAINS * 16 * 2) as f64
}
