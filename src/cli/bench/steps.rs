//! Prefill and decode without HTTP: steps of the runner alone, each round beside a round of the limits.

use super::meter::Meter;
use super::report::{Decode, Instruction, Prefill};
use super::sequences::{Sequences, token};
use super::statistics::Summary;
use super::work::Work;
use crate::generation::TokenId;
use crate::ops::cpu::limits::LimitRound;
use crate::runner::ModelRunner;
use anyhow::Context as _;
use std::time::{Duration, Instant};

/// Steps of decode between two looks at the clock; a round begins each of these runs at the same position.
pub(super) const DECODE_STEPS: usize = 16;

/// How long a round of decode takes at least: on a small model sixteen steps are a moment.
const LEAST_ROUND: Duration = Duration::from_millis(100);

/// What every measurement of steps needs.
pub(super) struct Bench<'a> {
    /// The model.
    pub(super) runner: &'a mut dyn ModelRunner,
    /// The limits.
    pub(super) meter: &'a mut Meter,
    /// What a step costs.
    pub(super) work: Work,
    /// What computes.
    pub(super) instruction: Instruction,
    /// Rounds of each measurement.
    pub(super) rounds: usize,
}

/// One round: the time of one step (or prompt), and the limits just before.
struct Round {
    seconds: f64,
    limits: LimitRound,
}

impl Bench<'_> {
    /// A prompt of `length` tokens.
    pub(super) fn prefill(&mut self, length: usize) -> anyhow::Result<Prefill> {
        let mut sequences = Sequences::new(&mut *self.runner, 1, length, &format!("--prefill {length}"))?;
        sequences.prefill(0, 0..length)?;
        sequences.reset_profile();
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            let limits = self.meter.round();
            let started = Instant::now();
            sequences.prefill(0, 0..length)?;
            rounds.push(Round { seconds: started.elapsed().as_secs_f64(), limits });
        }
        let profile = sequences.profile();
        let flops = self.work.flops(length, 1);
        let over = |figure: &dyn Fn(&Round) -> f64| Summary::over(&rounds, figure).context("no rounds");
        Ok(Prefill {
            prompt_tokens: length,
            step_tokens: sequences.step_tokens(),
            tokens_per_s: over(&|round| length as f64 / round.seconds)?,
            gflops: over(&|round| flops / round.seconds / 1e9)?,
            share_of_peak: over(&|round| flops / round.seconds / self.instruction.peak(&round.limits))?,
            profile,
        })
    }

    /// All numbers of sequences at all contexts, both ascending. The keys and values of a context are those of the one before, and more.
    pub(super) fn decode(&mut self, batches: &[usize], contexts: &[usize]) -> anyhow::Result<Vec<Decode>> {
        let (Some(&most), Some(&longest)) = (batches.last(), contexts.last()) else { return Ok(Vec::new()) };
        let flags = format!("--batch {most} and --context {longest}");
        let mut sequences = Sequences::new(&mut *self.runner, most, longest + DECODE_STEPS, &flags)?;
        let (mut done, mut found) = (0, Vec::new());
        for &context in contexts {
            super::progress(&format!("computing the KV cache of {most} sequences of {context} tokens"));
            for sequence in 0..most {
                sequences.prefill(sequence, done..context)?;
            }
            done = context;
            for &count in batches {
                super::progress(&format!("decode of {count} sequences at {context} tokens"));
                let mut rounds = Vec::new();
                // The first run warms up.
                decode_steps(&mut sequences, count, context)?;
                sequences.reset_profile();
                for _ in 0..self.rounds {
                    let limits = self.meter.round();
                    rounds.push(Round { seconds: decode_round(&mut sequences, count, context)?, limits });
                }
                let profile = sequences.profile();
                found.push(Decode { profile, ..decoded((count, context), &rounds, (&self.work, self.instruction))? });
            }
        }
        Ok(found)
    }
}

/// What rounds of `count` sequences at `context` tokens say.
fn decoded((count, context): (usize, usize), rounds: &[Round], (work, instruction): (&Work, Instruction)) -> anyhow::Result<Decode> {
    // In the middle of a run of steps every sequence is this much longer.
    let (bytes, flops) = (work.bytes(count, context + DECODE_STEPS / 2), work.flops(count, count));
    let over = |figure: &dyn Fn(&Round) -> f64| Summary::over(rounds, figure).context("no rounds");
    Ok(Decode {
        sequences: count,
        context_tokens: context,
        steps: DECODE_STEPS,
        tokens_per_s: over(&|round| count as f64 / round.seconds)?,
        step_ms: over(&|round| round.seconds * 1e3)?,
        share_of_read: over(&|round| bytes / round.seconds / round.limits.read_bytes_per_s)?,
        share_of_peak: over(&|round| flops / round.seconds / instruction.peak(&round.limits))?,
        profile: Vec::new(),
    })
}

/// Seconds of one step, over runs of steps.
fn decode_round(sequences: &mut Sequences<'_>, count: usize, context: usize) -> anyhow::Result<f64> {
    let (started, mut steps) = (Instant::now(), 0);
    loop {
        steps += decode_steps(sequences, count, context)?;
        let elapsed = started.elapsed();
        if elapsed >= LEAST_ROUND {
            return Ok(elapsed.as_secs_f64() / steps as f64);
        }
    }
}

/// One run of steps: each token is what the model chose in the step before.
fn decode_steps(sequences: &mut Sequences<'_>, count: usize, context: usize) -> anyhow::Result<usize> {
    let vocabulary = sequences.vocabulary();
    let mut tokens: Vec<TokenId> = (0..count).map(|sequence| token(sequence as u64, context as u64, vocabulary)).collect();
    for step in 0..DECODE_STEPS {
        sequences.decode(&mut tokens, context + step)?;
    }
    Ok(DECODE_STEPS)
}
