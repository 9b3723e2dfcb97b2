//! Steps submitted to a GPU before the tokens of the last one are known: they are found where the device put them.

use super::gpu::{Sequence, generate, gpu_runner, gpu_runner_of_rows};
use super::*;
use crate::ops::TaskLimits;
use crate::ops::gpu::testing::{OnDevice, Setup, on_devices};
use crate::ops::gpu::{Device, GpuBackend, Half};

/// Rows of a step, and those of a prompt that are scored with so many alternatives that their answers are more than come at once.
const ROWS: usize = 256;
const SCORED: usize = 200;

/// Tokens after each prompt.
const STEPS: usize = 14;

/// Computes all of a prompt but its last token.
fn fill<D: Device>(runner: &mut PagedRunner<GpuBackend<D>>, sequence: &Sequence) {
    let params = SamplingParams::greedy();
    let last = sequence.tokens.len() - 1;
    for start in (0..last).step_by(100) {
        let tokens = &sequence.tokens[start..last.min(start + 100)];
        let slice = SequenceSlice { sample: None, ..slice(tokens, start, &sequence.table, &params) };
        runner.step(&StepBatch { sequences: vec![slice], new_blocks: &[] }).unwrap();
    }
}

/// Greedy tokens of sequences beside each other, each step submitted before the one before it is collected. The order changes from step to step,
/// and so does the number of alternatives, on which it depends where answers are.
fn generate_ahead<D: Device>(runner: &mut PagedRunner<GpuBackend<D>>, sequences: &[Sequence]) -> Vec<Vec<TokenId>> {
    assert!(runner.computes_elsewhere());
    let params = SamplingParams::greedy();
    sequences.iter().for_each(|sequence| fill(runner, sequence));
    let order = |step: usize| -> Vec<usize> { (0..sequences.len()).map(|index| (index * 2 + step) % sequences.len()).collect() };
    let mut found = vec![Vec::new(); sequences.len()];
    let mut collect = |runner: &mut PagedRunner<GpuBackend<D>>, step: usize| {
        for (index, output) in order(step).into_iter().zip(runner.collect().unwrap()) {
            let sampled = output.sampled.unwrap().unwrap();
            let logprobs = sampled.logprobs.unwrap();
            assert_eq!((logprobs.chosen.token, logprobs.top.len()), (sampled.token, step % 5));
            found[index].push(sampled.token);
        }
    };
    for step in 0..STEPS {
        let before = order(step.saturating_sub(1));
        let slices = order(step).into_iter().map(|index| {
            let Sequence { tokens, table, .. } = &sequences[index];
            let start = tokens.len() - 1 + step;
            let first = [*tokens.last().unwrap()];
            let follows = (step > 0).then(|| before.iter().position(|&other| other == index).unwrap());
            let logprobs = Some((step % 5) as u8);
            let sample = Some(SampleSpec { position: start as u32 + 1, logprobs, ..SampleSpec::new(&params) });
            (if step == 0 { first } else { [0] }, start, table, follows, sample)
        });
        let slices: Vec<_> = slices.collect();
        let sequences = slices.iter().map(|(tokens, start, table, follows, sample)| SequenceSlice {
            tokens,
            follows: *follows,
            start: *start,
            block_table: table,
            sample: *sample,
            score: None,
        });
        runner.submit(&StepBatch { sequences: sequences.collect(), new_blocks: &[] }).unwrap();
        if step > 0 {
            collect(runner, step - 1);
        }
    }
    collect(runner, STEPS - 1);
    assert_eq!(runner.collect().unwrap(), [], "nothing was submitted");
    found
}

struct Ahead;

impl OnDevice for Ahead {
    type Found = ();

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) {
        // One crosses from one split of attention's context to the next.
        let (name, lengths) = ("tiny-hd64-gqa4", [5, 70, 248]);
        let wanted = generate(&mut gpu_runner(make(), name), Sequence::all(&lengths));
        let mut runner = gpu_runner(make(), name);
        let found = generate_ahead(&mut runner, &Sequence::all(&lengths));
        for (wanted, found) in wanted.iter().zip(found) {
            assert_eq!(wanted.iter().map(|sampled| sampled.token).collect::<Vec<_>>(), found);
        }
        assert!(!D::RECORDS || runner.decoder().backend().recordings() >= 2, "steps ahead are recorded as others are");
    }
}

#[test]
fn a_gpu_follows_tokens_that_nobody_knows_yet() {
    on_devices(Setup::unchecked(Half::Bf16).invariant(), &Ahead);
}

/// A step whose answers do not come in one group: what is asked of the first is known when the next step is submitted, the rest is awaited.
struct Groups;

