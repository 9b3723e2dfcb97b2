//! Steps of the runner on a GPU: recorded ones give what sent ones give, and an answer does not depend on its neighbours.

use super::*;
use crate::model::LoadProgress;
use crate::ops::gpu::testing::{OnDevice, Setup, on_device};
use crate::ops::gpu::{Device, GpuBackend, Half};
use crate::sampling::SampledToken;

/// Positions of a prompt that a step computes.
const CHUNK: usize = 40;
/// Tokens after each prompt: the longest one crosses from one split of attention's context to the next.
const STEPS: usize = 14;
const PROMPTS: [usize; 3] = [5, 70, 248];

fn gpu_runner<D: Device>(backend: GpuBackend<D>) -> PagedRunner<GpuBackend<D>> {
    let options = RunnerOptions { weights: dtype_of(DType::Bf16), max_model_len: Some(512), ..options() };
    let mut runner = load_on(backend, String::new(), &files(), &options, &LoadProgress::default()).unwrap().runner;
    runner.poison_new_blocks();
    runner
}

/// A sequence that is generated greedily.
struct Sequence {
    tokens: Vec<TokenId>,
    table: Vec<BlockId>,
    computed: usize,
    found: Vec<SampledToken>,
}

impl Sequence {
    fn new(index: usize) -> Self {
        let tokens = (0..PROMPTS[index]).map(|i| (1 + i * (3 + index) % 380) as TokenId).collect();
        let first = 9 * index as u32;
        Self { tokens, table: blocks(first..first + 9), computed: 0, found: Vec::new() }
    }

    fn is_done(&self) -> bool {
        self.found.len() == STEPS
    }
}

/// Generates until all are done: prompts in chunks, one token a step after that.
fn generate<D: Device>(runner: &mut PagedRunner<GpuBackend<D>>, mut sequences: Vec<Sequence>) -> Vec<Vec<SampledToken>> {
    let params = SamplingParams::greedy();
    while !sequences.iter().all(Sequence::is_done) {
        let mut slices = Vec::new();
        for sequence in sequences.iter().filter(|sequence| !sequence.is_done()) {
            let end = sequence.tokens.len().min(sequence.computed + CHUNK);
            let slice = slice(&sequence.tokens[sequence.computed..end], sequence.computed, &sequence.table, &params);
            slices.push(SequenceSlice { sample: slice.sample.filter(|_| end == sequence.tokens.len()), ..slice });
        }
        let outputs = runner.step(&StepBatch { sequences: slices, new_blocks: &[] }).unwrap();
        for (sequence, output) in sequences.iter_mut().filter(|sequence| !sequence.is_done()).zip(outputs) {
            sequence.computed = sequence.tokens.len().min(sequence.computed + CHUNK);
            if let Some(sampled) = output.sampled {
                let sampled = sampled.unwrap();
                sequence.tokens.push(sampled.token);
                sequence.found.push(sampled);
            }
        }
    }
    sequences.into_iter().map(|sequence| sequence.found).collect()
}

struct Beside;

impl OnDevice for Beside {
    type Found = ();

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) {
        let mut runner = gpu_runner(make());
        let together = generate(&mut runner, (0..PROMPTS.len()).map(Sequence::new).collect());
        assert!(runner.decoder().backend().recordings() >= 2, "steps of single rows are recorded, with and without splits");
        for (index, wanted) in together.iter().enumerate() {
            let alone = generate(&mut gpu_runner(make()), vec![Sequence::new(index)]);
            assert_eq!(&alone[0], wanted, "prompt of {}", PROMPTS[index]);
        }
    }
}

#[test]
fn recorded_steps_of_a_gpu_are_those_that_were_sent() {
    on_device(Setup::unchecked(Half::Bf16).invariant(), &Beside);
}
