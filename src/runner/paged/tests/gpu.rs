//! Steps of the runner on a GPU: recorded ones give what sent ones give, and an answer does not depend on its neighbours.

use super::*;
use crate::model::LoadProgress;
use crate::ops::gpu::testing::{OnDevice, Setup, on_device};
use crate::ops::gpu::{Device, GpuBackend, Half};
use crate::sampling::SampledToken;

/// Positions of a prompt that a step computes.
const CHUNK: usize = 40;
/// Tokens after each prompt.
const STEPS: usize = 14;
/// Blocks of a sequence.
const TABLE: u32 = 9;

fn gpu_runner<D: Device>(backend: GpuBackend<D>, name: &str) -> PagedRunner<GpuBackend<D>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let files = ModelFiles::open(&ModelSource::Directory(path), TokenizerSource::Model).unwrap();
    let weights = dtype_of(DType::Bf16);
    // Contexts of up to eight splits, of which sequences here reach two.
    let options = RunnerOptions {
        weights,
        max_model_len: Some(2048),
        kv_cache_memory_bytes: Some(8 << 20),
        max_num_batched_tokens: 128,
        ..options()
    };
    let mut runner = load_on(backend, String::new(), &files, &options, &LoadProgress::default()).unwrap().runner;
    assert!(runner.limits().num_blocks >= 4 * TABLE as usize, "{} blocks", runner.limits().num_blocks);
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
    /// With a prompt of so many tokens.
    fn new(index: usize, length: usize) -> Self {
        let tokens = (0..length).map(|i| (1 + (i * (3 + index) + 7 * index) % 380) as TokenId).collect();
        let first = TABLE * index as u32;
        Self { tokens, table: blocks(first..first + TABLE), computed: 0, found: Vec::new() }
    }

    fn all(lengths: &[usize]) -> Vec<Self> {
        lengths.iter().enumerate().map(|(index, &length)| Self::new(index, length)).collect()
    }

    fn is_done(&self) -> bool {
        self.found.len() == STEPS
    }
}

/// Generates until all are done: prompts in chunks, one token a step after that.
fn generate<D: Device>(runner: &mut PagedRunner<GpuBackend<D>>, mut sequences: Vec<Sequence>) -> Vec<Vec<SampledToken>> {
    let params = SamplingParams::greedy();
    let mut new_blocks: Vec<BlockId> = sequences.iter().flat_map(|sequence| sequence.table.clone()).collect();
    while !sequences.iter().all(Sequence::is_done) {
        let mut slices = Vec::new();
        for sequence in sequences.iter().filter(|sequence| !sequence.is_done()) {
            let end = sequence.tokens.len().min(sequence.computed + CHUNK);
            let slice = slice(&sequence.tokens[sequence.computed..end], sequence.computed, &sequence.table, &params);
            slices.push(SequenceSlice { sample: slice.sample.filter(|_| end == sequence.tokens.len()), ..slice });
        }
        let outputs = runner.step(&StepBatch { sequences: slices, new_blocks: &std::mem::take(&mut new_blocks) }).unwrap();
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

/// Sequences side by side, with recordings, beside each alone and without.
struct Beside;

impl OnDevice for Beside {
    type Found = ();

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) {
        // The longest one crosses from one split of attention's context to the next.
        let (name, lengths) = ("tiny-hd64-gqa4", [5, 70, 248]);
        let mut runner = gpu_runner(make(), name);
        let together = generate(&mut runner, Sequence::all(&lengths));
        assert!(runner.decoder().backend().recordings() >= 2, "steps of single rows are recorded, with and without splits");
        for (index, (wanted, &length)) in together.iter().zip(&lengths).enumerate() {
            let mut runner = gpu_runner(make(), name);
            runner.decoder().backend().record_nothing();
            let alone = generate(&mut runner, vec![Sequence::new(index, length)]);
            assert_eq!(runner.decoder().backend().recordings(), 0);
            assert_eq!(&alone[0], wanted, "prompt of {length}");
        }
    }
}

#[test]
fn recorded_steps_of_a_gpu_are_those_that_were_sent() {
    on_device(Setup::unchecked(Half::Bf16).invariant(), &Beside);
}

/// A prompt of two rows was one item, and its recording was taken for the step of two sequences.
struct ShortPrompts;

impl OnDevice for ShortPrompts {
    type Found = ();

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) {
        let (name, lengths) = ("tiny-hd32-gqa2", [2, 2]);
        let wanted = generate(&mut gpu_runner(make(), name), Sequence::all(&lengths));
        let mut runner = gpu_runner(make(), name);
        for index in [2, 3, 2] {
            generate(&mut runner, vec![Sequence::new(index, 2)]);
        }
        assert_eq!(generate(&mut runner, Sequence::all(&lengths)), wanted);
    }
}

#[test]
fn a_recording_is_not_taken_for_a_step_with_as_many_rows_of_fewer_sequences() {
    on_device(Setup::unchecked(Half::Bf16).invariant(), &ShortPrompts);
}
