//! Every metric's name, help text and labels. No other file of the crate names a metric.

use super::buckets;
use super::define::Definer;
use prometheus::{CounterVec, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec};

/// State of the engine at the end of a step.
pub(super) struct LoadFamilies {
    pub running: Gauge,
    pub waiting: Gauge,
    pub waiting_by_reason: GaugeVec,
    pub kv_cache_usage: Gauge,
    pub sleep_state: GaugeVec,
    pub cache_config: GaugeVec,
    pub tokens_per_second: Gauge,
}

impl LoadFamilies {
    pub(super) fn define(engine: &Definer<'_>) -> Self {
        Self {
            running: engine.gauge("vllm:num_requests_running", "Sequences in the running batch."),
            waiting: engine.gauge("vllm:num_requests_waiting", "Sequences waiting to be scheduled."),
            waiting_by_reason: engine.gauges(
                "vllm:num_requests_waiting_by_reason",
                "Sequences waiting, by what they wait for.",
                &["reason"],
            ),
            kv_cache_usage: engine.gauge("vllm:kv_cache_usage_perc", "Share of KV cache blocks in use; 1 is all of them."),
            sleep_state: engine.gauges("vllm:engine_sleep_state", "1 for the state the engine is in.", &["sleep_state"]),
            cache_config: engine.gauges(
                "vllm:cache_config_info",
                "Configuration of the KV cache.",
                &["block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching"],
            ),
            tokens_per_second: engine
                .gauge("openelm:generation_tokens_per_second", "Tokens generated per second over the last ten seconds."),
        }
    }
}

/// Work done, as counters.
pub(super) struct WorkFamilies {
    pub prompt_tokens: IntCounter,
    pub prompt_tokens_cached: IntCounter,
    pub prompt_tokens_by_source: IntCounterVec,
    pub generation_tokens: IntCounter,
    pub prefix_cache_queries: IntCounter,
    pub prefix_cache_hits: IntCounter,
    pub preemptions: IntCounter,
    pub request_success: IntCounterVec,
    pub admission_rejections: IntCounterVec,
    pub step_failures: IntCounter,
    pub step_seconds: Histogram,
    pub step_tokens: Histogram,
    pub step_operation_seconds: CounterVec,
}

impl WorkFamilies {
    pub(super) fn define(engine: &Definer<'_>) -> Self {
        Self {
            prompt_tokens: engine.counter("vllm:prompt_tokens_total", "Prompt tokens processed."),
            prompt_tokens_cached: engine.counter("vllm:prompt_tokens_cached_total", "Prompt tokens that the prefix cache held."),
            prompt_tokens_by_source: engine.counters(
                "vllm:prompt_tokens_by_source_total",
                "Prompt tokens by where they came from.",
                &["source"],
            ),
            generation_tokens: engine.counter("vllm:generation_tokens_total", "Tokens generated."),
            prefix_cache_queries: engine.counter("vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache."),
            prefix_cache_hits: engine.counter("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache."),
            preemptions: engine.counter("vllm:num_preemptions_total", "Preemptions of running sequences."),
            request_success: engine.counters("vllm:request_success_total", "Sequences that ended, by reason.", &["finished_reason"]),
            admission_rejections: engine.counters(
                "vllm:admission_rejections_total",
                "Requests refused because the queue was full, by limit.",
                &["reason"],
            ),
            step_failures: engine.counter("openelm:step_failures_total", "Steps that failed or panicked."),
            step_seconds: engine.histogram("openelm:step_seconds", "Duration of one step of the engine.", buckets::STEP),
            step_tokens: engine.histogram("vllm:iteration_tokens_total", "Tokens computed in one step.", buckets::STEP_TOKENS),
            step_operation_seconds: engine.seconds_counters(
                "openelm:step_operation_seconds_total",
                "Time that steps spent in the runner, and on masks of tokens before it, by operation; openelm:step_seconds_sum holds the rest of each step, too.",
                &["operation"],
            ),
        }
    }
}

