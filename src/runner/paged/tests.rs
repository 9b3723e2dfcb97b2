//! The runner on a golden checkpoint: what it refuses, what it scores, and that one sequence's damage stays its own.

mod gpu;
mod gpu_ahead;
mod gpu_choose;

use super::load::load_on;
use super::{ModelInfo, PagedRunner, RunnerOptions, WeightOptions, load};
use crate::generation::{SamplingParams, TokenId};
use crate::kv_cache::BlockId;
use crate::model::{LoadProgress, ModelFiles, ModelSource, TokenizerSource};
use crate::ops::DType;
use crate::ops::cpu::CpuBackend;
use crate::runner::{ModelRunner, RunnerError, ScoreSpec, SequenceOutput, SequenceSlice, StepBatch};
use crate::sampling::{SampleSpec, SamplingError};
use std::path::Path;

const BLOCKS: u32 = 32;

fn files() -> ModelFiles {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-hd64-gqa4");
    ModelFiles::open(&ModelSource::Directory(path), TokenizerSource::Model).unwrap()
}

fn options() -> RunnerOptions {
    let bytes = u64::from(BLOCKS) * 32 * 6 * 2 * 64 * 2;
    RunnerOptions { kv_cache_memory_bytes: Some(bytes), max_num_batched_tokens: 128, threads: 2, ..RunnerOptions::default() }
}

fn runner() -> PagedRunner<CpuBackend> {
    let mut runner = load(&files(), &options()).unwrap().0;
    assert_eq!(runner.limits().num_blocks, BLOCKS as usize);
    runner.poison_new_blocks();
    runner
}

fn blocks(ids: std::ops::Range<u32>) -> Vec<BlockId> {
    ids.map(BlockId).collect()
}

fn spec(params: &SamplingParams) -> SampleSpec<'_> {
    SampleSpec { logprobs: Some(1), ..SampleSpec::new(params) }
}

fn slice<'a>(tokens: &'a [TokenId], start: usize, table: &'a [BlockId], params: &'a SamplingParams) -> SequenceSlice<'a> {
    SequenceSlice { tokens, follows: None, start, block_table: table, sample: Some(spec(params)), score: None }
}

fn step(
    runner: &mut PagedRunner<CpuBackend>,
    sequences: Vec<SequenceSlice<'_>>,
    new: &[BlockId],
) -> Result<Vec<SequenceOutput>, RunnerError> {
    runner.step(&StepBatch { sequences, new_blocks: new })
}

#[test]
fn a_batch_that_breaks_a_limit_is_an_error_and_the_next_one_runs() {
    let (mut runner, params) = (runner(), SamplingParams::greedy());
    let (good, short, foreign) = (blocks(0..4), blocks(0..1), blocks(31..35));
    let long = vec![1; 129];
    let five = blocks(0..5);
    let scored = ScoreSpec { targets: &[1, 2], top_n: 0 };
    let bad = [
        (slice(&[], 0, &good, &params), "no tokens"),
        (slice(&[384], 0, &good, &params), "outside the vocabulary"),
        (slice(&[1; 33], 0, &short, &params), "do not cover 33 positions"),
        (slice(&[1; 97], 0, &foreign, &params), "block 32 of 32"),
        (slice(&long, 0, &five, &params), "129 rows"),
        (SequenceSlice { score: Some(scored), ..slice(&[1], 0, &good, &params) }, "2 targets"),
    ];
    for (sequence, part) in bad {
        let error = step(&mut runner, vec![sequence], &[]).unwrap_err();
        assert!(matches!(&error, RunnerError::Step(detail) if detail.contains(part)), "{part}: {error}");
        let outputs = step(&mut runner, vec![slice(&[1, 2, 3], 0, &good, &params)], &good).unwrap();
        assert!(matches!(outputs[0].sampled, Some(Ok(_))));
    }
    let twice = vec![slice(&[1, 2], 0, &good, &params), slice(&[3], 1, &good, &params)];
    let error = step(&mut runner, twice, &[]).unwrap_err().to_string();
    assert!(error.contains("two rows for slot 1 of block 0"), "{error}");
    assert_eq!(step(&mut runner, Vec::new(), &[]).unwrap(), []);
}

#[test]
fn a_sequence_without_sample_or_score_only_fills_its_pages() {
    let (mut runner, params, table) = (runner(), SamplingParams::greedy(), blocks(0..2));
    let fill = SequenceSlice { sample: None, ..slice(&[5; 40], 0, &table, &params) };
    assert_eq!(step(&mut runner, vec![fill], &table).unwrap(), [SequenceOutput::default()]);
    let outputs = step(&mut runner, vec![slice(&[6], 40, &table, &params)], &[]).unwrap();
    assert!(matches!(outputs[0].sampled, Some(Ok(_))));
}

/// More rows to score than are held at once; each equals the log-probability that sampling reports for that token.
#[test]
fn prompt_scores_are_the_log_probabilities_of_the_next_tokens() {
    let (mut runner, params, table) = (runner(), SamplingParams::greedy(), blocks(0..4));
    let prompt: Vec<TokenId> = (0..100).map(|i| 1 + i * 3 % 380).collect();
    let score = ScoreSpec { targets: &prompt[1..], top_n: 2 };
    let scored = SequenceSlice { score: Some(score), ..slice(&prompt, 0, &table, &params) };
    let scores = step(&mut runner, vec![scored], &table).unwrap().remove(0).scores;
    assert_eq!(scores.len(), 99);
    for cut in [1, 31, 32, 33, 99] {
        let outputs = step(&mut runner, vec![slice(&prompt[..cut], 0, &table, &params)], &table).unwrap();
        let sampled = outputs[0].sampled.clone().unwrap().unwrap();
        assert_eq!(scores[cut - 1].chosen.token, prompt[cut]);
        assert_eq!(scores[cut - 1].top[0], sampled.logprobs.unwrap().chosen, "the most likely token after {cut}");
    }
}

