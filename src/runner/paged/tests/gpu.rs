//! Steps of the runner on a GPU: recorded ones give what sent ones give, and an answer does not depend on its neighbours.

use super::*;
use crate::model::LoadProgress;
use crate::ops::Backend;
use crate::ops::gpu::failing::FailingDevice;
use crate::ops::gpu::testing::{OnBareDevice, OnDevice, Setup, on_bare_devices, on_devices};
use crate::ops::gpu::{Device, GpuBackend, GpuOptions, Half};
use crate::runner::paged::load::Loaded;
use crate::sampling::SampledToken;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Positions of a prompt that a step computes.
const CHUNK: usize = 40;
/// Tokens after each prompt.
const STEPS: usize = 14;
/// Blocks of a sequence.
const TABLE: u32 = 9;

fn golden(name: &str) -> ModelFiles {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    ModelFiles::open(&ModelSource::Directory(path), TokenizerSource::Model).unwrap()
}

pub(super) fn gpu_runner<D: Device>(backend: GpuBackend<D>, name: &str) -> PagedRunner<GpuBackend<D>> {
    gpu_runner_of_rows(backend, name, 128)
}

/// With steps of up to so many rows.
pub(super) fn gpu_runner_of_rows<D: Device>(
    backend: GpuBackend<D>,
    name: &str,
    max_num_batched_tokens: usize,
) -> PagedRunner<GpuBackend<D>> {
    let files = golden(name);
    let weights = dtype_of(DType::Bf16);
    // Contexts of up to eight splits, of which sequences here reach two.
    let options = RunnerOptions {
        weights,
        max_model_len: Some(2048),
        kv_cache_memory_bytes: Some(8 << 20),
        max_num_batched_tokens,
        max_num_seqs: 4,
        ..options()
    };
    let mut runner = load_on(backend, String::new(), &files, &options, &LoadProgress::default()).unwrap().runner;
    assert!(runner.limits().num_blocks >= 4 * TABLE as usize, "{} blocks", runner.limits().num_blocks);
    runner.poison_new_blocks();
    runner
}

/// A sequence that is generated greedily.
pub(super) struct Sequence {
    pub(super) tokens: Vec<TokenId>,
    pub(super) table: Vec<BlockId>,
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

    pub(super) fn all(lengths: &[usize]) -> Vec<Self> {
        lengths.iter().enumerate().map(|(index, &length)| Self::new(index, length)).collect()
    }

    fn is_done(&self) -> bool {
        self.found.len() == STEPS
    }
}

/// Generates until all are done: prompts in chunks, one token a step after that.
pub(super) fn generate<D: Device>(runner: &mut PagedRunner<GpuBackend<D>>, mut sequences: Vec<Sequence>) -> Vec<Vec<SampledToken>> {
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
        assert!(!D::RECORDS || runner.decoder().backend().recordings() >= 2, "steps of single rows are recorded, with and without splits");
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
    on_devices(Setup::unchecked(Half::Bf16).invariant(), &Beside);
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
    on_devices(Setup::unchecked(Half::Bf16).invariant(), &ShortPrompts);
}

/// Scores of a prompt of so many tokens, in steps of so many rows.
struct Scores {
    tokens: usize,
    rows: usize,
}

impl OnDevice for Scores {
    type Found = Vec<SequenceOutput>;

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) -> Self::Found {
        let options = RunnerOptions {
            weights: dtype_of(DType::Bf16),
            max_model_len: Some(256),
            kv_cache_memory_bytes: Some(1 << 20),
            max_num_batched_tokens: self.rows,
            max_num_seqs: 2,
            ..options()
        };
        let loaded = load_on(make(), String::new(), &golden("tiny-hd32-gqa2"), &options, &LoadProgress::default()).unwrap();
        let (mut runner, table) = (loaded.runner, blocks(0..5));
        let tokens: Vec<TokenId> = (0..=self.tokens).map(|i| (i * 7 % 380) as TokenId).collect();
        let params = SamplingParams { temperature: 1.0, ..SamplingParams::greedy() };
        let mut found = Vec::new();
        for start in (0..self.tokens).step_by(self.rows) {
            let end = self.tokens.min(start + self.rows);
            let score = ScoreSpec { targets: &tokens[start + 1..=end], top_n: 2 };
            let slice = SequenceSlice { score: Some(score), ..slice(&tokens[start..end], start, &table, &params) };
            found.extend(runner.step(&StepBatch { sequences: vec![slice], new_blocks: &[] }).unwrap());
        }
        found
    }
}

