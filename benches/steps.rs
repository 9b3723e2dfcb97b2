//! Prefill and decode of a checkpoint on this machine, without HTTP, beside the memory read that bounds them.
//!
//! `cargo bench --bench steps -- DIR [THREADS]`; without a directory the embedded model. Medians over rounds; a step of decode reads every
//! weight once, so its roofline is the read bandwidth over the bytes of the weights, measured in the same run.

use openelm_server::generation::{SamplingParams, TokenId};
use openelm_server::kv_cache::BlockId;
use openelm_server::model::openelm::{StepOp, StepProfile};
use openelm_server::model::{ModelFiles, ModelSource};
use openelm_server::runner::paged::{RunnerOptions, load};
use openelm_server::runner::{ModelRunner, SequenceSlice, StepBatch};
use openelm_server::sampling::SampleSpec;
use std::time::{Duration, Instant};

const CONTEXT: usize = 128;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let source = arguments.first().map_or(ModelSource::Embedded, |dir| ModelSource::Directory(dir.into()));
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.get(1).and_then(|t| t.parse().ok()).unwrap_or_else(cores);
    let started = Instant::now();
    let files = ModelFiles::open(&source, None).expect("model");
    let options = RunnerOptions { threads, kv_cache_memory_bytes: Some(1 << 30), ..RunnerOptions::default() };
    let (mut runner, info) = load(&files, &options).expect("load");
    let megabytes = info.weight_bytes / 1_000_000;
    println!("{} on {}, {megabytes} MB of weights, loaded in {:.2?}", files.config.name, info.kernels, started.elapsed());
    let bandwidth = read_bandwidth(info.weight_bytes as usize, threads);
    let most = bandwidth / info.weight_bytes as f64;
    println!("plain read of as many bytes: {:.1} GB/s, so at most {most:.0} tokens/s for one stream", bandwidth / 1e9);
    for streams in [1, 2, 4, 8, 16] {
        runner.profile().reset();
        let step = decode(&mut runner, streams, if streams == 1 { 48 } else { 16 });
        let (rate, share) = (streams as f64 / step.as_secs_f64(), 100.0 / most / step.as_secs_f64());
        println!("decode, {streams:2} streams: {rate:8.1} tokens/s, {step:.1?} a step, {share:.0}% of the read");
        print_profile(runner.profile());
    }
    let length = 512.min(info.max_model_len);
    runner.profile().reset();
    let rate = length as f64 / prefill(&mut runner, length).as_secs_f64();
    print_profile(runner.profile());
    println!("prefill of {length}: {rate:.0} tokens/s, {:.0} GFLOPS", rate * 2.0 * info.parameters as f64 / 1e9);
}

fn print_profile(profile: &StepProfile) {
    let total = profile.total().as_secs_f64();
    let shares = StepOp::ALL.map(|op| format!("{} {:.1}%", op.name(), 100.0 * profile.time(op).as_secs_f64() / total));
    println!("    {}", shares.join(", "));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Blocks of a sequence; every sequence has its own.
fn table(sequence: usize) -> Vec<BlockId> {
    (0..16).map(|i| BlockId((sequence * 16 + i) as u32)).collect()
}

fn prefill(runner: &mut impl ModelRunner, length: usize) -> Duration {
    let tokens = vec![5; length];
    let times = (0..5).map(|_| {
        let started = Instant::now();
        step(runner, &[&tokens], 0);
        started.elapsed()
    });
    median(times.collect())
}

fn decode(runner: &mut impl ModelRunner, streams: usize, rounds: usize) -> Duration {
    let (prompt, token) = ([7; CONTEXT], [9]);
    for _ in 0..1 {
        step(runner, &vec![&prompt[..]; streams.min(4)], 0);
    }
    let slices: Vec<&[TokenId]> = vec![&token; streams];
    let times = (0..rounds).map(|i| {
        let started = Instant::now();
        step(runner, &slices, CONTEXT + i);
        started.elapsed()
    });
    median(times.collect())
}

/// One step: every sequence computes its tokens from position `start` on, and its next token greedily.
fn step(runner: &mut impl ModelRunner, tokens: &[&[TokenId]], start: usize) {
    let params = SamplingParams::greedy();
    let tables: Vec<Vec<BlockId>> = (0..tokens.len()).map(table).collect();
    let (prompt, output, forbidden) = (&[][..], &[][..], &[][..]);
    let spec = SampleSpec { params: &params, prompt_index: 0, choice_index: 0, position: 0, prompt, output, forbidden, logprobs: None };
    let slice = |(tokens, table)| SequenceSlice { tokens, start, block_table: table, sample: Some(spec), score: None };
    let sequences = tokens.iter().copied().zip(tables.iter().map(Vec::as_slice)).map(slice).collect();
    runner.step(&StepBatch { sequences, new_blocks: &[] }).expect("step");
}

/// Bytes a second that all threads together read from memory, median of rounds.
fn read_bandwidth(bytes: usize, threads: usize) -> f64 {
    let data = vec![1u64; bytes.max(64 << 20) / 8];
    let round = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(move || std::hint::black_box(part.iter().fold(0u64, |a, b| a | b)));
            }
        });
        started.elapsed()
    };
    data.len() as f64 * 8.0 / median((0..7).map(|_| round()).collect()).as_secs_f64()
}
