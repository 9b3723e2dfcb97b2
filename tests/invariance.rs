//! The same request gives the same bits alone, in a batch, in chunks, after a prefix hit, after preemption and on any number of threads:
//! through the whole engine, with every new KV block full of NaN.

#![allow(clippy::unwrap_used)] // helpers of tests

use openelm_server::engine::{Engine, EngineConfig, EngineHandle};
use openelm_server::generation::{GenerationEvent, GenerationRequest, SamplingParams, StopCriteria, TokenLogprobs, Usage};
use openelm_server::model::{ModelFiles, ModelSource, TokenizerSource};
use openelm_server::ops::cpu::{CpuBackend, CpuKernels};
use openelm_server::ops::{BlockFormat, DType, KvType};
use openelm_server::runner::paged::{RunnerOptions, WeightOptions, load};
use openelm_server::telemetry::metrics::Metrics;
use std::path::Path;
use std::sync::Arc;

/// What a client sees of one sequence.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    /// Bits of all log-probabilities, of the prompt first.
    logprobs: Vec<u32>,
    usage: Usage,
}

impl Answer {
    /// The answer without what may differ: how much the cache held.
    fn same(&self, other: &Self) -> bool {
        let usage = Usage { cached_tokens: other.usage.cached_tokens, ..self.usage };
        self.tokens == other.tokens && self.logprobs == other.logprobs && usage == other.usage
    }
}

struct Server {
    engine: EngineHandle,
    metrics: Arc<Metrics>,
}

/// An engine on a golden checkpoint; `change` adjusts the defaults.
fn start((name, kernels, quantization, kv_cache): Case, change: impl Fn(&mut RunnerOptions, &mut EngineConfig)) -> Server {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let files = ModelFiles::open(&ModelSource::Directory(path), TokenizerSource::Model).unwrap();
    let weights = WeightOptions { dtype: Some(DType::Bf16), quantization, keeps_blocks: true };
    let mut options = RunnerOptions { weights, kv_cache_dtype: Some(kv_cache), cpu_kernels: kernels, ..RunnerOptions::default() };
    let mut config = EngineConfig { max_model_len: 256, enable_prefix_caching: false, ..EngineConfig::default() };
    change(&mut options, &mut config);
    options.max_num_batched_tokens = config.max_num_batched_tokens;
    let (mut runner, _) = load(&files, &options).unwrap();
    runner.poison_new_blocks();
    let metrics = Metrics::new("test");
    let engine = Engine::start(Box::new(runner), config, metrics.clone()).unwrap();
    Server { engine, metrics }
}

/// Sixteen requests of different lengths, greedy and sampled, some scoring their prompts.
fn requests() -> Vec<GenerationRequest> {
    let request = |i: u32| GenerationRequest {
        request_id: Arc::from(format!("request-{i}")),
        prompt: (0..[3, 33, 64, 65, 100, 150][i as usize % 6]).map(|p| 1 + (p * 7 + i * 31) % 380).collect(),
        prompt_index: 0,
        choice_index: i,
        sampling: SamplingParams {
            temperature: if i.is_multiple_of(2) { 0.0 } else { 1.0 },
            top_p: 0.95,
            repetition_penalty: 1.1,
            seed: 42,
            ..SamplingParams::greedy()
        },
        constraint: None,
        logprob_tokens: Arc::from([]),
        reports_prefill: false,
        priority: 0,
        stop: StopCriteria::length(40),
        logprobs: Some(3),
        prompt_logprobs: (i % 4 == 3).then_some(2),
        cache_salt: 0,
    };
    (0..16).map(request).collect()
}

fn add_bits(logprobs: &TokenLogprobs, bits: &mut Vec<u32>) {
    bits.extend([logprobs.chosen.token, logprobs.chosen.logprob.to_bits(), logprobs.rank]);
    bits.extend(logprobs.top.iter().flat_map(|t| [t.token, t.logprob.to_bits()]));
}

/// Submits all at once and collects what comes.
async fn run(server: &Server, requests: Vec<GenerationRequest>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for mut stream in server.engine.submit(requests, None).unwrap() {
        let mut answer = Answer { tokens: Vec::new(), logprobs: Vec::new(), usage: Usage::default() };
        while let Some(event) = stream.recv().await {
            match event {
                GenerationEvent::Scheduled { .. } | GenerationEvent::Prefill { .. } => {}
                GenerationEvent::PromptLogprobs(list) => list.iter().flatten().for_each(|l| add_bits(l, &mut answer.logprobs)),
                GenerationEvent::Token { token, logprobs } => {
                    answer.tokens.push(token);
                    logprobs.iter().for_each(|l| add_bits(l, &mut answer.logprobs));
                }
                GenerationEvent::Finished { usage, .. } => answer.usage = usage,
                GenerationEvent::Failed(failure) => panic!("{failure:?}"),
            }
        }
        assert_eq!(answer.tokens.len(), 40);
        answers.push(answer);
    }
    answers
}

