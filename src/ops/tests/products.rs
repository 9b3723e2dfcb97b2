//! Products of every type of weights, what follows them, and what batches may not change.

use super::*;

/// What happens to the sums of a product.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    Store,
    Add,
    SwiGlu,
    Silu,
}

#[derive(Clone, Copy)]
pub(super) struct LinearOp {
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) stored: WeightType,
    pub(super) after: After,
}

impl Op for LinearOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let (rows, outputs) = (self.rows, self.outputs);
        let bytes = bytes_of(&noise(1, outputs * self.inputs));
        let source = TensorData::new(DType::F32, outputs, self.inputs, &bytes).unwrap();
        let paired = matches!(self.after, After::SwiGlu);
        let weight = b.matrix(&source, if paired { MatrixRows::GateUp } else { MatrixRows::Plain }, self.stored).unwrap();
        let mut x = b.operand(rows, self.inputs, &[self.stored]).unwrap();
        b.write_operand((&mut x, self.stored), self.inputs, &noise(2, rows * self.inputs));
        let mut out = b.buffer(rows, outputs).unwrap();
        b.write(&mut out, &noise(3, rows * outputs));
        b.reserve(&StepNeeds { widest_product: outputs, ..needs(rows, 1) }).unwrap();
        let mut operand = b.operand(rows, outputs, &[DType::F32.into()]).unwrap();
        let target = (&mut operand, DType::F32.into());
        match self.after {
            After::Store => b.linear(&weight, &x, rows, &mut out),
            After::Add => b.linear_add(&weight, &x, rows, &mut out),
            After::SwiGlu => {
                b.linear_swiglu(&weight, &x, rows, target);
                return b.read_operand(&operand, rows, outputs / 2);
            }
            After::Silu => {
                b.linear_silu(&weight, &x, rows, target);
                return b.read_operand(&operand, rows, outputs);
            }
        }
        b.read(&out, rows * outputs)
    }
}

fn compare_linear(op: LinearOp) {
    let what = format!("{:?} {}x{}x{} {}", op.after, op.rows, op.inputs, op.outputs, op.stored);
    let exact = if matches!(op.after, After::SwiGlu) { 2e-4 } else { 2e-5 };
    let tolerance = match op.stored {
        WeightType::Scalar(dtype) => Tolerance(exact, if dtype == DType::Bf16 { 0.2 } else { exact }),
        // Activations in eight bits: an error of 0.4% of the largest of 32, in each of them, of random sign.
        WeightType::Blocks(_) => {
            let sums = 0.01 * (op.inputs as f32).sqrt();
            let allowed = if matches!(op.after, After::SwiGlu) { sums * (op.inputs as f32).sqrt() } else { sums };
            Tolerance(allowed, allowed)
        }
    };
    compare(&what, tolerance, op);
}

#[test]
fn linear_on_odd_shapes() {
    for stored in SCALARS {
        for (inputs, outputs) in [(1, 1), (2, 31), (7, 33), (64, 32), (96, 65), (130, 100)] {
            for rows in [1, 2, 3, 5, 8, 9, 17, 40] {
                compare_linear(LinearOp { rows, inputs, outputs, stored, after: After::Store });
            }
        }
    }
}

#[test]
fn linear_of_blocks_on_odd_shapes() {
    for stored in BLOCKS {
        for (inputs, outputs) in [(32, 1), (32, 32), (64, 31), (96, 65), (1280, 100)] {
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 40] {
                compare_linear(LinearOp { rows, inputs, outputs, stored, after: After::Store });
            }
        }
        for (inputs, outputs) in [(32, 2), (64, 34), (160, 100)] {
            for after in [After::Add, After::SwiGlu, After::Silu] {
                for rows in [1, 4, 9, 17] {
                    compare_linear(LinearOp { rows, inputs, outputs, stored, after });
                }
            }
        }
    }
}

#[test]
fn what_follows_a_product_on_odd_shapes() {
    for (inputs, outputs) in [(1, 2), (7, 34), (64, 32), (96, 66), (130, 100), (33, 224)] {
        for rows in [1, 4, 9, 17] {
            for after in [After::Add, After::SwiGlu, After::Silu] {
                compare_linear(LinearOp { rows, inputs, outputs, stored: DType::Bf16.into(), after });
            }
            compare_linear(LinearOp { rows, inputs, outputs, stored: DType::F32.into(), after: After::SwiGlu });
            compare_linear(LinearOp { rows, inputs, outputs, stored: DType::F16.into(), after: After::Add });
        }
    }
}

#[test]
fn linear_of_many_rows_goes_through_groups_of_panels() {
    // Adding shows a panel that is done twice.
    for (stored, after) in [
        (SCALARS[0], After::Add),
        (SCALARS[1], After::Add),
        (SCALARS[1], After::SwiGlu),
        (BLOCKS[0], After::Add),
        (BLOCKS[1], After::Store),
    ] {
        compare_linear(LinearOp { rows: 300, inputs: 64, outputs: 320, stored, after });
    }
}

/// Logits of some rows of several, or of all of them.
pub(super) struct LogitsOp<'a>(pub(super) &'a [u32], pub(super) WeightType);

