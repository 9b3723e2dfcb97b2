//! Every operation of the CPU backend, in every instruction set and with several threads, beside the reference, on odd shapes; and the bits
//! of a row whatever else is computed with it.

use super::cpu::CpuBackend;
use super::reference::ReferenceBackend;
use super::*;

/// Reproducible values in -1..1.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn matrix<B: Backend>(backend: &B, values: &[f32], rows: usize, cols: usize, dtype: DType) -> B::Matrix {
    let bytes = bytes_of(values);
    backend.matrix(&TensorData::new(DType::F32, rows, cols, &bytes).unwrap(), dtype).unwrap()
}

fn buffer<B: Backend>(backend: &B, values: &[f32]) -> B::Buffer {
    let mut buffer = backend.buffer(1, values.len()).unwrap();
    backend.write(&mut buffer, values);
    buffer
}

/// Runs `op` on the reference and on every CPU variant with 1 and 3 threads: all CPU results must have the same bits, and lie within
/// `tolerance` of the reference.
fn compare(what: &str, tolerance: f32, op: impl Op) {
    let wanted = op.run(&ReferenceBackend);
    let mut first: Option<Vec<f32>> = None;
    for threads in [1, 3] {
        for cpu in CpuBackend::variants(threads) {
            let found = op.run(&cpu);
            assert_eq!(found.len(), wanted.len());
            let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance, "{what}: {} differs from the reference by {worst}", cpu.isa());
            let first = first.get_or_insert_with(|| found.clone());
            let same = first.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{what}: {} with {threads} threads has other bits", cpu.isa());
        }
    }
}

/// An operation on any backend.
trait Op {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32>;
}

struct LinearOp {
    rows: usize,
    inputs: usize,
    outputs: usize,
    dtype: DType,
}

impl Op for LinearOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let weight = matrix(b, &noise(1, self.outputs * self.inputs), self.outputs, self.inputs, self.dtype);
        let x = buffer(b, &noise(2, self.rows * self.inputs));
        let mut out = b.buffer(self.rows, self.outputs).unwrap();
        b.linear(&weight, &x, self.rows, &mut out);
        b.read(&out, self.rows * self.outputs)
    }
}

#[test]
fn linear_on_odd_shapes() {
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for (inputs, outputs) in [(1, 1), (2, 31), (7, 33), (64, 32), (96, 65), (130, 100)] {
            for rows in [1, 2, 3, 5, 8, 9, 17, 40] {
                let op = LinearOp { rows, inputs, outputs, dtype };
                compare(&format!("linear {rows}x{inputs}x{outputs} {dtype}"), 2e-5, op);
            }
        }
    }
}

#[test]
fn linear_of_many_rows_goes_through_groups_of_panels() {
    compare("linear 300x64x320", 1e-5, LinearOp { rows: 300, inputs: 64, outputs: 320, dtype: DType::Bf16 });
}

#[test]
fn linear_rows_do_not_depend_on_the_batch() {
    let (inputs, outputs) = (70, 50);
    let cpu = CpuBackend::new(2).unwrap();
    let (weights, x) = (noise(3, outputs * inputs), noise(4, 40 * inputs));
    let weight = matrix(&cpu, &weights, outputs, inputs, DType::Bf16);
    let alone: Vec<Vec<f32>> = x
        .chunks_exact(inputs)
        .map(|row| {
            let mut out = cpu.buffer(1, outputs).unwrap();
            cpu.linear(&weight, &buffer(&cpu, row), 1, &mut out);
            cpu.read(&out, outputs)
        })
        .collect();
    for rows in 1..=40 {
        for first in [0, 40 - rows] {
            let mut out = cpu.buffer(rows, outputs).unwrap();
            cpu.linear(&weight, &buffer(&cpu, &x[first * inputs..][..rows * inputs]), rows, &mut out);
            assert_eq!(cpu.read(&out, rows * outputs), alone[first..first + rows].concat(), "{rows} rows from {first}");
        }
    }
}

struct EmbedOp(DType);

impl Op for EmbedOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let table = matrix(b, &noise(5, 70 * 37), 70, 37, self.0);
        let mut batch = PackedBatch::new(32);
        batch.push(&[0, 69, 31, 32, 33, 5, 5], 0, [0].into_iter());
        let mut out = b.buffer(7, 37).unwrap();
        b.embed(&table, &batch, &mut out);
        b.read(&out, 7 * 37)
    }
}

#[test]
fn embedding_gathers_exact_rows() {
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        compare(&format!("embed {dtype}"), 0.0, EmbedOp(dtype));
    }
}

struct NormOp {
    rows: usize,
    width: usize,
    residual: bool,
}

impl Op for NormOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let count = self.rows * self.width;
        let gain = b.vector(&noise(6, self.width));
        let mut x = buffer(b, &noise(7, count));
        let mut out = b.buffer(self.rows, self.width).unwrap();
        if self.residual {
            b.add_rms_norm(&mut x, &buffer(b, &noise(8, count)), (&gain, 1e-6), self.rows, &mut out);
        } else {
            b.rms_norm(&x, &gain, 1e-6, self.rows, &mut out);
        }
        [b.read(&x, count), b.read(&out, count)].concat()
    }
}

#[test]
fn rms_norm_on_odd_widths() {
    for width in [1, 15, 16, 17, 96, 1283] {
        for residual in [false, true] {
            compare(&format!("rms_norm {width}"), 1e-5, NormOp { rows: 5, width, residual });
        }
    }
}