/// Every request alone on an engine with one thread.
async fn alone(case: Case) -> Vec<Answer> {
    let server = start(case, |options, _| options.threads = 1);
    let mut answers = Vec::new();
    for request in requests() {
        answers.extend(run(&server, vec![request]).await);
    }
    answers
}

fn compare(what: &str, found: &[Answer], wanted: &[Answer]) {
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!(found.same(wanted), "{what}: request {i} differs\n{:?}\n{:?}", found.tokens, wanted.tokens);
    }
}

/// Value of a counter or gauge on the metrics page.
fn metric(server: &Server, name: &str) -> f64 {
    let page = server.metrics.render();
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A golden checkpoint, the kernels that are forced on it, the blocks that its weights are quantised to, and the type of its KV cache.
type Case = (&'static str, CpuKernels, Option<BlockFormat>, KvType);

const BF16: KvType = KvType::Scalar(DType::Bf16);

/// Both checkpoints with all kernels that this CPU has, in 16, 8 and 4 bits. Blocks do not divide all rows of the second one, so it has
/// matrices of both kinds.
fn cases() -> Vec<Case> {
    let kernels = [CpuKernels::Portable, CpuKernels::Avx512Bf16].into_iter().filter(|kernels| CpuBackend::new(*kernels, 1).is_ok());
    let numbers = kernels.flat_map(|kernels| ["tiny-hd64-gqa4", "tiny-hd32-gqa2"].map(|name| (name, kernels, None, BF16)));
    let blocks = [
        ("tiny-hd64-gqa4", CpuKernels::Auto, Some(BlockFormat::Q8_0), BF16),
        ("tiny-hd64-gqa4", CpuKernels::Auto, Some(BlockFormat::Q4_0), KvType::Int8),
        ("tiny-hd64-gqa4", CpuKernels::Auto, Some(BlockFormat::Q4_1), BF16),
        ("tiny-hd32-gqa2", CpuKernels::Auto, Some(BlockFormat::Q8_0), BF16),
        ("tiny-hd32-gqa2", CpuKernels::Auto, Some(BlockFormat::Q4_0), BF16),
        ("tiny-hd32-gqa2", CpuKernels::Auto, None, KvType::Int8),
    ];
    numbers.chain(blocks).collect()
}

#[tokio::test]
async fn a_batch_of_sixteen_gives_the_bits_of_each_alone() {
    for case in cases() {
        let wanted = alone(case).await;
        for threads in [1, 2] {
            let server = start(case, |options, _| options.threads = threads);
            compare(&format!("{case:?}, {threads} threads"), &run(&server, requests()).await, &wanted);
        }
    }
}

#[tokio::test]
async fn chunks_of_seven_give_the_same_bits() {
    for case in cases() {
        let server = start(case, |options, config| (options.threads, config.max_num_batched_tokens) = (2, 7));
        compare(&format!("{case:?}"), &run(&server, requests()).await, &alone(case).await);
    }
}

#[tokio::test]
async fn a_prefix_hit_gives_the_same_bits() {
    for case in cases() {
        let server = start(case, |_, config| config.enable_prefix_caching = true);
        let first = run(&server, requests()).await;
        let second = run(&server, requests()).await;
        let wanted = alone(case).await;
        compare(&format!("{case:?}"), &first, &wanted);
        compare(&format!("{case:?}"), &second, &wanted);
        let hits = second.iter().filter(|answer| answer.usage.cached_tokens > 0).count();
        assert!(hits >= 8, "only {hits} requests hit the cache");
    }
}

#[tokio::test]
async fn preemption_gives_the_same_bits_and_leaks_nothing() {
    for case in cases() {
        let server = start(case, |options, config| {
            // Room for one longest sequence and a half.
            let (heads, head_dim) = if case.0 == "tiny-hd64-gqa4" { (6, 64) } else { (11, 32) };
            options.kv_cache_memory_bytes = Some((12 * 32 * heads * case.3.head_bytes(head_dim)) as u64);
            config.max_num_seqs = 16;
        });
        compare(&format!("{case:?}"), &run(&server, requests()).await, &alone(case).await);
        assert!(metric(&server, "vllm:num_preemptions_total") > 0.0, "the pool was large enough after all");
        assert_eq!(metric(&server, "vllm:kv_cache_usage_perc"), 0.0);
    }
}