#[test]
fn logits_that_are_not_finite_fail_their_own_sequence_alone() {
    let (mut runner, params) = (runner(), SamplingParams::greedy());
    let (damaged, healthy) = (blocks(0..1), blocks(1..2));
    let alone = step(&mut runner, vec![slice(&[1, 2, 3], 0, &healthy, &params)], &healthy).unwrap();
    // Position 3 of a sequence whose positions 0..3 were never written: the pages hold NaN there.
    let target = ScoreSpec { targets: &[7], top_n: 0 };
    let sequences =
        vec![SequenceSlice { score: Some(target), ..slice(&[4, 5], 3, &damaged, &params) }, slice(&[1, 2, 3], 0, &healthy, &params)];
    let outputs = step(&mut runner, sequences, &blocks(0..2)).unwrap();
    assert!(matches!(outputs[0].sampled, Some(Err(SamplingError::NonFinite { .. }))), "{:?}", outputs[0]);
    assert!(outputs[0].scores.is_empty(), "a row that is not finite has no score");
    assert_eq!(outputs[1], alone[0]);
}

fn dtype_of(dtype: DType) -> WeightOptions {
    WeightOptions { dtype: Some(dtype), quantization: None, keeps_blocks: true }
}

fn loaded(backend: CpuBackend, dtype: DType) -> (PagedRunner<CpuBackend>, ModelInfo) {
    let options = RunnerOptions { weights: dtype_of(dtype), ..options() };
    let loaded = load_on(backend, String::new(), &files(), &options, &LoadProgress::default()).unwrap();
    (loaded.runner, loaded.info)
}

/// Equal fingerprints promise equal answers, so they are those of the arithmetic and not of the instruction set.
#[test]
fn fingerprints_tell_arithmetics_apart_and_instruction_sets_not() {
    let fingerprints = |variants: Vec<CpuBackend>, dtype| {
        let found = variants.into_iter().map(|cpu| loaded(cpu, dtype).1.fingerprint);
        let mut found: Vec<String> = found.collect();
        found.dedup();
        found
    };
    for (dtype, is_same) in [(DType::Bf16, false), (DType::F16, true)] {
        let [portable] = fingerprints(CpuBackend::portable_variants(1), dtype).try_into().unwrap();
        let [dot] = fingerprints(CpuBackend::dot_variants(1), dtype).try_into().unwrap();
        // The instruction takes nothing but bf16.
        assert_eq!(portable == dot, is_same, "{dtype}");
    }
}

#[test]
fn the_arithmetic_of_products_is_that_of_the_matrices() {
    let dot = || CpuBackend::dot_variants(1).remove(0);
    let products = |backend, dtype| loaded(backend, dtype).1.product_arithmetic;
    assert_eq!(products(CpuBackend::portable_variants(1).remove(0), DType::Bf16), "cpu-f32fma");
    assert_eq!([DType::Bf16, DType::F16].map(|dtype| products(dot(), dtype)), ["cpu-bf16dot", "cpu-f32fma"]);
    let keys_alone = RunnerOptions { weights: dtype_of(DType::F32), kv_cache_dtype: Some(DType::Bf16.into()), ..options() };
    let info = load_on(dot(), String::new(), &files(), &keys_alone, &LoadProgress::default()).unwrap().info;
    assert_eq!(info.product_arithmetic, "cpu-f32fma", "keys and values are no matrices");
}

/// Tokens and log-probabilities, in every instruction set of either arithmetic: alone, and in a batch with others in chunks.
#[test]
fn outputs_are_the_same_in_every_instruction_set() {
    let (params, tables) = (SamplingParams::greedy(), [blocks(0..4), blocks(4..8), blocks(8..12)]);
    let prompt = |i: u32| -> Vec<TokenId> { (0..[70, 33, 5][i as usize]).map(|p| 1 + (p * 7 + i * 31) % 380).collect() };
    let prompts = [0, 1, 2].map(prompt);
    let whole = |i: usize| slice(&prompts[i], 0, &tables[i], &params);
    for variants in [CpuBackend::portable_variants, CpuBackend::dot_variants] {
        let mut first: Option<Vec<SequenceOutput>> = None;
        for cpu in variants(2) {
            let isa = cpu.isa();
            let mut runner = loaded(cpu, DType::Bf16).0;
            runner.poison_new_blocks();
            let mut alone = Vec::new();
            for (i, table) in tables.iter().enumerate() {
                alone.extend(step(&mut runner, vec![whole(i)], table).unwrap());
            }
            let filled = (0..2).map(|i| SequenceSlice { sample: None, ..slice(&prompts[i][..7], 0, &tables[i], &params) });
            step(&mut runner, filled.collect(), &tables.concat()).unwrap();
            let rest = |i: usize| slice(&prompts[i][7..], 7, &tables[i], &params);
            let batch = step(&mut runner, vec![rest(0), rest(1), whole(2)], &[]).unwrap();
            assert!(batch == alone, "{isa}: in a batch and alone");
            assert!(*first.get_or_insert_with(|| batch.clone()) == batch, "{isa}: other outputs than the first instruction set");
        }
    }
}