#[test]
fn scores_of_many_rows_on_a_gpu_are_those_of_few() {
    let all = |found: &[SequenceOutput]| found.iter().flat_map(|output| output.scores.clone()).collect::<Vec<_>>();
    let setup = Setup::unchecked(Half::Bf16).invariant();
    // More rows of logits than are computed at once, and a step of one row.
    for (tokens, rows) in [(140, 70), (12, 1)] {
        let at_once = on_devices(setup, &Scores { tokens, rows: tokens });
        for ((device, wanted), (_, found)) in at_once.iter().zip(on_devices(setup, &Scores { tokens, rows })) {
            assert_eq!(all(wanted).len(), tokens);
            assert_eq!(all(&found), all(wanted), "{device}, {rows} rows a step");
            assert_eq!(found.last().unwrap().sampled, wanted[0].sampled, "{device}, {rows} rows a step");
        }
    }
}

/// Memory for everything: what is left after weights, workspace and the first steps goes to keys and values, and no more.
struct Budget(u64);

impl OnDevice for Budget {
    type Found = Result<(u64, u64), String>;

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) -> Self::Found {
        let options = RunnerOptions {
            weights: dtype_of(DType::Bf16),
            max_model_len: Some(256),
            max_num_batched_tokens: 64,
            max_num_seqs: 4_000,
            memory_bytes: self.0,
            kv_cache_share: 1.0,
            ..options()
        };
        let options = RunnerOptions { kv_cache_memory_bytes: None, ..options };
        let loaded = load_on(make(), String::new(), &golden("tiny-hd64-gqa4"), &options, &LoadProgress::default());
        let Loaded { runner, info, .. } = loaded.map_err(|error| error.to_string())?;
        assert_eq!(runner.limits().num_blocks, info.num_blocks);
        let taken = runner.decoder().backend().taken_bytes().unwrap().unwrap();
        Ok((taken, info.kv_bytes_per_token * 32))
    }
}

#[test]
fn memory_of_a_gpu_is_used_up_to_what_was_granted() {
    // Recordings are granted some, tasks and answers about logits too, and a library's kernels take more on a device that is one.
    let granted = 512 << 20;
    for (device, found) in on_devices(Setup::unchecked(Half::Bf16), &Budget(granted)) {
        let (taken, block) = found.unwrap();
        // What was expected is a little more than what is taken here. A driver hands out whole pages.
        let slack = if device.starts_with("emulated") { 1 << 20 } else { 64 << 20 };
        assert!(taken.abs_diff(granted) <= slack, "{device}: {taken} of {granted}, {block} a block");
        assert!(taken <= granted || !device.starts_with("emulated"), "{device}: {taken} of {granted}");
    }
    for (device, found) in on_devices(Setup::unchecked(Half::Bf16), &Budget(60 << 20)) {
        let error = found.unwrap_err();
        assert!(error.contains("60") || error.contains("62914560"), "{device}: {error}");
    }
}

struct Lost;

impl OnBareDevice for Lost {
    type Found = ();

    fn run<D: Device>(&self, make: &dyn Fn() -> D) {
        let options = GpuOptions { half: Half::Bf16, is_batch_invariant: false, threads: 1, positions: 2048 };
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let backend = |left: &Arc<AtomicU64>| GpuBackend::new(FailingDevice::new(make(), Arc::clone(left)), options).unwrap();
        let mut runner = gpu_runner(backend(&left), "tiny-hd32-gqa2");
        let params = SamplingParams::greedy();
        let table = blocks(0..2);
        let step = || StepBatch { sequences: vec![slice(&[1], 0, &table, &params)], new_blocks: &[] };
        runner.step(&step()).unwrap();
        // The second step of a kind is recorded, where that pays: it fails in the middle of that, while the one before is on its way.
        runner.submit(&StepBatch { sequences: vec![slice(&[1, 2], 0, &table, &params)], new_blocks: &[] }).unwrap();
        left.store(5, Ordering::Relaxed);
        runner.submit(&step()).unwrap();
        assert!(runner.collect().is_ok(), "what was sent before is told");
        let error = runner.collect().expect_err("the device fails");
        assert!(matches!(&error, RunnerError::Fatal(detail) if detail.contains("the device is lost")), "{error}");
        assert!(matches!(runner.step(&step()), Err(RunnerError::Fatal(_))), "nothing is computed after that");
        let lost_at_start = load_on(
            backend(&Arc::new(AtomicU64::new(20))),
            String::new(),
            &golden("tiny-hd32-gqa2"),
            &RunnerOptions { weights: dtype_of(DType::Bf16), kv_cache_memory_bytes: Some(1 << 20), ..super::options() },
            &LoadProgress::default(),
        );
        let error = lost_at_start.err().expect("the first steps fail").to_string();
        assert!(error.contains("the device is lost"), "{error}");
    }
}

#[test]
fn a_device_that_fails_ends_the_runner_and_is_named() {
    on_bare_devices(&Lost);
}
