//! Figures for metrics and admission.

use super::Scheduler;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) preemptions: u64,
    pub(super) prefix_cache_queries: u64,
    pub(super) prefix_cache_hits: u64,
}

/// The state of a scheduler in figures. `_total` counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Sequences that wait, preempted ones included.
    pub waiting: usize,
    /// Sequences that hold blocks.
    pub running: usize,
    /// Blocks held by sequences.
    pub blocks_used: usize,
    /// Blocks that can be found by their tokens, held or free.
    pub blocks_cached: usize,
    /// Blocks in the pool.
    pub blocks_total: usize,
    /// Preemptions.
    pub preemptions_total: u64,
    /// Prompt tokens looked up in the prefix cache, once a sequence.
    pub prefix_cache_queries_total: u64,
    /// Of these, tokens found.
    pub prefix_cache_hits_total: u64,
}

impl SchedulerStats {
    /// Share of the blocks that are held, `0..=1`.
    pub fn kv_cache_usage(&self) -> f64 {
        self.blocks_used as f64 / self.blocks_total.max(1) as f64
    }
}

impl Scheduler {
    /// The figures of this moment.
    pub fn stats(&self) -> SchedulerStats {
        SchedulerStats {
            waiting: self.waiting.len(),
            running: self.running.len(),
            blocks_used: self.kv.num_blocks() - self.kv.num_free_blocks(),
            blocks_cached: self.kv.num_cached_blocks(),
            blocks_total: self.kv.num_blocks(),
            preemptions_total: self.totals.preemptions,
            prefix_cache_queries_total: self.totals.prefix_cache_queries,
            prefix_cache_hits_total: self.totals.prefix_cache_hits,
        }
    }
}
