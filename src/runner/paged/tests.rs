//! The runner on a golden checkpoint: what it refuses, what it scores, and that one sequence's damage stays its own.

use super::{PagedRunner, RunnerOptions, load};
use crate::generation::{SamplingParams, TokenId};
use crate::kv_cache::BlockId;
use crate::model::{ModelFiles, ModelSource};
use crate::ops::cpu::CpuBackend;
use crate::runner::{ModelRunner, RunnerError, ScoreSpec, SequenceOutput, SequenceSlice, StepBatch};
use crate::sampling::{SampleSpec, SamplingError};
use std::path::Path;

const BLOCKS: u32 = 32;

fn runner() -> PagedRunner<CpuBackend> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-hd64-gqa4");
    let files = ModelFiles::open(&ModelSource::Directory(path), None).unwrap();
    let bytes = u64::from(BLOCKS) * 32 * 6 * 2 * 64 * 2;
    let options = RunnerOptions { kv_cache_memory_bytes: Some(bytes), max_num_batched_tokens: 128, threads: 2, ..RunnerOptions::default() };
    let mut runner = load(&files, &options).unwrap().0;
    assert_eq!(runner.limits().num_blocks, BLOCKS as usize);
    runner.poison_new_blocks();
    runner
}

fn blocks(ids: std::ops::Range<u32>) -> Vec<BlockId> {
    ids.map(BlockId).collect()
}

fn spec(params: &SamplingParams) -> SampleSpec<'_> {
    SampleSpec { params, prompt_index: 0, choice_index: 0, position: 0, prompt: &[], output: &[], forbidden: &[], logprobs: Some(1) }
}

fn slice<'a>(tokens: &'a [TokenId], start: usize, table: &'a [BlockId], params: &'a SamplingParams) -> SequenceSlice<'a> {
    SequenceSlice { tokens, start, block_table: table, sample: Some(spec(params)), score: None }
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
