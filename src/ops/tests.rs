//! Every operation of the CPU backend, in every instruction set and with several threads, beside the reference, on odd shapes; and the bits
//! of a row whatever else is computed with it.

mod gpu;
mod products;

use super::cpu::{CpuBackend, CpuKernels};
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

fn matrix<B: Backend>(backend: &B, values: &[f32], rows: usize, cols: usize, stored: impl Into<WeightType>) -> B::Matrix {
    let bytes = bytes_of(values);
    backend.matrix(&TensorData::new(DType::F32, rows, cols, &bytes).unwrap(), MatrixRows::Plain, stored.into()).unwrap()
}

fn buffer<B: Backend>(backend: &B, values: &[f32]) -> B::Buffer {
    let mut buffer = backend.buffer(1, values.len()).unwrap();
    backend.write(&mut buffer, values);
    buffer
}

/// What a result may differ by from the reference: in the portable arithmetic, and in that of `vdpbf16ps`, which rounds activations to
/// bf16.
#[derive(Clone, Copy)]
struct Tolerance(f32, f32);

/// Makes all backends of an arithmetic, with so many threads.
type Variants = fn(usize) -> Vec<CpuBackend>;

/// Runs `op` on the reference and on every CPU variant with 1 and 3 threads: all results of an arithmetic must have the same bits, and lie
/// within the tolerance of the reference.
fn compare(what: &str, tolerance: Tolerance, op: impl Op) {
    let wanted = op.run(&ReferenceBackend);
    let arithmetics: [(Variants, f32); 2] = [(CpuBackend::portable_variants, tolerance.0), (CpuBackend::dot_variants, tolerance.1)];
    for (variants, tolerance) in arithmetics {
        let mut first: Option<Vec<f32>> = None;
        for cpu in [1, 3].into_iter().flat_map(variants) {
            let what = format!("{what}, {} with {} threads", cpu.kernels(), cpu.threads());
            let found = op.run(&cpu);
            assert_eq!(found.len(), wanted.len());
            assert!(found.iter().all(|v| v.is_finite()), "{what}: not a number");
            let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance, "{what}: differs from the reference by {worst}");
            let first = first.get_or_insert_with(|| found.clone());
            let same = first.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{what}: has other bits");
        }
    }
}

/// What a step of so many rows needs, with a context of so many positions.
fn needs(rows: usize, positions: usize) -> StepNeeds {
    StepNeeds { rows, positions, attention: Vec::new(), widest_product: 0, vocabulary: 0 }
}

/// An operation on any backend.
trait Op {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32>;
}

const SCALARS: [WeightType; 3] = [WeightType::Scalar(DType::F32), WeightType::Scalar(DType::Bf16), WeightType::Scalar(DType::F16)];
const BLOCKS: [WeightType; 3] =
    [WeightType::Blocks(BlockFormat::Q8_0), WeightType::Blocks(BlockFormat::Q4_0), WeightType::Blocks(BlockFormat::Q4_1)];

struct EmbedOp(WeightType);

impl Op for EmbedOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let width = if matches!(self.0, WeightType::Blocks(_)) { 64 } else { 37 };
        let table = matrix(b, &noise(5, 70 * width), 70, width, self.0);
        let mut batch = PackedBatch::new(32);
        batch.push(&[0, 69, 31, 32, 33, 5, 5], 0, [0].into_iter());
        b.reserve(&needs(7, 32)).unwrap();
        b.begin_step(&batch);
        let mut out = b.buffer(7, width).unwrap();
        b.embed(&table, &batch, &mut out);
        b.read(&out, 7 * width)
    }
}

#[test]
fn embedding_gathers_exact_rows() {
    for stored in SCALARS.into_iter().chain(BLOCKS) {
        compare(&format!("embed {stored}"), Tolerance(0.0, 0.0), EmbedOp(stored));
    }
}

struct NormOp {
    rows: usize,
    width: usize,
    weights: WeightType,
}

impl Op for NormOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let gain = b.vector(&noise(6, self.width)).unwrap();
        let mut x = b.buffer(self.rows, self.width).unwrap();
        b.write(&mut x, &noise(7, self.rows * self.width));
        let mut out = b.operand(self.rows, self.width, &[self.weights]).unwrap();
        b.rms_norm(&x, (&gain, 1e-6), self.rows, (&mut out, self.weights));
        b.read_operand(&out, self.rows, self.width)
    }
}

#[test]
fn rms_norm_on_odd_widths() {
    for width in [1, 15, 16, 17, 96, 1283] {
        for rows in [1, 5, 17] {
            compare(&format!("rms_norm {width}"), Tolerance(1e-5, 8e-3), NormOp { rows, width, weights: SCALARS[1] });
        }
    }
    for width in [32, 96, 1280] {
        for (rows, weights) in [(1, BLOCKS[0]), (5, BLOCKS[1]), (17, BLOCKS[2])] {
            // A 127th of the largest of 32, halved.
            compare(&format!("rms_norm {width} in bytes"), Tolerance(1.2e-2, 1.2e-2), NormOp { rows, width, weights });
        }
    }
}

