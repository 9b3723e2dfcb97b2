//! Known logits (f64 truth of an independent implementation) and what batching, chunking, threads and instruction sets may not change.

use crate::model::openelm::{Decoder, WeightSource};
use crate::model::{LoadProgress, ModelFiles, ModelSource, Storage, TokenizerSource};
use crate::ops::cpu::{CpuBackend, CpuKernels};
use crate::ops::reference::ReferenceBackend;
use crate::ops::{Backend, BlockFormat, DType, KvType, PackedBatch};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub(super) fn golden_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(super) fn open(name: &str) -> ModelFiles {
    ModelFiles::open(&ModelSource::Directory(golden_dir(name)), TokenizerSource::Model).unwrap()
}

/// One case of a golden file.
pub(super) struct Case {
    pub(super) ids: Vec<u32>,
    logits: Vec<(usize, Vec<f32>)>,
    argmax: Vec<usize>,
    logsumexp: Vec<f64>,
    greedy: Vec<u32>,
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().expect("a list").iter().map(|v| read(v).expect("a number")).collect()
}

pub(super) fn cases(name: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(golden_dir(name).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let id = |v: &Value| v.as_u64().map(|v| v as u32);
    let row = |v: &Value| list(v, |v| v.as_f64().map(|v| v as f32));
    let case = |case: &Value| {
        let ids = list(&case["input_ids"], id);
        let logits = match case["logits"].as_object() {
            Some(rows) => rows.iter().map(|(position, values)| (position.parse().unwrap(), row(values))).collect(),
            None => vec![(ids.len() - 1, row(&case["logits_last"]))],
        };
        Case {
            ids,
            logits,
            argmax: list(&case["argmax_per_position"], |v| v.as_u64().map(|v| v as usize)),
            logsumexp: case.get("logsumexp_per_position").map_or(Vec::new(), |v| list(v, Value::as_f64)),
            greedy: list(&case["greedy_new_tokens"], id),
        }
    };
    golden["cases"].as_array().unwrap().iter().map(case).collect()
}

/// A decoder with pages for several sequences of up to 256 tokens, all of them full of NaN.
pub(super) struct Bench<B: Backend> {
    decoder: Decoder<B>,
    pages: Vec<B::Pages>,
    pub(super) vocab: usize,
}

const BLOCKS: u32 = 16;

impl<B: Backend> Bench<B> {
    /// `weights` and `kv` are how matrices and pages are stored.
    pub(super) fn new(backend: B, files: &ModelFiles, (weights, kv): (impl Into<Storage>, impl Into<KvType>), sequences: usize) -> Self {
        let config = files.config().unwrap();
        let vocab = config.vocab_size;
        let progress = LoadProgress::default();
        let source =
            WeightSource { checkpoint: &files.checkpoint, storage: weights.into(), packed: None, progress: &progress, taken: None };
        let decoder = Decoder::load(backend, config, &source, 512).unwrap();
        let blocks = sequences as u32 * BLOCKS;
        let mut pages = decoder.pages(blocks as usize, 32, kv.into()).unwrap();
        pages.iter_mut().for_each(|p| decoder.backend().poison(p, &(0..blocks).collect::<Vec<_>>()));
        Self { decoder, pages, vocab }
    }

    /// Blocks of a sequence, in an order that is not the obvious one.
    fn table(sequence: usize) -> Vec<u32> {
        let first = sequence as u32 * BLOCKS;
        (0..BLOCKS).map(|i| first + (i * 5 + 3) % BLOCKS).collect()
    }

    /// Logits of all rows of a step over (sequence, tokens, start).
    pub(super) fn step(&mut self, slices: &[(usize, &[u32], usize)]) -> Vec<Vec<f32>> {
        let mut batch = PackedBatch::new(32);
        for &(sequence, tokens, start) in slices {
            batch.push(tokens, start, Self::table(sequence).into_iter());
        }
        let mut ws = self.decoder.workspace(batch.rows()).unwrap();
        self.decoder.forward(&batch, &mut self.pages, &mut ws);
        let rows: Vec<u32> = (0..batch.rows() as u32).collect();
        let mut logits = vec![0.0; rows.len() * self.vocab];
        self.decoder.logits(&mut ws, &rows, &mut logits);
        self.decoder.backend().end_step().unwrap();
        let mut rows = logits.chunks_exact(self.vocab);
        slices.iter().map(|(_, tokens, _)| rows.by_ref().take(tokens.len()).flatten().copied().collect()).collect()
    }
}

/// Logits `[positions, vocab]` of several sequences run side by side, each in chunks of its own size.
pub(super) fn all_logits<B: Backend>(
    backend: B,
    files: &ModelFiles,
    storage: (impl Into<Storage>, impl Into<KvType>),
    sequences: &[(&[u32], usize)],
) -> Vec<Vec<f32>> {
    let mut bench = Bench::new(backend, files, storage, sequences.len());
    let mut done = vec![0; sequences.len()];
    let mut logits = vec![Vec::new(); sequences.len()];
    while (0..sequences.len()).any(|i| done[i] < sequences[i].0.len()) {
        let mut slices = Vec::new();
        for (i, &(ids, chunk)) in sequences.iter().enumerate().filter(|(i, s)| done[*i] < s.0.len()) {
            let end = ids.len().min(done[i] + chunk);
            slices.push((i, &ids[done[i]..end], done[i]));
        }
        for (slice, rows) in slices.iter().zip(bench.step(&slices)) {
            logits[slice.0].extend(rows);
            done[slice.0] += slice.1.len();
        }
    }
    logits
}

pub(super) fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Makes all backends of an arithmetic, with so many threads.
type Variants = fn(usize) -> Vec<CpuBackend>;

/// What a dtype may differ by from the truth.
pub(super) struct Found {
    pub(super) worst: f32,
    pub(super) positions: usize,
    pub(super) agreeing: usize,
}

/// What each of `variants` finds, with its name.
fn measure_all(variants: Variants, name: &str, dtype: DType) -> Vec<(String, Found)> {
    let all = variants(2);
    all.iter().enumerate().map(|(i, cpu)| (cpu.kernels(), measure(|| variants(2).swap_remove(i), name, (dtype, dtype)))).collect()
}

pub(super) fn measure<B: Backend>(backend: impl Fn() -> B, name: &str, (weights, kv): (impl Into<Storage>, impl Into<KvType>)) -> Found {
    let storage: (Storage, KvType) = (weights.into(), kv.into());
    let files = open(name);
    let vocab = files.config().unwrap().vocab_size;
    let mut found = Found { worst: 0.0, positions: 0, agreeing: 0 };
    for case in cases(name) {
        let logits = &all_logits(backend(), &files, storage, &[(&case.ids, case.ids.len())])[0];
        assert!(logits.iter().all(|v| v.is_finite()), "{name}: not a number");
        let rows: Vec<&[f32]> = logits.chunks_exact(vocab).collect();
        for (position, wanted) in &case.logits {
            let worst = rows[*position].iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            found.worst = found.worst.max(worst);
        }
        for (position, row) in rows.iter().enumerate() {
            found.positions += 1;
            found.agreeing += usize::from(argmax(row) == case.argmax[position]);
            let top = f64::from(row[argmax(row)]);
            let sum: f64 = row.iter().map(|&l| (f64::from(l) - top).exp()).sum();
            if let Some(wanted) = case.logsumexp.get(position) {
                found.worst = found.worst.max((top + sum.ln() - wanted).abs() as f32);
            }
        }
    }
    found
}

#[test]
fn f32_logits_equal_the_golden_ones() {
    for name in ["tiny-hd64-gqa4", "tiny-hd32-gqa2", "tiny-hd128-gqa3", "tiny-hd64-gqa4-bf16"] {
        let reference = ("reference".to_owned(), measure(|| ReferenceBackend, name, (DType::F32, DType::F32)));
        for (backend, found) in std::iter::once(reference).chain(measure_all(CpuBackend::portable_variants, name, DType::F32)) {
            println!("{name} {backend}: worst {:.2e}, {} of {} argmax", found.worst, found.agreeing, found.positions);
            assert!(found.worst < 2e-5, "{name} {backend}: logits are off by {}", found.worst);
            assert_eq!(found.agreeing, found.positions, "{name} {backend}");
        }
    }
}

#[test]
fn sixteen_bit_logits_stay_close_to_the_golden_ones() {
    // (model, positions where a bf16 and an f16 run of the original implementation agree with the truth)
    for (name, bf16, f16) in [("tiny-hd64-gqa4", 541, 553), ("tiny-hd32-gqa2", 535, 552)] {
        let (portable, dot): (Variants, Variants) = (CpuBackend::portable_variants, CpuBackend::dot_variants);
        let cases = [(DType::Bf16, portable, 0.4, bf16), (DType::Bf16, dot, 0.4, bf16), (DType::F16, portable, 0.05, f16)];
        for (dtype, variants, limit, agreeing) in cases {
            for (kernels, found) in measure_all(variants, name, dtype) {
                println!("{name} {dtype} {kernels}: worst {:.3}, {} of {} argmax", found.worst, found.agreeing, found.positions);
                assert!(found.worst < limit, "{name} {dtype} {kernels}: logits are off by {}", found.worst);
                assert!(found.agreeing >= agreeing, "{name} {dtype} {kernels}: {} of {}", found.agreeing, found.positions);
            }
        }
    }
}

#[test]
fn logits_of_eight_and_four_bits_stay_near_the_golden_ones() {
    // (model, format, largest error, positions of about 554 that keep their likeliest token)
    let wanted = [
        ("tiny-hd64-gqa4", BlockFormat::Q8_0, 0.8, 480),
        ("tiny-hd32-gqa2", BlockFormat::Q8_0, 0.8, 480),
        ("tiny-hd64-gqa4", BlockFormat::Q4_0, 8.0, 200),
        ("tiny-hd32-gqa2", BlockFormat::Q4_0, 8.0, 200),
    ];
    for (name, format, limit, agreeing) in wanted {
        let storage = Storage { dtype: DType::Bf16, quantization: Some(format), keeps_blocks: true };
        let found = measure(|| CpuBackend::new(CpuKernels::Portable, 2).unwrap(), name, (storage, DType::Bf16));
        println!("{name} {format}: worst {:.3}, {} of {} argmax", found.worst, found.agreeing, found.positions);
        assert!(found.worst < limit && found.agreeing >= agreeing, "{name} {format}: {}, {}", found.worst, found.agreeing);
    }
}

#[test]
fn an_eight_bit_kv_cache_stays_near_the_golden_logits() {
    for (name, limit, agreeing) in [("tiny-hd64-gqa4", 0.2, 540), ("tiny-hd32-gqa2", 0.3, 535)] {
        let found = measure(|| CpuBackend::new(CpuKernels::Portable, 2).unwrap(), name, (DType::F32, KvType::Int8));
        println!("{name}: worst {:.3}, {} of {} argmax", found.worst, found.agreeing, found.positions);
        assert!(found.worst < limit && found.agreeing >= agreeing, "{name}: {}, {}", found.worst, found.agreeing);
    }
}

#[test]
fn greedy_sequences_equal_the_golden_ones() {
    for name in ["tiny-hd64-gqa4", "tiny-hd32-gqa2", "tiny-hd128-gqa3", "tiny-hd64-gqa4-bf16"] {
        let files = open(name);
        for case in cases(name) {
            for cpu in CpuBackend::portable_variants(2) {
                let isa = cpu.isa();
                let mut bench = Bench::new(cpu, &files, (DType::F32, DType::F32), 1);
                let (vocab, mut length) = (bench.vocab, case.ids.len());
                let mut logits = bench.step(&[(0, &case.ids, 0)]).remove(0);
                for &wanted in &case.greedy {
                    let token = argmax(&logits[logits.len() - vocab..]) as u32;
                    assert_eq!(token, wanted, "{name} {isa}, prompt of {}, position {length}", case.ids.len());
                    logits = bench.step(&[(0, &[token], length)]).remove(0);
                    length += 1;
                }
            }
        }
    }
}

/// How many of the golden continuations' tokens a backend finds, each after the golden ones before it, and how many there are.
pub(super) fn greedy_agreement<B: Backend>(backend: impl Fn() -> B, name: &str, dtype: DType) -> (usize, usize) {
    let files = open(name);
    let (mut agreeing, mut all) = (0, 0);
    for case in cases(name) {
        let mut bench = Bench::new(backend(), &files, (dtype, dtype), 1);
        let (vocab, mut length) = (bench.vocab, case.ids.len());
        let mut logits = bench.step(&[(0, &case.ids, 0)]).remove(0);
        for &wanted in &case.greedy {
            agreeing += usize::from(argmax(&logits[logits.len() - vocab..]) as u32 == wanted);
            all += 1;
            logits = bench.step(&[(0, &[wanted], length)]).remove(0);
            length += 1;
        }
    }
    (agreeing, all)
}

/// Bit equality, which `==` on f32 is not (0 and -0, NaN).
pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn bits_do_not_depend_on_batch_chunk_threads_or_instruction_set() {
    let blocks = |dtype, format| Storage { dtype, quantization: Some(format), keeps_blocks: true };
    let (float32, bfloat16, float16) = (DType::F32.into(), DType::Bf16.into(), DType::F16.into());
    let runs: [(&str, Storage, KvType, Variants); 9] = [
        ("tiny-hd64-gqa4", blocks(DType::F32, BlockFormat::Q8_0), float32, CpuBackend::portable_variants),
        ("tiny-hd64-gqa4", blocks(DType::Bf16, BlockFormat::Q4_0), bfloat16, CpuBackend::portable_variants),
        ("tiny-hd32-gqa2", blocks(DType::Bf16, BlockFormat::Q8_0), bfloat16, CpuBackend::dot_variants),
        ("tiny-hd32-gqa2", blocks(DType::Bf16, BlockFormat::Q8_0), KvType::Int8, CpuBackend::portable_variants),
        ("tiny-hd64-gqa4", DType::F32.into(), float32, CpuBackend::portable_variants),
        ("tiny-hd32-gqa2", DType::Bf16.into(), bfloat16, CpuBackend::portable_variants),
        ("tiny-hd32-gqa2", DType::F16.into(), float16, CpuBackend::portable_variants),
        ("tiny-hd64-gqa4", DType::Bf16.into(), bfloat16, CpuBackend::dot_variants),
        ("tiny-hd64-gqa4", DType::Bf16.into(), KvType::Int8, CpuBackend::dot_variants),
    ];
    for (name, weights, kv, variants) in runs {
        let storage = (weights, kv);
        let files = open(name);
        let prompts: Vec<Vec<u32>> = cases(name).into_iter().map(|case| case.ids).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).cycle().take(16).collect();
        let alone: Vec<Vec<u32>> =
            prompts.iter().map(|ids| bits(&all_logits(variants(1).pop().expect("one"), &files, storage, &[(ids, ids.len())])[0])).collect();
        for chunk in [1, 7, 64] {
            for threads in [1, 2, 3] {
                for cpu in variants(threads) {
                    if cpu.isa() == "scalar" && chunk != 64 {
                        continue; // without a hardware FMA in the build target this takes minutes
                    }
                    let what = format!("{name} {weights}, KV cache {kv}, chunk {chunk} {} {threads} threads", cpu.kernels());
                    let sequences: Vec<(&[u32], usize)> = prompts.iter().map(|&ids| (ids, chunk)).collect();
                    for (i, logits) in all_logits(cpu, &files, storage, &sequences).iter().enumerate() {
                        assert!(bits(logits) == alone[i], "{what}: sequence {i} has other bits");
                    }
                }
            }
        }
    }
}
