//! Arguments of the methods of [`super::Metrics`].

use crate::generation::FinishReason;
use std::time::Duration;

/// State of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineLoad {
    /// Sequences in the running batch.
    pub running: usize,
    /// Sequences waiting.
    pub waiting: usize,
    /// Share of KV blocks in use, `0..=1`.
    pub kv_cache_usage: f64,
}

/// What `vllm:cache_config_info` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig<'a> {
    /// Tokens in a block.
    pub block_size: usize,
    /// Blocks of the pool.
    pub num_blocks: usize,
    /// Type of the cached numbers.
    pub cache_dtype: &'a str,
    /// Whether prefixes are cached.
    pub enable_prefix_caching: bool,
}

/// How a sequence ended, as `finished_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An end-of-sequence or stop token.
    Stop,
    /// `max_tokens`.
    Length,
    /// Cancelled: client gone, deadline, shutdown.
    Abort,
    /// Failed.
    Error,
}

impl Outcome {
    pub(super) const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

impl From<FinishReason> for Outcome {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
        }
    }
}

/// Which limit of the queue refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// `--max-num-queued-reqs`.
    Requests,
    /// `--max-num-queued-tokens`.
    Tokens,
}

impl Rejection {
    pub(super) const ALL: [Self; 2] = [Self::Requests, Self::Tokens];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Requests => "max_num_queued_reqs",
            Self::Tokens => "max_num_queued_tokens",
        }
    }
}

/// A sequence that finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FinishedSequence {
    /// Arrival to end.
    pub e2e: Duration,
    /// First step to end.
    pub inference: Duration,
    /// First step to first token; `None` when no token was generated.
    pub prefill: Option<Duration>,
    /// First token to end; `None` when no token was generated.
    pub decode: Option<Duration>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, how many were cached.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub generation_tokens: u32,
    /// The limit that was asked for.
    pub max_tokens: u32,
    /// How often it was preempted.
    pub preemptions: u32,
}

/// One HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpRequest<'a> {
    /// The route's pattern, never the raw path.
    pub handler: &'a str,
    /// The method.
    pub method: &'a str,
    /// The status.
    pub status: u16,
    /// Until the last byte of the response.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
}
