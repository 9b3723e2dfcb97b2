//! Every operation of the GPU backend beside the reference, and what its kernels may not do.

use super::products::{After, LinearOp, LogitsOp};
use super::*;
use crate::ops::gpu::Half;
use crate::ops::gpu::testing::{OnDevice, Setup, on_devices};
use crate::ops::gpu::{Device, GpuBackend};

/// An operation as something to do on a device.
struct Run<O: Op>(O);

impl<O: Op> OnDevice for Run<O> {
    type Found = Vec<f32>;

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) -> Vec<f32> {
        let backend = make();
        let found = self.0.run(&backend);
        backend.end_step().expect("nothing fails on the device");
        found
    }
}

/// Runs `op` on the reference and on each device: it must lie within `tolerance` of the reference.
fn compare_on(setup: Setup, what: &str, tolerance: f32, op: impl Op) {
    let wanted = op.run(&ReferenceBackend);
    for (device, found) in on_devices(setup, &Run(op)) {
        assert_eq!(found.len(), wanted.len());
        assert!(found.iter().all(|v| v.is_finite()), "{what} {device} {setup:?}: not a number");
        let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance, "{what} {device} {setup:?}: differs from the reference by {worst}");
    }
}

/// Both types, with half the distance between neighbouring numbers around one, which is what a rounded result may be off by.
const HALVES: [(Half, f32); 2] = [(Half::Bf16, 1.0 / 256.0), (Half::F16, 1.0 / 2048.0)];

#[test]
fn embedding_gathers_exact_rows_on_a_gpu() {
    for (half, _) in HALVES {
        compare_on(Setup::checked(half), "embed", 0.0, EmbedOp(half.dtype().into()));
    }
}

#[test]
fn rms_norm_on_odd_widths_on_a_gpu() {
    for (half, step) in HALVES {
        for (rows, width) in [(1, 1), (5, 15), (1, 17), (17, 96), (3, 1283), (2, 3072)] {
            let op = NormOp { rows, width, weights: half.dtype().into() };
            compare_on(Setup::checked(half), &format!("rms_norm {width}"), 4.0 * step, op);
        }
    }
}

#[test]
fn silu_over_its_range_on_a_gpu() {
    for (half, step) in HALVES {
        // The largest result is 200.
        compare_on(Setup::checked(half), "silu", 200.0 * step, SiluOp(half.dtype().into()));
    }
}

#[test]
fn products_on_odd_shapes_on_a_gpu() {
    for (half, step) in HALVES {
        for (inputs, outputs) in [(8, 2), (64, 34), (96, 66), (136, 100)] {
            for rows in [1, 3, 17, 70] {
                for after in [After::Store, After::Add, After::SwiGlu, After::Silu] {
                    let op = LinearOp { rows, inputs, outputs, stored: half.dtype().into(), after };
                    // Operands are rounded, so that a sum of `inputs` products is off by so many roundings of random sign; a gate multiplies two.
                    let sums = step * (inputs as f32).sqrt();
                    let tolerance = if matches!(after, After::SwiGlu) { sums * (inputs as f32).sqrt() } else { 2.0 * sums };
                    for setup in [Setup::checked(half), Setup::checked(half).invariant()] {
                        compare_on(setup, &format!("{after:?} {rows}x{inputs}x{outputs}"), tolerance, op);
                    }
                }
            }
        }
    }
}

#[test]
fn logits_of_chosen_rows_on_a_gpu() {
    let all: Vec<u32> = (0..19).collect();
    for (half, step) in HALVES {
        for rows in [&all[..], &all[..7], &[18], &[0, 5, 9, 18], &[3, 3]] {
            for setup in [Setup::checked(half), Setup::checked(half).invariant()] {
                compare_on(setup, &format!("logits of {rows:?}"), 20.0 * step, LogitsOp(rows, half.dtype().into()));
            }
        }
    }
}

#[test]
fn attention_over_pages_on_a_gpu() {
    for (half, step) in HALVES {
        for (kv_heads, group, head_dim) in
            [(1, 2, 32), (3, 4, 64), (1, 4, 128), (8, 2, 64), (2, 5, 128), (1, 7, 32), (5, 4, 32), (1, 2, 128)]
        {
            for (context, block_size) in [(1, 32), (2, 32), (31, 32), (33, 64), (70, 32), (290, 96)] {
                let shape = AttentionShape { q_heads: kv_heads * group, kv_heads, head_dim };
                for norm in [false, true] {
                    let op = AttentionOp { shape, stored: half.dtype().into(), block_size, context, norm };
                    compare_on(Setup::checked(half), &format!("attention {shape:?} over {context}"), 10.0 * step, op);
                }
            }
        }
    }
}

#[test]
fn attention_over_a_long_context_on_a_gpu() {
    for (half, step) in HALVES {
        let shapes = [(513, 1, 4, 64), (2100, 1, 4, 32), (700, 6, 2, 32), (2100, 2, 2, 64), (1000, 1, 4, 128), (2100, 1, 2, 128)];
        for (context, kv_heads, group, head_dim) in shapes {
            let shape = AttentionShape { q_heads: kv_heads * group, kv_heads, head_dim };
            let op = AttentionOp { shape, stored: half.dtype().into(), block_size: 32, context, norm: true };
            compare_on(Setup::unchecked(half), &format!("attention over {context}"), 10.0 * step, op);
        }
    }
}