impl OnDevice for Groups {
    type Found = ();

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) {
        let params = SamplingParams::greedy();
        let prompt: Vec<TokenId> = (0..ROWS).map(|i| (i * 7 % 380) as TokenId).collect();
        let tables = [blocks(0..9), blocks(9..18), blocks(18..27)];
        let scored = ScoreSpec { targets: &prompt[1..=SCORED], top_n: u8::MAX };
        let first = |index: usize| slice(&prompt[index..=index], 0, &tables[index], &params);
        let scores = SequenceSlice { sample: None, score: Some(scored), ..slice(&prompt[..SCORED], 0, &tables[2], &params) };
        let step = || vec![first(0), scores.clone(), first(1)];
        // Two words an alternative.
        assert!(SCORED * 2 * usize::from(u8::MAX) > TaskLimits::new(ROWS, 384).answers, "they are one group");
        let submit = |runner: &mut PagedRunner<GpuBackend<D>>, sequences| runner.submit(&StepBatch { sequences, new_blocks: &[] }).unwrap();

        let mut runner = gpu_runner_of_rows(make(), "tiny-hd32-gqa2", ROWS);
        submit(&mut runner, step());
        let together = runner.collect().unwrap();
        let tokens = [0, 2].map(|index: usize| together[index].sampled.clone().unwrap().unwrap().token);
        let known = [[tokens[0]], [tokens[1]]];
        submit(&mut runner, vec![slice(&known[0], 1, &tables[0], &params), slice(&known[1], 1, &tables[1], &params)]);
        let wanted = runner.collect().unwrap();

        let mut runner = gpu_runner_of_rows(make(), "tiny-hd32-gqa2", ROWS);
        submit(&mut runner, step());
        let follow = |before, index: usize| SequenceSlice { follows: Some(before), ..slice(&[0], 1, &tables[index], &params) };
        submit(&mut runner, vec![follow(0, 0), follow(2, 1)]);
        assert_eq!(runner.collect().unwrap(), together);
        assert_eq!(runner.collect().unwrap(), wanted);
        assert_eq!(together[1].scores.len(), SCORED);
        submit(&mut runner, step());
        // The second sequence of that step is only scored, and there is no sixth.
        for before in [1, 5] {
            let sequences = vec![follow(before, 0)];
            let error = runner.submit(&StepBatch { sequences, new_blocks: &[] }).unwrap_err().to_string();
            assert!(error.contains(&format!("follows number {before}")), "{error}");
        }
        let penalized = SamplingParams { frequency_penalty: 1.0, ..SamplingParams::greedy() };
        let follows = SequenceSlice { follows: Some(0), ..slice(&[0], 1, &tables[0], &penalized) };
        let error = runner.submit(&StepBatch { sequences: vec![follows], new_blocks: &[] }).unwrap_err().to_string();
        assert!(error.contains("need the token that is awaited"), "{error}");
        // What was refused left nothing behind.
        assert_eq!(runner.collect().unwrap(), together);
        assert_eq!(runner.collect().unwrap(), []);
    }
}

#[test]
fn answers_in_groups_are_followed_too() {
    on_devices(Setup::unchecked(Half::Bf16).invariant(), &Groups);
}

/// What follows a sequence whose logits are no numbers is computed for nothing, and does not reach beyond the embedding.
struct Nothing;

impl OnDevice for Nothing {
    type Found = ();

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) {
        let (mut runner, params) = (gpu_runner(make(), "tiny-hd32-gqa2"), SamplingParams::greedy());
        let (damaged, healthy) = (blocks(0..1), blocks(1..2));
        let both = blocks(0..2);
        let first = || vec![slice(&[4, 5], 3, &damaged, &params), slice(&[1, 2, 3], 0, &healthy, &params)];
        let follow = |before, start, table| SequenceSlice { follows: Some(before), ..slice(&[0], start, table, &params) };
        runner.submit(&StepBatch { sequences: first(), new_blocks: &both }).unwrap();
        runner.submit(&StepBatch { sequences: vec![follow(0, 5, &damaged), follow(1, 3, &healthy)], new_blocks: &[] }).unwrap();
        for _ in 0..2 {
            let outputs = runner.collect().unwrap();
            assert!(matches!(outputs[0].sampled, Some(Err(SamplingError::NonFinite { .. }))), "{:?}", outputs[0]);
            assert!(matches!(outputs[1].sampled, Some(Ok(_))), "{:?}", outputs[1]);
        }
    }
}

#[test]
fn a_row_that_follows_no_token_is_computed_for_nothing() {
    on_devices(Setup::checked(Half::Bf16).invariant(), &Nothing);
}

#[test]
fn a_runner_on_the_cpu_awaits_no_token() {
    let (mut runner, params, table) = (runner(), SamplingParams::greedy(), blocks(0..1));
    step(&mut runner, vec![slice(&[1], 0, &table, &params)], &table).unwrap();
    assert!(!runner.computes_elsewhere());
    let follows = SequenceSlice { follows: Some(0), ..slice(&[0], 1, &table, &params) };
    let error = step(&mut runner, vec![follows], &[]).unwrap_err().to_string();
    assert!(error.contains("follows number 0 of a step that gives it no token"), "{error}");
}
