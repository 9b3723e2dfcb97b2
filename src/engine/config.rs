//! What the engine is told at its start, and what it tells about itself.

use std::time::Duration;

/// Limits and switches of the engine. The size of the KV cache comes from the runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most tokens of one sequence, prompt and output together.
    pub max_model_len: usize,
    /// Most sequences in one step.
    pub max_num_seqs: usize,
    /// Most tokens in one step; the runner's limit applies where it is smaller.
    pub max_num_batched_tokens: usize,
    /// Whether blocks of equal prefixes are shared.
    pub enable_prefix_caching: bool,
    /// Whether a runner that computes elsewhere is sent the next step while it computes one.
    pub async_scheduling: bool,
    /// Most sequences accepted and not yet scheduled.
    pub max_num_queued_reqs: usize,
    /// Most prompt tokens of such sequences.
    pub max_num_queued_tokens: usize,
    /// How long a step with prefill should take at most; the engine sizes its chunks by it.
    pub step_time_target: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_model_len: 2048,
            max_num_seqs: 64,
            max_num_batched_tokens: 512,
            enable_prefix_caching: true,
            async_scheduling: true,
            max_num_queued_reqs: 256,
            max_num_queued_tokens: 262_144,
            step_time_target: Duration::from_millis(100),
        }
    }
}

/// What the engine can hold, fixed at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Most tokens of one sequence.
    pub max_model_len: usize,
    /// Tokens of all sequences that fit the KV cache.
    pub kv_capacity_tokens: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// Blocks in the pool.
    pub num_blocks: usize,
    /// Logits in a row.
    pub vocab_size: usize,
    /// Most sequences in one step.
    pub max_num_seqs: usize,
    /// Most tokens in one step.
    pub max_num_batched_tokens: usize,
}

/// State of the engine as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineStatus {
    /// Accepts work.
    Ready,
    /// Finishes what it has and accepts nothing.
    Draining,
    /// Cannot compute any more.
    Failed {
        /// Why, for the operator.
        reason: String,
    },
    /// The thread ended as it was told to.
    Stopped,
}