impl Op for LogitsOp<'_> {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let (rows, inputs, vocabulary) = (19, 96, 100);
        let head = matrix(b, &noise(1, vocabulary * inputs), vocabulary, inputs, self.1);
        let mut x = b.operand(rows, inputs, &[self.1]).unwrap();
        b.write_operand((&mut x, self.1), inputs, &noise(2, rows * inputs));
        let mut out = vec![f32::NAN; self.0.len() * vocabulary];
        let mut room = b.operand(rows, inputs, &[self.1]).unwrap();
        b.reserve(&StepNeeds { vocabulary, ..needs(rows, 1) }).unwrap();
        b.logits(&head, &x, (self.0, &mut room), &mut out);
        out
    }
}

#[test]
fn logits_of_chosen_rows() {
    let all: Vec<u32> = (0..19).collect();
    for rows in [&all[..], &all[..7], &[18], &[0, 5, 9, 18], &[3, 3]] {
        compare(&format!("logits of {rows:?}"), Tolerance(2e-5, 0.2), LogitsOp(rows, SCALARS[1]));
        compare(&format!("logits of {rows:?} from bytes"), Tolerance(0.2, 0.2), LogitsOp(rows, BLOCKS[0]));
    }
}

#[test]
fn the_dot_product_is_that_of_rounded_activations() {
    // With activations that bf16 holds exactly, both arithmetics compute the same sum up to the order of two terms.
    struct Exact;
    impl Op for Exact {
        fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
            let (rows, inputs, outputs) = (9, 130, 70);
            let weight = matrix(b, &noise(1, outputs * inputs), outputs, inputs, DType::Bf16);
            let mut x = b.operand(rows, inputs, &[DType::Bf16.into()]).unwrap();
            let values: Vec<f32> = noise(2, rows * inputs).into_iter().map(|v| half::bf16::from_f32(v).to_f32()).collect();
            b.write_operand((&mut x, DType::Bf16.into()), inputs, &values);
            let mut out = b.buffer(rows, outputs).unwrap();
            b.linear(&weight, &x, rows, &mut out);
            b.read(&out, rows * outputs)
        }
    }
    compare("exact activations", Tolerance(2e-5, 2e-5), Exact);
}

#[test]
fn linear_rows_do_not_depend_on_the_batch() {
    for (stored, inputs) in [(SCALARS[1], 70), (BLOCKS[0], 96), (BLOCKS[1], 96), (BLOCKS[2], 96)] {
        CpuBackend::portable_variants(2).iter().chain(&CpuBackend::dot_variants(2)).for_each(|cpu| check_rows_alone(cpu, stored, inputs));
    }
}

fn check_rows_alone(cpu: &CpuBackend, stored: WeightType, inputs: usize) {
    let outputs = 50;
    {
        let (weights, x) = (noise(3, outputs * inputs), noise(4, 40 * inputs));
        let weight = matrix(cpu, &weights, outputs, inputs, stored);
        let product = |x: &[f32]| {
            let rows = x.len() / inputs;
            let mut operand = cpu.operand(rows, inputs, &[stored]).unwrap();
            cpu.write_operand((&mut operand, stored), inputs, x);
            let mut out = cpu.buffer(rows, outputs).unwrap();
            cpu.linear(&weight, &operand, rows, &mut out);
            cpu.read(&out, rows * outputs)
        };
        let alone: Vec<Vec<f32>> = x.chunks_exact(inputs).map(product).collect();
        for rows in 1..=40 {
            for first in [0, 40 - rows] {
                let together = product(&x[first * inputs..][..rows * inputs]);
                assert_eq!(together, alone[first..first + rows].concat(), "{}: {rows} rows from {first}", cpu.kernels());
            }
        }
    }
}

/// What is not a number must stay so through bytes, whichever of the values it is, and in its own row alone.
#[test]
fn bytes_do_not_hide_what_is_not_a_number() {
    let (inputs, outputs, rows) = (96, 40, 6);
    for cpu in CpuBackend::portable_variants(2) {
        for (stored, bad) in BLOCKS.into_iter().flat_map(|stored| [(stored, f32::NAN), (stored, f32::INFINITY), (stored, -f32::INFINITY)]) {
            for k in [0, 17, 64, 95] {
                let weight = matrix(&cpu, &noise(3, outputs * inputs), outputs, inputs, stored);
                let mut x = noise(4, rows * inputs);
                x[3 * inputs + k] = bad;
                let mut operand = cpu.operand(rows, inputs, &[stored]).unwrap();
                cpu.write_operand((&mut operand, stored), inputs, &x);
                let mut out = cpu.buffer(rows, outputs).unwrap();
                cpu.linear(&weight, &operand, rows, &mut out);
                for (row, sums) in cpu.read(&out, rows * outputs).chunks_exact(outputs).enumerate() {
                    assert!(sums.iter().all(|sum| sum.is_nan() == (row == 3)), "{stored} {bad} at {k}: row {row} on {}", cpu.kernels());
                }
            }
        }
    }
}

#[test]
fn tiny_activations_become_zero_bytes_everywhere() {
    struct Tiny(WeightType);
    impl Op for Tiny {
        fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
            let weight = matrix(b, &noise(3, 33 * 64), 33, 64, self.0);
            let mut x: Vec<f32> = noise(4, 64).into_iter().map(|v| v * 1e-40).collect();
            x[40] = 1e-36;
            let mut operand = b.operand(1, 64, &[self.0]).unwrap();
            b.write_operand((&mut operand, self.0), 64, &x);
            let mut out = b.buffer(1, 33).unwrap();
            b.linear(&weight, &operand, 1, &mut out);
            b.read(&out, 33)
        }
    }
    for stored in BLOCKS {
        compare(&format!("tiny activations, {stored}"), Tolerance(1e-35, 1e-35), Tiny(stored));
    }
}
