//! What the tests share.

use crate::engine::command::Command;
use crate::engine::core::EngineCore;
use crate::engine::{Clock, Engine, EngineConfig, EngineHandle, GenerationStream, assemble};
use crate::generation::{
    FinishReason, GenerationEvent, GenerationFailure, GenerationRequest, SamplingParams, StopCriteria, TokenId, TokenLogprobs, Usage,
};
use crate::runner::RunnerLimits;
use crate::runner::fake::{FakeControl, FakeRunner};
use crate::telemetry::metrics::Metrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub(super) const VOCAB: usize = 64;

/// A clock that stands until it is moved.
#[derive(Debug)]
pub(super) struct ManualClock {
    origin: Instant,
    nanos: AtomicU64,
}

impl ManualClock {
    pub(super) fn advance(&self, by: Duration) {
        self.nanos.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.origin + Duration::from_nanos(self.nanos.load(Ordering::SeqCst))
    }
}

pub(super) fn runner_limits(num_blocks: usize, block_size: usize) -> RunnerLimits {
    RunnerLimits { num_blocks, block_size, max_num_batched_tokens: 64, vocab_size: VOCAB }
}

pub(super) fn config() -> EngineConfig {
    EngineConfig { max_model_len: 256, enable_prefix_caching: false, ..EngineConfig::default() }
}

/// An engine without its thread: commands are obeyed and steps made when the test says so.
pub(super) struct Bench {
    pub core: EngineCore,
    pub handle: EngineHandle,
    pub clock: Arc<ManualClock>,
    pub metrics: Arc<Metrics>,
    commands: Receiver<Command>,
}

impl Bench {
    pub(super) fn new(runner: FakeRunner, config: &EngineConfig) -> Self {
        let clock = Arc::new(ManualClock { origin: Instant::now(), nanos: AtomicU64::new(0) });
        let metrics = Metrics::new("fake");
        let (handle, core, commands) = assemble(Box::new(runner), config, Arc::clone(&metrics), clock.clone()).unwrap();
        Self { core, handle, clock, metrics, commands }
    }

    pub(super) fn submit(&self, request: GenerationRequest) -> GenerationStream {
        self.handle.submit(vec![request], None).unwrap().remove(0)
    }

    pub(super) fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Submit(submissions) => self.core.submit(submissions),
                Command::Abort(id) => self.core.abort(id),
                Command::Finish(id) => self.core.finish(id),
                Command::AbortAll | Command::Stop => unreachable!("not used without the thread"),
            }
        }
    }

    /// What the thread does once around.
    pub(super) fn turn(&mut self) {
        self.obey();
        if !self.core.is_idle() {
            self.core.step();
        }
    }

    pub(super) fn run_until_idle(&mut self) {
        for _ in 0..100_000 {
            self.obey();
            if self.core.is_idle() {
                return;
            }
            self.core.step();
        }
        panic!("still not idle");
    }

    /// As if the thread had unwound: core and channel are dropped without a word.
    pub(super) fn crash(self) -> EngineHandle {
        self.handle
    }

    pub(super) fn blocks_used(&self) -> usize {
        self.core.scheduler().stats().blocks_used
    }

    pub(super) fn metric(&self, series: &str) -> f64 {
        metric(&self.metrics, series)
    }
}

/// The value of the first series that begins with `series`.
pub(super) fn metric(metrics: &Metrics, series: &str) -> f64 {
    let page = metrics.render();
    let line = page.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no series {series}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// An engine with its thread.
pub(super) fn start(runner: FakeRunner, config: EngineConfig) -> (EngineHandle, Arc<Metrics>) {
    let metrics = Metrics::new("fake");
    (Engine::start(Box::new(runner), config, Arc::clone(&metrics)).unwrap(), metrics)
}

pub(super) fn fake(num_blocks: usize, block_size: usize) -> (FakeRunner, FakeControl) {
    FakeRunner::new(runner_limits(num_blocks, block_size))
}

pub(super) fn request(prompt: &[TokenId], max_tokens: u32) -> GenerationRequest {
    GenerationRequest {
        request_id: Arc::from("test"),
        prompt: Arc::from(prompt),
        prompt_index: 0,
        choice_index: 0,
        sampling: SamplingParams::greedy(),
        stop: StopCriteria::length(max_tokens),
        constraint: None,
        logprob_tokens: Arc::from([]),
        reports_prefill: false,
        priority: 0,
        logprobs: None,
        prompt_logprobs: None,
        cache_salt: 0,
    }
}

/// A prompt of its own for each `number`.
pub(super) fn prompt(number: usize, length: usize) -> Vec<TokenId> {
    (0..length).map(|position| ((number * 31 + position * 7 + number * position) % VOCAB) as TokenId).collect()
}

/// All that came for one sequence.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Outcome {
    pub prefill: Vec<u32>,
    pub prompt_logprobs: Vec<Option<TokenLogprobs>>,
    pub tokens: Vec<TokenId>,
    pub logprobs: Vec<Option<TokenLogprobs>>,
    pub finished: Option<(FinishReason, Usage)>,
    pub failed: Option<GenerationFailure>,
}

impl Outcome {
    /// Takes one event; panics where something follows the end or comes in the wrong order.
    fn take(&mut self, event: GenerationEvent) {
        assert!(self.finished.is_none() && self.failed.is_none(), "{event:?} after the end");
        match event {
            GenerationEvent::Scheduled { .. } => assert!(self.tokens.is_empty() && self.prompt_logprobs.is_empty(), "not the first event"),
            GenerationEvent::Prefill { computed } => self.prefill.push(computed),
            GenerationEvent::PromptLogprobs(entries) => {
                assert!(self.tokens.is_empty(), "prompt log-probabilities after a token");
                self.prompt_logprobs.extend(entries);
            }
            GenerationEvent::Token { token, logprobs } => {
                self.tokens.push(token);
                self.logprobs.push(logprobs);
            }
            GenerationEvent::Finished { reason, usage } => self.finished = Some((reason, usage)),
            GenerationEvent::Failed(failure) => self.failed = Some(failure),
        }
    }
}

/// Reads a stream to its end.
pub(super) async fn collect(mut stream: GenerationStream) -> Outcome {
    let mut outcome = Outcome::default();
    while let Some(event) = stream.recv().await {
        outcome.take(event);
    }
    assert!(outcome.finished.is_some() != outcome.failed.is_some(), "exactly one terminal event");
    outcome
}

/// What has come by now, without waiting.
pub(super) fn poll(stream: &mut GenerationStream) -> Vec<GenerationEvent> {
    let mut context = Context::from_waker(Waker::noop());
    let mut events = Vec::new();
    while let Poll::Ready(Some(event)) = stream.poll_recv(&mut context) {
        events.push(event);
    }
    events
}

/// Everything of a stream whose sequence has ended.
pub(super) fn collected(mut stream: GenerationStream) -> Outcome {
    let mut outcome = Outcome::default();
    for event in poll(&mut stream) {
        outcome.take(event);
    }
    assert!(outcome.finished.is_some() != outcome.failed.is_some(), "exactly one terminal event");
    outcome
}

/// Waits, for at most ten seconds, until `condition` holds.
pub(super) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Runs async code of a test.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("a test took a minute") })
}
