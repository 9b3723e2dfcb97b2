//! Prefill and decode without HTTP: steps of the runner alone, each round beside a round of the limits.
//!
//! A round repeats its prompt, or its steps of decode from the same position, for a least time: on a small model they are a moment.

use super::meter::Meter;
use super::report::{Decode, Instruction, Prefill, Sampling};
use super::sequences::{Sequences, token};
use super::statistics::Summary;
use super::work::Work;
use crate::generation::TokenId;
use crate::ops::cpu::limits::LimitRound;
use crate::runner::ModelRunner;
use anyhow::Context as _;
use std::time::{Duration, Instant};

/// Most steps that warm up before a measurement of decode.
const WARM_UP_STEPS: usize = 16;

/// How often and how long is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    /// Rounds of each measurement.
    pub(super) count: usize,
    /// A round repeats what it measures until this has passed.
    pub(super) least: Duration,
    /// Steps of decode that follow each other; they begin at the same position each time.
    pub(super) decode_steps: usize,
}

impl Rounds {
    /// Seconds of one `run`, over as many as a round takes.
    fn seconds(self, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
        let (started, mut runs) = (Instant::now(), 0_u32);
        loop {
            run()?;
            runs += 1;
            let elapsed = started.elapsed();
            if elapsed >= self.least {
                return Ok(elapsed.as_secs_f64() / f64::from(runs));
            }
        }
    }
}

/// What every measurement of steps needs.
pub(super) struct Bench<'a> {
    /// The model.
    pub(super) runner: &'a mut dyn ModelRunner,
    /// The limits; none of a model on a GPU.
    pub(super) meter: Option<&'a mut Meter>,
    /// What a step costs.
    pub(super) work: Work,
    /// What computes; `None` on a GPU.
    pub(super) instruction: Option<Instruction>,
    /// Rounds of each measurement.
    pub(super) rounds: Rounds,
    /// How decode chooses tokens.
    pub(super) sampling: Sampling,
    /// Whether steps of decode are sent ahead where that can be, as the engine does.
    pub(super) async_scheduling: bool,
}

/// One round: the time of one step (or prompt), and the limits just before.
struct Round {
    seconds: f64,
    limits: Option<LimitRound>,
}

impl Bench<'_> {
    /// A prompt of `length` tokens.
    pub(super) fn prefill(&mut self, length: usize) -> anyhow::Result<Prefill> {
        let mut sequences = Sequences::new(&mut *self.runner, 1, length, &format!("--prefill {length}"))?;
        sequences.prefill(0, 0..length)?;
        sequences.reset_profile();
        let mut rounds = Vec::new();
        for _ in 0..self.rounds.count {
            let limits = self.meter.as_deref_mut().map(Meter::round);
            let seconds = self.rounds.seconds(|| sequences.prefill(0, 0..length))?;
            rounds.push(Round { seconds, limits });
        }
        let profile = sequences.profile();
        let flops = self.work.flops(length, 1);
        let over = |figure: &dyn Fn(&Round) -> f64| Summary::over(&rounds, figure).context("no rounds");
        Ok(Prefill {
            prompt_tokens: length,
            step_tokens: sequences.step_tokens(),
            tokens_per_s: over(&|round| length as f64 / round.seconds)?,
            gflops: over(&|round| flops / round.seconds / 1e9)?,
            share_of_peak: share(&rounds, self.instruction, &|limits, instruction| flops / instruction.peak(limits)),
            profile,
        })
    }

    /// All numbers of sequences at all contexts, both ascending. The keys and values of a context are those of the one before, and more.
    pub(super) fn decode(&mut self, batches: &[usize], contexts: &[usize]) -> anyhow::Result<Vec<Decode>> {
        let (Some(&most), Some(&longest)) = (batches.last(), contexts.last()) else { return Ok(Vec::new()) };
        let steps = self.rounds.decode_steps;
        let flags = format!("--batch {most}, --context {longest} and --decode-steps {steps}");
        let sequences = Sequences::new(&mut *self.runner, most, longest + steps, &flags)?;
        let mut sequences = sequences.with_sampling(self.sampling).with_async_scheduling(self.async_scheduling);
        let (mut done, mut found) = (0, Vec::new());
        for &context in contexts {
            super::progress(&format!("computing the KV cache of {most} x {context} tokens"));
            for sequence in 0..most {
                sequences.prefill(sequence, done..context)?;
            }
            done = context;
            for &count in batches {
                super::progress(&format!("decode of {count} sequence{} at {context} tokens", if count == 1 { "" } else { "s" }));
                let mut rounds = Vec::new();
                decode_steps(&mut sequences, count, (context, steps.min(WARM_UP_STEPS)))?;
                sequences.reset_profile();
                for _ in 0..self.rounds.count {
                    let limits = self.meter.as_deref_mut().map(Meter::round);
                    let seconds = self.rounds.seconds(|| decode_steps(&mut sequences, count, (context, steps)))?;
                    rounds.push(Round { seconds: seconds / steps as f64, limits });
                }
                let profile = sequences.profile();
                found.push(Decode { profile, ..decoded((count, context, steps), &rounds, (&self.work, self.instruction))? });
            }
        }
        Ok(found)
    }
}

/// What a step would take at one of the machine's limits, of the time it takes; `None` where no limits were measured.
fn share(rounds: &[Round], instruction: Option<Instruction>, at_limit: &dyn Fn(&LimitRound, Instruction) -> f64) -> Option<Summary> {
    let instruction = instruction?;
    let share = |round: &Round| Some(at_limit(round.limits.as_ref()?, instruction) / round.seconds);
    Summary::of(rounds.iter().filter_map(share).collect())
}