/// Weights stored so.
struct SiluOp(WeightType);

impl Op for SiluOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        // One input of 1: the sums are the weights.
        let values: Vec<f32> = noise(9, 224).into_iter().map(|v| v * 30.0).chain([-200.0, 200.0, 0.0, -88.0]).collect();
        let numbers = self.0;
        let weight = matrix(b, &values, values.len(), 1, numbers);
        b.reserve(&StepNeeds { widest_product: values.len(), ..needs(1, 1) }).unwrap();
        let mut x = b.operand(1, 1, &[numbers]).unwrap();
        b.write_operand((&mut x, numbers), 1, &[1.0]);
        let mut out = b.operand(1, values.len(), &[numbers]).unwrap();
        b.linear_silu(&weight, &x, 1, (&mut out, numbers));
        b.read_operand(&out, 1, values.len())
    }
}

#[test]
fn silu_over_its_range() {
    compare("silu", Tolerance(1e-5, 1e-5), SiluOp(SCALARS[0]));
}

/// Two sequences of different lengths through shuffled blocks in several chunks, then attention of the last chunks' rows.
struct AttentionOp {
    shape: AttentionShape,
    stored: KvType,
    block_size: usize,
    /// Of the longer one.
    context: usize,
    norm: bool,
}

impl AttentionOp {
    const ROWS: usize = 3;

    /// Positions that a step computes, of each sequence: all but the last rows, then these.
    fn steps(&self) -> [[std::ops::Range<usize>; 2]; 2] {
        let lengths = [self.context, (self.context * 2 / 3 + 1).min(self.context)];
        let cut = |length: usize| length.saturating_sub(Self::ROWS);
        [lengths.map(|length| 0..cut(length)), lengths.map(|length| cut(length)..length)]
    }

    fn batch(&self, step: &[std::ops::Range<usize>; 2]) -> PackedBatch {
        let blocks = self.context.div_ceil(self.block_size) as u32;
        let mut batch = PackedBatch::new(self.block_size);
        for (positions, first) in step.iter().zip([0, blocks]).filter(|(positions, _)| !positions.is_empty()) {
            batch.push(&vec![0; positions.len()], positions.start, (first..first + blocks).rev().collect::<Vec<_>>().into_iter());
        }
        batch
    }
}

impl Op for AttentionOp {
    fn run<B: Backend>(&self, b: &B) -> Vec<f32> {
        let blocks = 2 * self.context.div_ceil(self.block_size);
        let s = self.shape;
        let page =
            PageShape { num_blocks: blocks, block_size: self.block_size, kv_heads: s.kv_heads, head_dim: s.head_dim, stored: self.stored };
        let mut pages = b.pages(page).unwrap();
        b.poison(&mut pages, &(0..blocks as u32).collect::<Vec<_>>());
        let (rope, width) = (b.rope(self.context, s.head_dim, 1000.0).unwrap(), s.qkv_width());
        let (q, k) = (b.vector(&noise(10, s.head_dim)).unwrap(), b.vector(&noise(11, s.head_dim)).unwrap());
        let values = [12, 13].map(|seed| noise(seed, self.context * width));
        let mut result = Vec::new();
        for step in self.steps() {
            let batch = self.batch(&step);
            let rows = batch.rows();
            if rows == 0 {
                continue;
            }
            let part = |(values, at): (&Vec<f32>, &std::ops::Range<usize>)| values[at.start * width..at.end * width].to_vec();
            let values: Vec<f32> = values.iter().zip(&step).flat_map(part).collect();
            let mut qkv = b.buffer(rows, width).unwrap();
            b.write(&mut qkv, &values);
            let norm = self.norm.then_some(QkNorm { q: &q, k: &k, eps: 1e-6 });
            b.reserve(&StepNeeds { attention: vec![s], ..needs(rows, self.context) }).unwrap();
            b.begin_step(&batch);
            b.qk_norm_rope_store(&mut qkv, (s, norm), &rope, &batch, &mut pages);
            let mut out = b.operand(rows, s.q_heads * s.head_dim, &[DType::F32.into()]).unwrap();
            b.paged_attention(&qkv, s, &batch, &pages, (&mut out, DType::F32.into()));
            result = b.read_operand(&out, rows, s.q_heads * s.head_dim);
        }
        result
    }
}

#[test]
fn attention_over_pages() {
    for (kv_heads, group, head_dim) in [(1, 1, 16), (2, 2, 32), (3, 4, 64), (1, 7, 128), (1, 3, 256), (2, 5, 48), (1, 4, 80), (1, 2, 112)] {
        for context in [1, 2, 31, 32, 33, 70] {
            let numbers = [(DType::F32, 1e-5), (DType::Bf16, 4e-2), (DType::F16, 4e-3)].map(|(dtype, tolerance)| (dtype.into(), tolerance));
            for (stored, tolerance) in numbers.into_iter().chain([(KvType::Int8, 1e-2)]) {
                let shape = AttentionShape { q_heads: kv_heads * group, kv_heads, head_dim };
                for norm in [false, true] {
                    let op = AttentionOp { shape, stored, block_size: 32, context, norm };
                    compare(&format!("attention {shape:?} {stored} {context}"), Tolerance(tolerance, tolerance), op);
                }
            }
        }
    }
}

