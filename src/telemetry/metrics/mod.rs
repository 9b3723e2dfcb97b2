//! Prometheus metrics: one struct that holds every name and bucket.
//!
//! `engine` and `server` call the typed methods; `/metrics` calls [`Metrics::render`]. Names are vLLM's where the meaning is the same, so that
//! its dashboards, autoscalers and the Gateway API inference extension work; `openelm:` marks our own.
//!
//! **Architecture invariant:** no other module knows a metric's name or label. Label values come from closed sets (routes, methods, reasons),
//! never from a client.

mod buckets;
mod define;
mod families;
mod observation;
mod operations;
mod rate;
#[cfg(test)]
mod tests;

pub use observation::{CacheConfig, EngineLoad, FinishedSequence, HttpRequest, Outcome, Rejection};
pub use operations::StepOperations;

use define::Definer;
use families::{LoadFamilies, RequestFamilies, ServerFamilies, WorkFamilies};
use prometheus::{Registry, TextEncoder};
use rate::SlidingRate;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Index of the engine in the labels; there is one.
const ENGINE: &str = "0";

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    load: LoadFamilies,
    work: WorkFamilies,
    request: RequestFamilies,
    server: ServerFamilies,
    generated: Mutex<SlidingRate>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of a server of `model_name` (its first served name), all zero.
    pub fn new(model_name: &str) -> Arc<Self> {
        let registry = Registry::new();
        let labels = HashMap::from([("model_name".to_owned(), model_name.to_owned()), ("engine".to_owned(), ENGINE.to_owned())]);
        let engine = Definer { registry: &registry, labels };
        let server = Definer { registry: &registry, labels: HashMap::new() };
        let load = LoadFamilies::define(&engine);
        let work = WorkFamilies::define(&engine);
        let request = RequestFamilies::define(&engine);
        let server = ServerFamilies::define(&server);
        register_process(&registry);
        let metrics = Self { load, work, request, server, generated: Mutex::new(SlidingRate::new(Instant::now())), registry };
        metrics.touch_labels();
        Arc::new(metrics)
    }

    /// Makes series with labels from closed sets visible before their first event, so that a rate over them starts at zero.
    fn touch_labels(&self) {
        for outcome in Outcome::ALL {
            self.work.request_success.with_label_values(&[outcome.label()]);
        }
        for rejection in Rejection::ALL {
            self.work.admission_rejections.with_label_values(&[rejection.label()]);
        }
        for source in ["local_compute", "local_cache_hit", "external_kv_transfer"] {
            self.work.prompt_tokens_by_source.with_label_values(&[source]);
        }
        for (state, value) in [("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)] {
            self.load.sleep_state.with_label_values(&[state]).set(value);
        }
        self.set_load(EngineLoad::default());
    }

    /// The exposition in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.render_at(Instant::now())
    }

    fn render_at(&self, now: Instant) -> String {
        let per_second = self.generated.lock().unwrap_or_else(PoisonError::into_inner).per_second(now);
        self.load.tokens_per_second.set(per_second);
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }

    /// Time from the start of the process until it could serve.
    pub fn set_startup(&self, duration: Duration) {
        self.server.startup.set(duration.as_secs_f64());
    }

    /// What the KV cache looks like.
    pub fn set_cache_config(&self, config: CacheConfig<'_>) {
        let caching = if config.enable_prefix_caching { "True" } else { "False" };
        let labels = [&*config.block_size.to_string(), &*config.num_blocks.to_string(), config.cache_dtype, caching];
        self.load.cache_config.reset();
        self.load.cache_config.with_label_values(&labels).set(1.0);
    }

    /// State of the engine after a step.
    pub fn set_load(&self, load: EngineLoad) {
        self.load.running.set(load.running as f64);
        self.load.waiting.set(load.waiting as f64);
        self.load.waiting_by_reason.with_label_values(&["capacity"]).set(load.waiting as f64);
        self.load.waiting_by_reason.with_label_values(&["deferred"]).set(0.0);
        self.load.kv_cache_usage.set(load.kv_cache_usage);
    }

    /// A step that computed `tokens` rows.
    pub fn step(&self, duration: Duration, tokens: usize) {
        self.work.step_seconds.observe(duration.as_secs_f64());
        self.work.step_tokens.observe(tokens as f64);
    }

    /// Counters for the time that steps spend in each of `operations`, all visible from now on.
    pub fn step_operations(&self, operations: &[&'static str]) -> StepOperations {
        StepOperations::new(&self.work.step_operation_seconds, operations)
    }

    /// A step that failed or panicked.
    pub fn step_failed(&self) {
        self.work.step_failures.inc();
    }

    /// Tokens looked up and found in the prefix cache.
    pub fn prefix_cache(&self, queries: u64, hits: u64) {
        self.work.prefix_cache_queries.inc_by(queries);
        self.work.prefix_cache_hits.inc_by(hits);
    }

    /// Running sequences that lost their blocks.
    pub fn preempted(&self, sequences: u64) {
        self.work.preemptions.inc_by(sequences);
    }

    /// A request that the queue refused.
    pub fn rejected(&self, reason: Rejection) {
        self.work.admission_rejections.with_label_values(&[reason.label()]).inc();
    }

    /// A sequence's first step, `queue_time` after its arrival.
    pub fn first_scheduled(&self, queue_time: Duration) {
        self.request.queue_time.observe(queue_time.as_secs_f64());
    }

    /// A prompt was processed, `cached` of its tokens from the prefix cache.
    pub fn prompt_processed(&self, computed: u32, cached: u32) {
        self.work.prompt_tokens.inc_by(u64::from(computed) + u64::from(cached));
        self.work.prompt_tokens_cached.inc_by(u64::from(cached));
        self.work.prompt_tokens_by_source.with_label_values(&["local_compute"]).inc_by(u64::from(computed));
        self.work.prompt_tokens_by_source.with_label_values(&["local_cache_hit"]).inc_by(u64::from(cached));
    }

    /// Tokens generated by one step that ended at `at`.
    pub fn generated(&self, tokens: u64, at: Instant) {
        self.work.generation_tokens.inc_by(tokens);
        self.generated.lock().unwrap_or_else(PoisonError::into_inner).add(tokens, at);
    }

    /// A sequence's first token, `latency` after its arrival.
    pub fn first_token(&self, latency: Duration) {
        self.request.time_to_first_token.observe(latency.as_secs_f64());
    }

    /// A further token, `latency` after the one before.
    pub fn next_token(&self, latency: Duration) {
        self.request.inter_token_latency.observe(latency.as_secs_f64());
    }

    /// A sequence ended in whatever way.
    pub fn ended(&self, outcome: Outcome) {
        self.work.request_success.with_label_values(&[outcome.label()]).inc();
    }

    /// A sequence finished with [`Outcome::Stop`] or [`Outcome::Length`].
    pub fn finished(&self, sequence: &FinishedSequence) {
        let request = &self.request;
        request.e2e_latency.observe(sequence.e2e.as_secs_f64());
        request.inference_time.observe(sequence.inference.as_secs_f64());
        request.prompt_tokens.observe(f64::from(sequence.prompt_tokens));
        request.generation_tokens.observe(f64::from(sequence.generation_tokens));
        request.params_max_tokens.observe(f64::from(sequence.max_tokens));
        request.prefill_computed_tokens.observe(f64::from(sequence.prompt_tokens.saturating_sub(sequence.cached_tokens)));
        request.preemptions.observe(f64::from(sequence.preemptions));
        if let Some(prefill) = sequence.prefill {
            request.prefill_time.observe(prefill.as_secs_f64());
        }
        if let Some(decode) = sequence.decode {
            request.decode_time.observe(decode.as_secs_f64());
            if sequence.generation_tokens > 1 {
                request.time_per_output_token.observe(decode.as_secs_f64() / f64::from(sequence.generation_tokens - 1));
            }
        }
    }

    /// All `choices` of one prompt ended; the longest has `max_generation_tokens`.
    pub fn prompt_ended(&self, choices: u32, max_generation_tokens: u32) {
        self.request.params_n.observe(f64::from(choices));
        self.request.max_generation_tokens.observe(f64::from(max_generation_tokens));
    }

    /// An HTTP request was answered.
    pub fn http_request(&self, request: &HttpRequest<'_>) {
        let status = request.status.to_string();
        let seconds = request.duration.as_secs_f64();
        self.server.requests.with_label_values(&[request.handler, request.method, &status]).inc();
        self.server.duration.with_label_values(&[request.handler, request.method]).observe(seconds);
        self.server.duration_highr.observe(seconds);
        self.server.request_bytes.with_label_values(&[request.handler]).observe(request.request_bytes as f64);
        self.server.response_bytes.with_label_values(&[request.handler]).observe(request.response_bytes as f64);
    }
}

/// CPU, memory, file descriptors and threads of the process.
#[cfg(target_os = "linux")]
fn register_process(registry: &Registry) {
    let collector = prometheus::process_collector::ProcessCollector::for_self();
    registry.register(Box::new(collector)).expect("process_* names are used once");
}

/// Only Linux tells about processes in a way the collector reads.
#[cfg(not(target_os = "linux"))]
fn register_process(_registry: &Registry) {}
