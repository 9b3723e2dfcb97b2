//! Steps before the first request, on a device with memory of its own: kernels and libraries take theirs when they are first used, so only
//! after that is it known what is left for keys and values.

use super::step::PagedRunner;
use crate::generation::SamplingParams;
use crate::kv_cache::BlockId;
use crate::model::{LoadProgress, LoadStage};
use crate::ops::Backend;
use crate::runner::{ModelRunner, RunnerError, RunnerLimits, SequenceSlice, StepBatch};
use crate::sampling::SampleSpec;

/// Positions of sequences of a step that generates.
const CONTEXT: usize = 1;

/// Runs steps of every size: the largest, and all powers of two below it, of prompts and of single tokens of up to `max_num_seqs` sequences;
/// smaller ones where there are too few blocks.
///
/// # Errors
/// That of a step.
pub(super) fn warm_up<B: Backend>(
    runner: &mut PagedRunner<B>,
    max_model_len: usize,
    max_num_seqs: usize,
    progress: &LoadProgress,
) -> Result<(), RunnerError> {
    let limits = runner.limits();
    progress.begin(LoadStage::FirstSteps, 2 * sizes(limits.max_num_batched_tokens).count() as u64 + 1);
    for rows in sizes(limits.max_num_batched_tokens) {
        step(runner, limits, &prompts(limits, rows, max_model_len))?;
        let sequences = rows.min(limits.num_blocks).min(max_num_seqs);
        step(runner, limits, &vec![(CONTEXT.min(max_model_len - 1), 1); sequences])?;
        progress.add(2);
    }
    // The end of the longest context, which is where contexts are split; twice, since two steps can be on their way.
    let ends: Result<Vec<()>, RunnerError> = (0..2).map(|_| submit(runner, limits, &[(max_model_len - 1, 1)])).collect();
    (0..2).try_for_each(|_| runner.collect().map(drop))?;
    ends.map(|_| progress.add(1))
}

/// Blocks with which no step of [`warm_up`] is smaller than said.
pub(super) fn blocks_of_first_steps(limits: RunnerLimits, max_model_len: usize, max_num_seqs: usize) -> usize {
    let most = limits.max_num_batched_tokens;
    let prompts = most.div_ceil(max_model_len.max(1)) * max_model_len.div_ceil(limits.block_size);
    prompts.max(most.min(max_num_seqs))
}

/// The largest size, and all powers of two below it.
fn sizes(most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(most), |&rows| (rows > 1).then(|| rows.next_power_of_two() / 2))
}

/// Sequences (position of the first row, rows), so many rows together as there are blocks for, all of them new.
fn prompts(limits: RunnerLimits, rows: usize, max_model_len: usize) -> Vec<(usize, usize)> {
    let blocks_each = max_model_len.div_ceil(limits.block_size);
    let rows = rows.min(limits.num_blocks / blocks_each.max(1) * max_model_len);
    (0..rows).step_by(max_model_len.max(1)).map(|first| (0, max_model_len.min(rows - first))).collect()
}

fn step<B: Backend>(runner: &mut PagedRunner<B>, limits: RunnerLimits, sequences: &[(usize, usize)]) -> Result<(), RunnerError> {
    submit(runner, limits, sequences)?;
    runner.collect().map(drop)
}

fn submit<B: Backend>(runner: &mut PagedRunner<B>, limits: RunnerLimits, sequences: &[(usize, usize)]) -> Result<(), RunnerError> {
    // Every way to choose a token is loaded with the first.
    let params = SamplingParams { temperature: 1.0, top_p: 0.9, ..SamplingParams::greedy() };
    let tokens = vec![0; sequences.iter().map(|(_, rows)| *rows).max().unwrap_or(0)];
    let mut first_block = 0;
    let tables: Vec<Vec<BlockId>> = sequences
        .iter()
        .map(|(start, rows)| {
            let blocks = (start + rows).div_ceil(limits.block_size) as u32;
            first_block += blocks;
            (first_block - blocks..first_block).map(BlockId).collect()
        })
        .collect();
    let slices = sequences.iter().zip(&tables).map(|(&(start, rows), table)| SequenceSlice {
        tokens: &tokens[..rows],
        follows: None,
        start,
        block_table: table,
        sample: Some(SampleSpec { logprobs: Some(1), ..SampleSpec::new(&params) }),
        score: None,
    });
    runner.submit(&StepBatch { sequences: slices.collect(), new_blocks: &[] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_comes_once() {
        assert_eq!(sizes(40).collect::<Vec<_>>(), [40, 32, 16, 8, 4, 2, 1]);
        assert_eq!(sizes(4).collect::<Vec<_>>(), [4, 2, 1]);
        assert_eq!(sizes(1).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn blocks_are_enough_for_the_largest_steps() {
        for (rows, positions, sequences) in [(512, 1, 64), (2_048, 1_000, 8), (1, 2_048, 64), (512, 2_048, 256), (100, 33, 3)] {
            let limits = RunnerLimits { num_blocks: 0, block_size: 32, max_num_batched_tokens: rows, vocab_size: 7 };
            let limits = RunnerLimits { num_blocks: blocks_of_first_steps(limits, positions, sequences), ..limits };
            assert!(limits.num_blocks >= sequences.min(rows) && limits.num_blocks >= positions.div_ceil(32), "{limits:?}");
            assert_eq!(prompts(limits, rows, positions).iter().map(|(_, rows)| rows).sum::<usize>(), rows, "{limits:?}");
        }
    }

    #[test]
    fn prompts_fill_the_rows_there_are_blocks_for() {
        let limits = RunnerLimits { num_blocks: 10, block_size: 32, max_num_batched_tokens: 1_000, vocab_size: 7 };
        assert_eq!(prompts(limits, 150, 100), [(0, 100), (0, 50)]);
        assert_eq!(prompts(limits, 1_000, 100), [(0, 100), (0, 100)]);
        assert_eq!(prompts(limits, 1, 100), [(0, 1)]);
    }
}