/// What rounds of `steps` steps of `count` sequences from `context` tokens on say.
fn decoded(
    (count, context, steps): (usize, usize, usize),
    rounds: &[Round],
    (work, instruction): (&Work, Option<Instruction>),
) -> anyhow::Result<Decode> {
    // In the middle of a run of steps every sequence is this much longer.
    let (bytes, flops) = (work.bytes(count, context + steps / 2), work.flops(count, count));
    let over = |figure: &dyn Fn(&Round) -> f64| Summary::over(rounds, figure).context("no rounds");
    Ok(Decode {
        sequences: count,
        context_tokens: context,
        steps,
        tokens_per_s: over(&|round| count as f64 / round.seconds)?,
        step_ms: over(&|round| round.seconds * 1e3)?,
        share_of_read: share(rounds, instruction, &|limits, _| bytes / limits.read_bytes_per_s),
        share_of_peak: share(rounds, instruction, &|limits, instruction| flops / instruction.peak(limits)),
        profile: Vec::new(),
    })
}

/// Steps that follow each other from position `context` on: each token is what the model chose in the step before.
fn decode_steps(sequences: &mut Sequences<'_>, count: usize, (context, steps): (usize, usize)) -> anyhow::Result<()> {
    let vocabulary = sequences.vocabulary();
    let tokens: Vec<TokenId> = (0..count).map(|sequence| token(sequence as u64, context as u64, vocabulary)).collect();
    sequences.decode(tokens, context, steps).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::RunnerLimits;
    use crate::runner::fake::FakeRunner;

    const LIMITS: RunnerLimits = RunnerLimits { num_blocks: 32, block_size: 4, max_num_batched_tokens: 16, vocab_size: 50 };

    #[test]
    fn a_round_lasts_as_long_as_asked_and_counts_its_runs() {
        let mut runs = 0;
        let round = |least| Rounds { count: 1, least, decode_steps: 1 };
        let mut run = || {
            runs += 1;
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        };
        let seconds = round(Duration::ZERO).seconds(&mut run).expect("measured");
        assert!((0.002..0.5).contains(&seconds), "{seconds}");
        let (started, seconds) = (Instant::now(), round(Duration::from_millis(20)).seconds(&mut run).expect("measured"));
        let elapsed = started.elapsed();
        assert!(elapsed >= Duration::from_millis(20) && seconds >= 0.002, "{elapsed:?}, {seconds}");
        assert!(runs > 1 && seconds * f64::from(runs - 1) <= elapsed.as_secs_f64(), "{runs} runs of {seconds} s in {elapsed:?}");
    }

    /// As the tools of llama.cpp do it: one prompt, or so many steps in a row, once a round.
    #[test]
    fn rounds_without_a_least_time_do_what_was_asked_once() {
        let (mut runner, control) = FakeRunner::new(LIMITS);
        let mut meter = Meter::new(1, 0).expect("measured");
        let rounds = Rounds { count: 2, least: Duration::ZERO, decode_steps: 20 };
        let work = Work::new((100.0, 10.0), 220.0, 4.0);
        let (instruction, sampling) = (Some(Instruction::F32Fma), Sampling::default());
        let mut bench = Bench { runner: &mut runner, meter: Some(&mut meter), work, instruction, rounds, sampling, async_scheduling: true };
        let prefill = bench.prefill(16).expect("measured");
        assert_eq!((prefill.prompt_tokens, control.log()), (16, vec![vec![(0, 16)]; 3]), "the first one warms up");
        let decode = bench.decode(&[2], &[3]).expect("measured");
        assert_eq!((decode[0].steps, decode[0].context_tokens, decode[0].sequences), (20, 3, 2));
        let steps = |count: usize| (3..3 + count).map(|position| vec![(position, 1); 2]);
        let prompts = [vec![(0, 3)], vec![(0, 3)]];
        let expected: Vec<_> = prompts.into_iter().chain(steps(WARM_UP_STEPS)).chain(steps(20)).chain(steps(20)).collect();
        assert_eq!(control.log()[3..], expected);
    }

    #[test]
    fn a_gpu_is_not_held_against_the_limits_of_the_cpu_and_gets_its_steps_ahead() {
        let (runner, control) = FakeRunner::new(LIMITS);
        let mut runner = runner.with_device();
        let rounds = Rounds { count: 1, least: Duration::ZERO, decode_steps: 20 };
        let (work, sampling) = (Work::new((100.0, 10.0), 220.0, 4.0), Sampling::default());
        let mut bench = Bench { runner: &mut runner, meter: None, work, instruction: None, rounds, sampling, async_scheduling: true };
        let prefill = bench.prefill(16).expect("measured");
        let decode = bench.decode(&[2], &[3]).expect("measured").remove(0);
        assert_eq!((prefill.share_of_peak, decode.share_of_read, decode.share_of_peak), (None, None, None));
        // Two runs, one to warm up; of each every step but the first.
        assert_eq!(control.awaited() as usize, 2 * (WARM_UP_STEPS - 1 + 19));
        let positions: Vec<usize> = control.log()[4 + WARM_UP_STEPS..].iter().map(|step| step[0].0).collect();
        assert_eq!(positions, (3..23).collect::<Vec<_>>());
    }
}
