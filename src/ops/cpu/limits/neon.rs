//! The byte-product instructions of ARMv8.2 and 8.6, in sixteen chains of registers that do not wait for each other.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::hint::black_box;

/// Independent accumulators: the instructions take three to four cycles, and a core starts at most four a cycle.
const CHAINS: usize = 16;

/// What adds products of bytes fastest on this CPU, as a function of iterations that returns operations; `None` without `sdot`, where f32
/// multiply-adds do as much.
pub(super) fn int8_products() -> Option<fn(usize) -> f64> {
    if is_aarch64_feature_detected!("i8mm") {
        // SAFETY: the feature is there.
        return Some(|iterations| unsafe { matrix(iterations) });
    }
    // SAFETY: the feature is there.
    is_aarch64_feature_detected!("dotprod").then_some(|iterations| unsafe { dot(iterations) })
}

/// Defines a function that does one instruction in each chain `iterations` times and returns the operations: so many products, each
/// multiplied and added. The intrinsics are not stable yet.
macro_rules! chains {
    ($name:ident, $features:literal, $instruction:literal, $products:literal) => {
        /// # Safety
        /// The CPU must have the features.
        #[target_feature(enable = $features)]
        unsafe fn $name(iterations: usize) -> f64 {
            let (a, b) = (vdupq_n_s8(black_box(1)), vdupq_n_s8(black_box(-1)));
            let mut sums: [int32x4_t; CHAINS] = std::array::from_fn(|i| vdupq_n_s32(black_box(i as i32)));
            for _ in 0..iterations {
                for sum in &mut sums {
                    // SAFETY: registers alone.
                    unsafe {
                        asm!(concat!($instruction, " {sum:v}.4s, {a:v}.16b, {b:v}.16b"), sum = inout(vreg) *sum, a = in(vreg) a,
                            b = in(vreg) b, options(pure, nomem, nostack, preserves_flags));
                    }
                }
            }
            let total = sums.into_iter().fold(vdupq_n_s32(0), |a, b| vaddq_s32(a, b));
            black_box(vaddvq_s32(total));
            (iterations * CHAINS * $products * 2) as f64
        }
    };
}

chains!(dot, "neon,dotprod", "sdot", 16);
chains!(matrix, "neon,i8mm", "smmla", 32);
