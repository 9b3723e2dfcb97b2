//! Sequences in the runner's KV cache, driven without scheduler and engine.

use super::report::{OpShare, Sampling};
use crate::generation::{SamplingParams, TokenId};
use crate::kv_cache::BlockId;
use crate::model::openelm::StepOp;
use crate::runner::{ModelRunner, RunnerLimits, SequenceSlice, StepBatch};
use crate::sampling::SampleSpec;
use anyhow::{Context as _, bail};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Sequences with blocks of their own.
pub(super) struct Sequences<'a> {
    runner: &'a mut dyn ModelRunner,
    limits: RunnerLimits,
    tables: Vec<Vec<BlockId>>,
    /// Tokens of each sequence whose keys and values are in the cache or just being computed.
    texts: Vec<Vec<TokenId>>,
    params: SamplingParams,
    logprobs: Option<u8>,
    /// Steps on their way at most.
    most_submitted: usize,
    /// Time of all steps since the profile was reset.
    steps: Duration,
}

/// What one sequence does in a step: it computes these positions of its text, and may choose the next token.
struct Slice {
    sequence: usize,
    range: Range<usize>,
    is_sampled: bool,
}

impl<'a> Sequences<'a> {
    /// `count` sequences of up to `tokens` tokens. `flags` names what asked for so many.
    pub(super) fn new(runner: &'a mut dyn ModelRunner, count: usize, tokens: usize, flags: &str) -> anyhow::Result<Self> {
        let limits = runner.limits();
        let each = tokens.div_ceil(limits.block_size);
        if each.saturating_mul(count) > limits.num_blocks {
            let (wanted, there) = (each.saturating_mul(count) * limits.block_size, limits.num_blocks * limits.block_size);
            bail!("{flags} need {wanted} tokens of KV cache, there are {there}: lower them, or raise --kv-cache-memory-bytes");
        }
        if count > limits.max_num_batched_tokens {
            bail!("{flags} put {count} tokens into a step, --max-num-batched-tokens allows {}", limits.max_num_batched_tokens);
        }
        let table = |sequence: usize| (sequence * each..(sequence + 1) * each).map(|block| BlockId(block as u32)).collect();
        Ok(Self {
            runner,
            limits,
            tables: (0..count).map(table).collect(),
            texts: vec![Vec::new(); count],
            params: SamplingParams::greedy(),
            logprobs: None,
            most_submitted: 1,
            steps: Duration::ZERO,
        })
    }

    /// The same sequences, which choose their tokens in another way.
    pub(super) fn with_sampling(self, sampling: Sampling) -> Self {
        let Sampling { temperature, top_p, logprobs } = sampling;
        Self { params: SamplingParams { temperature, top_p, ..SamplingParams::greedy() }, logprobs, ..self }
    }

    /// The same sequences, whose next step is sent before the last one's tokens are there, if the runner computes elsewhere.
    pub(super) fn with_async_scheduling(self, is_wanted: bool) -> Self {
        let most_submitted = 1 + usize::from(is_wanted && self.runner.computes_elsewhere());
        Self { most_submitted, ..self }
    }

    /// Forgets where the time of the steps went.
    pub(super) fn reset_profile(&mut self) {
        if let Some(profile) = self.runner.step_profile() {
            profile.reset();
        }
        self.steps = Duration::ZERO;
    }

    /// Where the time of the steps went since; empty for a runner that does not tell.
    pub(super) fn profile(&mut self) -> Vec<OpShare> {
        let steps = self.steps;
        let Some(profile) = self.runner.step_profile().filter(|_| !steps.is_zero()) else { return Vec::new() };
        let share = |name: &str, time: Duration| OpShare { operation: name.to_owned(), share: time.as_secs_f64() / steps.as_secs_f64() };
        let operations = StepOp::ALL.map(|op| share(op.name(), profile.time(op)));
        let rest = share("packing the batch, outputs", steps.saturating_sub(profile.total()));
        operations.into_iter().chain([rest]).collect()
    }

    /// Most tokens of a step.
    pub(super) fn step_tokens(&self) -> usize {
        self.limits.max_num_batched_tokens
    }

    /// Logits in a row.
    pub(super) fn vocabulary(&self) -> usize {
        self.limits.vocab_size
    }

    /// Computes positions `range` of the prompt of `sequence` in as few steps as there may be, with logits of the last one alone.
    pub(super) fn prefill(&mut self, sequence: usize, range: Range<usize>) -> anyhow::Result<()> {
        let vocabulary = self.limits.vocab_size;
        let text = &mut self.texts[sequence];
        text.truncate(range.start);
        text.extend(range.clone().map(|position| token(sequence as u64, position as u64, vocabulary)));
        for start in range.clone().step_by(self.limits.max_num_batched_tokens) {
            let end = range.end.min(start + self.limits.max_num_batched_tokens);
            self.step(&[Slice { sequence, range: start..end, is_sampled: end == range.end }])?;
        }
        Ok(())
    }