/// Attention over one position gives its value back: what the pages keep of the value of each of `rows` sequences of one token.
fn values_kept(cpu: &CpuBackend, values: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let (rows, head_dim) = (values.len(), values[0].len());
    let shape = AttentionShape { q_heads: 1, kv_heads: 1, head_dim };
    let page = PageShape { num_blocks: rows, block_size: 32, kv_heads: 1, head_dim, stored: KvType::Int8 };
    let mut pages = cpu.pages(page).unwrap();
    cpu.poison(&mut pages, &(0..rows as u32).collect::<Vec<_>>());
    let mut batch = PackedBatch::new(32);
    (0..rows as u32).for_each(|block| batch.push(&[0], 0, [block].into_iter()));
    let row = |value: &Vec<f32>| [noise(1, 2 * head_dim), value.clone()].concat();
    let mut qkv = buffer(cpu, &values.iter().flat_map(row).collect::<Vec<f32>>());
    cpu.qk_norm_rope_store(&mut qkv, (shape, None), &cpu.rope(1, head_dim, 1000.0).unwrap(), &batch, &mut pages);
    let mut out = cpu.operand(rows, head_dim, &[DType::F32.into()]).unwrap();
    cpu.paged_attention(&qkv, shape, &batch, &pages, (&mut out, DType::F32.into()));
    cpu.read_operand(&out, rows, head_dim).chunks_exact(head_dim).map(<[f32]>::to_vec).collect()
}

#[test]
fn eight_bits_keep_a_value_to_half_a_step() {
    for cpu in CpuBackend::portable_variants(2) {
        let values: Vec<Vec<f32>> =
            (0..9).map(|i| noise(20 + i, 80).into_iter().map(|v| v * 10f32.powi(4 * i as i32 - 16)).collect()).collect();
        for (found, wanted) in values_kept(&cpu, &values).iter().zip(&values) {
            let largest = wanted.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
            let half_a_step = largest / 254.0 * 1.0001;
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= half_a_step), "{largest} on {}", cpu.kernels());
        }
    }
}

#[test]
fn eight_bits_do_not_hide_what_is_not_a_number_and_leave_other_rows_alone() {
    for cpu in CpuBackend::portable_variants(2) {
        let clean = vec![noise(3, 32); 8];
        let wanted = values_kept(&cpu, &clean);
        let mut values = clean;
        for (row, bad) in [(1, f32::NAN), (3, f32::INFINITY), (5, f32::NEG_INFINITY)] {
            values[row][7 * row - 6] = bad;
        }
        (values[0], values[4]) = (vec![0.0; 32], vec![1e-36; 32]);
        values[6][31] = 3e38;
        for (row, found) in values_kept(&cpu, &values).into_iter().enumerate() {
            let is_right = match row {
                0 | 4 => found.iter().all(|&v| v == 0.0),
                1 | 3 | 5 => found.iter().all(|v| v.is_nan()),
                6 => found[31] == 3e38 / 127.0 * 127.0 && found[..31].iter().all(|&v| v == 0.0),
                _ => found == wanted[row],
            };
            assert!(is_right, "row {row} on {}: {found:?}", cpu.kernels());
        }
    }
}

#[test]
fn attention_does_not_depend_on_the_block_size() {
    let shape = AttentionShape { q_heads: 4, kv_heads: 2, head_dim: 32 };
    for cpu in CpuBackend::portable_variants(2).into_iter().chain(CpuBackend::dot_variants(2)) {
        for stored in [DType::Bf16.into(), KvType::Int8] {
            let run = |block_size| AttentionOp { shape, stored, block_size, context: 200, norm: true }.run(&cpu);
            let wanted = run(32);
            assert!([64, 96, 256].into_iter().all(|block_size| run(block_size) == wanted), "{} {stored}", cpu.kernels());
        }
    }
}

#[test]
fn an_f16_weight_out_of_range_is_an_error() {
    let bytes = bytes_of(&[1.0, 7e4]);
    let data = TensorData::new(DType::F32, 1, 2, &bytes).unwrap();
    let cpu = CpuBackend::new(CpuKernels::Portable, 2).unwrap();
    let stored = DType::F16.into();
    assert!(matches!(cpu.matrix(&data, MatrixRows::Plain, stored), Err(OpError::Range { value: 7e4, .. })));
    assert!(matches!(ReferenceBackend.matrix(&data, MatrixRows::Plain, stored), Err(OpError::Range { .. })));
}

#[test]
fn tensor_data_checks_its_length() {
    assert!(TensorData::new(DType::Bf16, 2, 3, &[0; 12]).is_some());
    assert!(TensorData::new(DType::Bf16, 2, 3, &[0; 11]).is_none());
    assert!(TensorData::new(DType::F32, usize::MAX, 2, &[]).is_none());
}