/// Latencies and sizes of sequences.
pub(super) struct RequestFamilies {
    pub time_to_first_token: Histogram,
    pub inter_token_latency: Histogram,
    pub time_per_output_token: Histogram,
    pub e2e_latency: Histogram,
    pub queue_time: Histogram,
    pub inference_time: Histogram,
    pub prefill_time: Histogram,
    pub decode_time: Histogram,
    pub prompt_tokens: Histogram,
    pub generation_tokens: Histogram,
    pub max_generation_tokens: Histogram,
    pub params_max_tokens: Histogram,
    pub params_n: Histogram,
    pub prefill_computed_tokens: Histogram,
    pub preemptions: Histogram,
}

impl RequestFamilies {
    pub(super) fn define(engine: &Definer<'_>) -> Self {
        let seconds = |name, help| engine.histogram(name, help, buckets::REQUEST);
        let tokens = |name, help| engine.histogram(name, help, buckets::REQUEST_TOKENS);
        let token_times = |name, help| engine.histogram(name, help, buckets::INTER_TOKEN);
        Self {
            time_to_first_token: engine.histogram(
                "vllm:time_to_first_token_seconds",
                "Time from arrival to the first token.",
                buckets::TIME_TO_FIRST_TOKEN,
            ),
            inter_token_latency: token_times("vllm:inter_token_latency_seconds", "Time between two tokens of a sequence."),
            time_per_output_token: token_times("vllm:request_time_per_output_token_seconds", "Mean time per token after the first."),
            e2e_latency: seconds("vllm:e2e_request_latency_seconds", "Time from arrival to the end."),
            queue_time: seconds("vllm:request_queue_time_seconds", "Time from arrival to the first step."),
            inference_time: seconds("vllm:request_inference_time_seconds", "Time from the first step to the end."),
            prefill_time: seconds("vllm:request_prefill_time_seconds", "Time from the first step to the first token."),
            decode_time: seconds("vllm:request_decode_time_seconds", "Time from the first token to the end."),
            prompt_tokens: tokens("vllm:request_prompt_tokens", "Prompt tokens of a sequence."),
            generation_tokens: tokens("vllm:request_generation_tokens", "Generated tokens of a sequence."),
            max_generation_tokens: tokens("vllm:request_max_num_generation_tokens", "Most generated tokens among the choices of a prompt."),
            params_max_tokens: tokens("vllm:request_params_max_tokens", "The max_tokens parameter."),
            params_n: engine.histogram("vllm:request_params_n", "The n parameter.", buckets::CHOICES),
            prefill_computed_tokens: tokens("vllm:request_prefill_kv_computed_tokens", "Prompt tokens computed, cached ones left out."),
            preemptions: engine.histogram("vllm:request_num_preemptions", "Preemptions of a sequence.", buckets::PREEMPTIONS),
        }
    }
}

/// HTTP and the process.
pub(super) struct ServerFamilies {
    pub requests: IntCounterVec,
    pub duration: HistogramVec,
    pub duration_highr: Histogram,
    pub request_bytes: HistogramVec,
    pub response_bytes: HistogramVec,
    pub startup: Gauge,
}

impl ServerFamilies {
    pub(super) fn define(server: &Definer<'_>) -> Self {
        Self {
            requests: server.counters(
                "http_requests_total",
                "HTTP requests by route, method and status.",
                &["handler", "method", "status"],
            ),
            duration: server.histograms(
                "http_request_duration_seconds",
                "Duration of HTTP requests until the last byte of the response.",
                (&["handler", "method"], buckets::HTTP),
            ),
            duration_highr: server.histogram(
                "http_request_duration_highr_seconds",
                "Duration of HTTP requests, all routes together.",
                buckets::HTTP,
            ),
            request_bytes: server.histograms("http_request_size_bytes", "Bytes of request bodies.", (&["handler"], buckets::BYTES)),
            response_bytes: server.histograms("http_response_size_bytes", "Bytes of response bodies.", (&["handler"], buckets::BYTES)),
            startup: server.gauge("startup_seconds", "Time from the start of the process until it could serve."),
        }
    }
}