    /// `steps` tokens of each of the first `tokens.len()` sequences, from `position` on, where `tokens` are; the last ones chosen.
    pub(super) fn decode(&mut self, mut tokens: Vec<TokenId>, position: usize, steps: usize) -> anyhow::Result<Vec<TokenId>> {
        let mut submitted = 0;
        for position in position..position + steps {
            // An awaited one is written when it has come.
            self.write(&tokens, position);
            let slice = |sequence| Slice { sequence, range: position..position + 1, is_sampled: true };
            let slices: Vec<Slice> = (0..tokens.len()).map(slice).collect();
            self.submit(&slices, submitted > 0)?;
            submitted += 1;
            if submitted == self.most_submitted {
                tokens = self.collect()?;
                submitted -= 1;
                if submitted > 0 {
                    self.write(&tokens, position);
                }
            }
        }
        for _ in 0..submitted {
            tokens = self.collect()?;
        }
        Ok(tokens)
    }

    /// Makes `tokens` the last ones of the first sequences, at `position`.
    fn write(&mut self, tokens: &[TokenId], position: usize) {
        for (text, token) in self.texts.iter_mut().zip(tokens) {
            text.truncate(position);
            text.push(*token);
        }
    }

    /// One step; the chosen tokens of the slices that were sampled.
    fn step(&mut self, slices: &[Slice]) -> anyhow::Result<Vec<TokenId>> {
        self.submit(slices, false)?;
        self.collect()
    }

    /// Sends a step, whose slices follow those of the step before if they are to.
    fn submit(&mut self, slices: &[Slice], is_awaited: bool) -> anyhow::Result<()> {
        let (params, logprobs, tables, texts) = (&self.params, self.logprobs, &self.tables, &self.texts);
        let sequences = slices.iter().enumerate().map(|(index, Slice { sequence, range, is_sampled })| {
            let (text, position) = (&texts[*sequence][..range.end], range.end as u32);
            let prompt = &text[..range.end - usize::from(is_awaited)];
            let spec = SampleSpec { position, prompt, logprobs, ..SampleSpec::new(params) };
            SequenceSlice {
                tokens: &text[range.start..],
                follows: is_awaited.then_some(index),
                start: range.start,
                block_table: &tables[*sequence],
                sample: is_sampled.then_some(spec),
                score: None,
            }
        });
        let batch = StepBatch { sequences: sequences.collect(), new_blocks: &[] };
        let started = Instant::now();
        self.runner.submit(&batch)?;
        self.steps += started.elapsed();
        Ok(())
    }

    /// The chosen tokens of the oldest step that was sent.
    fn collect(&mut self) -> anyhow::Result<Vec<TokenId>> {
        let started = Instant::now();
        let outputs = self.runner.collect()?;
        self.steps += started.elapsed();
        let sampled = outputs.into_iter().filter_map(|output| output.sampled);
        let tokens = sampled.map(|sampled| sampled.map(|sampled| sampled.token)).collect::<Result<_, _>>();
        tokens.context("the model gives no number; another --dtype may help")
    }
}

/// A token of text `text`, which depends on nothing but the numbers: texts differ from the beginning on, and no two tokens follow a pattern.
pub(super) fn token(text: u64, position: u64, vocabulary: usize) -> TokenId {
    // The mixing function of SplitMix64.
    let mut z = (text << 32 ^ position).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) % vocabulary.max(1) as u64) as TokenId
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::fake::FakeRunner;

    const LIMITS: RunnerLimits = RunnerLimits { num_blocks: 8, block_size: 4, max_num_batched_tokens: 6, vocab_size: 50 };

    #[test]
    fn every_position_is_written_before_it_is_read() {
        // The runner panics where a position is read that its sequence has not written.
        let (mut runner, control) = FakeRunner::new(LIMITS);
        let mut sequences = Sequences::new(&mut runner, 2, 13, "--batch and --context").expect("they fit");
        sequences.prefill(0, 0..8).expect("computed");
        sequences.prefill(1, 0..8).expect("computed");
        for _ in 0..2 {
            sequences.decode(vec![1, 2], 8, 2).expect("computed");
        }
        sequences.prefill(1, 8..12).expect("computed");
        let prompts = [vec![(0, 6)], vec![(6, 2)], vec![(0, 6)], vec![(6, 2)]];
        let steps = [8, 9, 8, 9].map(|position| vec![(position, 1), (position, 1)]);
        assert_eq!(control.log(), [&prompts[..], &steps, &[vec![(8, 4)]]].concat());
    }

    #[test]
    fn what_does_not_fit_names_the_flags() {
        let (mut runner, _) = FakeRunner::new(LIMITS);
        let error = |runner: &mut FakeRunner, count, tokens| {
            Sequences::new(runner, count, tokens, "--batch 9").map(|_| ()).expect_err("too much").to_string()
        };
        let text = error(&mut runner, 3, 12);
        assert!(
            text.starts_with("--batch 9 need 36 tokens of KV cache, there are 32") && text.contains("--kv-cache-memory-bytes"),
            "{text}"
        );
        assert!(error(&mut runner, 7, 1).contains("--max-num-batched-tokens allows 6"));
    }

    #[test]
    fn tokens_are_in_the_vocabulary_and_differ() {
        let of = |text| (0..64).map(|position| token(text, position, 3072)).collect::<Vec<_>>();
        assert!(of(0).iter().chain(&of(1)).all(|token| *token < 3072));
        assert_ne!(of(0), of(1));
        assert_eq!(of(7), of(7));
        let distinct: std::collections::BTreeSet<_> = of(0).into_iter().collect();
        assert!(distinct.len() > 56, "{}", distinct.len());
    }
}