struct ActivationOp {
    width: usize,
    gated: bool,
}

impl Op for ActivationOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let rows = 3;
        let scaled = |seed| noise(seed, rows * 2 * self.width).into_iter().map(|v| v * 30.0).collect::<Vec<_>>();
        let mut input = buffer(b, &scaled(9));
        b.write(&mut input, &[-200.0, 200.0, 0.0][..self.width.min(3)]);
        let mut out = b.buffer(rows, self.width).unwrap();
        if self.gated {
            b.swiglu(&input, self.width, rows, &mut out);
        } else {
            b.silu(&input, self.width, rows, &mut out);
        }
        b.read(&out, rows * self.width)
    }
}

#[test]
fn activations_on_odd_widths() {
    for width in [1, 15, 16, 33, 224] {
        for gated in [false, true] {
            compare(&format!("activation {width}"), 1e-3, ActivationOp { width, gated });
        }
    }
}

/// Two sequences through shuffled blocks in several chunks, then attention of the last chunk's rows.
struct AttentionOp {
    shape: AttentionShape,
    dtype: DType,
    block_size: usize,
    context: usize,
    norm: bool,
}

impl AttentionOp {
    const ROWS: usize = 3;

    fn batch(&self, from: usize, to: usize) -> PackedBatch {
        let blocks = self.context.div_ceil(self.block_size) as u32;
        let mut batch = PackedBatch::new(self.block_size);
        let tokens = vec![0; to - from];
        batch.push(&tokens, from, (0..blocks).rev().collect::<Vec<_>>().into_iter());
        batch.push(&tokens, from, (blocks..2 * blocks).rev().collect::<Vec<_>>().into_iter());
        batch
    }
}

impl Op for AttentionOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let blocks = 2 * self.context.div_ceil(self.block_size);
        let s = self.shape;
        let page =
            PageShape { num_blocks: blocks, block_size: self.block_size, kv_heads: s.kv_heads, head_dim: s.head_dim, dtype: self.dtype };
        let mut pages = b.pages(page).unwrap();
        b.poison(&mut pages, &(0..blocks as u32).collect::<Vec<_>>());
        let (rope, width) = (b.rope(self.context, s.head_dim, 1000.0), s.qkv_width());
        let (q, k) = (b.vector(&noise(10, s.head_dim)), b.vector(&noise(11, s.head_dim)));
        let cut = self.context.saturating_sub(Self::ROWS);
        let mut result = Vec::new();
        for (from, to) in [(0, cut), (cut, self.context)].into_iter().filter(|(from, to)| from < to) {
            let (batch, rows) = (self.batch(from, to), 2 * (to - from));
            let values: Vec<f32> =
                [0, 1].iter().flat_map(|i| noise(12 + i, self.context * width)[from * width..to * width].to_vec()).collect();
            let mut qkv = buffer(b, &values);
            let norm = self.norm.then_some(QkNorm { q: &q, k: &k, eps: 1e-6 });
            b.qk_norm_rope_store(&mut qkv, (s, norm), &rope, &batch, &mut pages);
            let mut out = b.buffer(rows, s.q_heads * s.head_dim).unwrap();
            b.paged_attention(&qkv, s, &batch, &pages, &mut out);
            result = b.read(&out, rows * s.q_heads * s.head_dim);
        }
        result
    }
}

#[test]
fn attention_over_pages() {
    for (kv_heads, group, head_dim) in [(1, 1, 16), (2, 2, 32), (3, 4, 64), (1, 7, 128), (1, 3, 256)] {
        for context in [1, 2, 31, 32, 33, 70] {
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 4e-2), (DType::F16, 4e-3)] {
                let shape = AttentionShape { q_heads: kv_heads * group, kv_heads, head_dim };
                for norm in [false, true] {
                    let op = AttentionOp { shape, dtype, block_size: 32, context, norm };
                    compare(&format!("attention {shape:?} {dtype} {context}"), tolerance, op);
                }
            }
        }
    }
}

#[test]
fn attention_does_not_depend_on_the_block_size() {
    let shape = AttentionShape { q_heads: 4, kv_heads: 2, head_dim: 32 };
    let cpu = CpuBackend::new(2).unwrap();
    let run = |block_size| AttentionOp { shape, dtype: DType::Bf16, block_size, context: 200, norm: true }.run(&cpu);
    let wanted = run(32);
    assert!([64, 96, 256].into_iter().all(|block_size| run(block_size) == wanted));
}

#[test]
fn an_f16_weight_out_of_range_is_an_error() {
    let bytes = bytes_of(&[1.0, 7e4]);
    let data = TensorData::new(DType::F32, 1, 2, &bytes).unwrap();
    let cpu = CpuBackend::new(2).unwrap();
    assert!(matches!(cpu.matrix(&data, DType::F16), Err(OpError::Range { value: 7e4, dtype: DType::F16 })));
    assert!(matches!(ReferenceBackend.matrix(&data, DType::F16), Err(OpError::Range { .. })));
}

#[test]
fn tensor_data_checks_its_length() {
    assert!(TensorData::new(DType::Bf16, 2, 3, &[0; 12]).is_some());
    assert!(TensorData::new(DType::Bf16, 2, 3, &[0; 11]).is_none());
    assert!(TensorData::new(DType::F32, usize::MAX, 2, &[]).is_none());
}
