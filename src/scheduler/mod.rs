//! Decides which tokens of which sequences the next step computes, and what the step's results mean for them.
//!
//! `engine` is the one caller and repeats three calls: [`Scheduler::schedule`] gives a [`StepPlan`], the runner computes it,
//! [`Scheduler::complete`] takes the results and gives [`SchedulerEvent`]s. With a runner that computes elsewhere it asks
//! [`Scheduler::schedule_ahead`] for the next plan before those results are there, and [`Scheduler::confirm`]s it with them.
//!
//! **There is no prefill and no decode phase.** A sequence has tokens, and `num_computed_tokens` of them have their keys and values in
//! the KV cache. Each step lets sequences catch up under a budget of tokens; the one that catches up completely samples its next token.
//! A long prompt in chunks, one token of decoding, the rest after a prefix hit, and everything again after a preemption are the
//! same branch.
//!
//! **Order.** Sequences stand in order of arrival; the running ones are always a beginning of that order. Running ones are served
//! first and oldest first, then waiting ones are admitted, never past one that does not fit. When blocks run out the youngest running one
//! is preempted: its blocks are freed, its generated tokens are kept, and it waits in front of all others to be computed again.
//!
//! **Liveness.** A sequence is accepted only if it fits the pool alone, and the oldest can take the blocks of all others. So the oldest
//! is in every plan, advances by at least one token a step, and ends; then the next one is the oldest.
//!
//! **Architecture invariant:** pure. No clock, I/O, channel or tensor, and no order that depends on a hash map: equal calls give equal
//! plans. Time comes in as a value.
//! **Architecture invariant:** every sequence ends exactly once: by [`SchedulerEvent::Finished`], [`SchedulerEvent::Failed`],
//! [`StepPlan::expired`] or an [`Scheduler::abort`] that returned true.
//!
//! It does not sample, does not know text or stop strings, and does not wait for anyone.

mod ahead;
mod audit;
mod completion;
mod plan;
mod policy;
mod sequence;
mod stats;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use plan::{PlannedSequence, SchedulerEvent, StepPlan, StepResult};
pub use sequence::{SeqId, Sequence};
pub use stats::SchedulerStats;

use crate::generation::{StopCriteria, TokenId};
use crate::kv_cache::{Fault, Faults, KvCache, KvCacheConfig};
use sequence::Sequences;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Limits, fixed for the life of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Most sequences that run at a time.
    pub max_num_seqs: usize,
    /// Most tokens computed in one step, over all sequences.
    pub max_num_batched_tokens: usize,
    /// Most tokens of one sequence, prompt and output together.
    pub max_model_len: usize,
    /// Tokens in a KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub num_blocks: usize,
    /// Whether sequences share the blocks of equal beginnings.
    pub enable_prefix_caching: bool,
}

/// A sequence to be scheduled.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// Its name, unused by any sequence that has not ended.
    pub id: SeqId,
    /// Token ids of the prompt, not empty.
    pub prompt: Arc<[TokenId]>,
    /// When it ends. `max_tokens` of 0 ends it when the prompt was computed.
    pub stop: StopCriteria,
    /// Whether every prompt token but the first is to be scored (prompt log-probabilities). Then the prefix cache is not read.
    pub score_prompt: bool,
    /// Who goes first: lower ones do. A unit counts as ten seconds of waiting, so that none waits for ever.
    pub priority: i16,
    /// Only sequences of equal salt share blocks.
    pub cache_salt: u64,
    /// When it expires, on the clock of `now`.
    pub deadline: Option<Duration>,
}

/// Why a sequence is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// A prompt without tokens has nothing to predict from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// Prompt and output do not fit the model's context.
    #[error("{prompt} prompt tokens and up to {max_tokens} generated ones exceed the context of {max_model_len} tokens")]
    TooLongForContext {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens it may generate.
        max_tokens: usize,
        /// Tokens of the context.
        max_model_len: usize,
    },
    /// Even alone the sequence would not fit the KV cache.
    #[error("{needed_tokens} tokens exceed the KV cache of {capacity_tokens} tokens")]
    TooLargeForPool {
        /// Positions the sequence may fill. The last generated token fills none.
        needed_tokens: usize,
        /// Positions in the pool.
        capacity_tokens: usize,
    },
    /// A sequence of this id has not ended.
    #[error("sequence {} exists already", id.0)]
    DuplicateId {
        /// The id.
        id: SeqId,
    },
}

/// The sequences and the KV blocks they hold.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    kv: KvCache,
    sequences: Sequences,
    /// Sequences with blocks, in order of rank.
    running: Vec<SeqId>,
    /// Sequences without blocks, in order of rank. Of one priority, all are younger than the running ones.
    waiting: VecDeque<SeqId>,
    /// Number of the last plan.
    step: u64,
    /// The plan whose results are awaited.
    planned_step: Option<u64>,
    totals: stats::Totals,
    faults: Faults,
}

impl Scheduler {
    /// A scheduler without sequences. Limits of 0 are taken as 1, except `num_blocks`: a pool without blocks accepts nothing.
    pub fn new(config: SchedulerConfig) -> Self {
        Self::with_faults(config, Faults::default())
    }

    pub(crate) fn with_faults(config: SchedulerConfig, faults: Faults) -> Self {
        let config = SchedulerConfig {
            max_num_seqs: config.max_num_seqs.max(1),
            max_num_batched_tokens: config.max_num_batched_tokens.max(1),
            block_size: config.block_size.max(1),
            ..config
        };
        let kv_config = KvCacheConfig {
            num_blocks: config.num_blocks,
            block_size: config.block_size,
            enable_prefix_caching: config.enable_prefix_caching,
        };
        Self {
            config,
            kv: KvCache::with_faults(kv_config, faults),
            sequences: Sequences::default(),
            running: Vec::with_capacity(config.max_num_seqs),
            waiting: VecDeque::new(),
            step: 0,
            planned_step: None,
            totals: stats::Totals::default(),
            faults,
        }
    }

    /// Whether a sequence of this size could ever be computed, alone in the pool.
    ///
    /// # Errors
    /// [`AdmissionError`] when it could not.
    pub fn check(&self, prompt_len: usize, max_tokens: usize) -> Result<(), AdmissionError> {
        let max_model_len = self.config.max_model_len;
        if prompt_len == 0 {
            return Err(AdmissionError::EmptyPrompt);
        }
        if prompt_len.saturating_add(max_tokens) > max_model_len {
            return Err(AdmissionError::TooLongForContext { prompt: prompt_len, max_tokens, max_model_len });
        }
        let needed_tokens = prompt_len + max_tokens.saturating_sub(1);
        if self.kv.blocks_for(needed_tokens) > self.kv.num_blocks() && !self.faults.has(Fault::PoolLimitIgnored) {
            let capacity_tokens = self.kv.num_blocks() * self.kv.block_size();
            return Err(AdmissionError::TooLargeForPool { needed_tokens, capacity_tokens });
        }
        Ok(())
    }

    /// Takes a sequence over; it waits behind all others of its priority.
    ///
    /// # Errors
    /// [`AdmissionError`] when it could never be computed or its id is in use.
    pub fn add(&mut self, sequence: NewSequence, now: Duration) -> Result<(), AdmissionError> {
        self.check(sequence.prompt.len(), sequence.stop.max_tokens as usize)?;
        let id = sequence.id;
        if self.sequences.get(id).is_some() {
            return Err(AdmissionError::DuplicateId { id });
        }
        self.sequences.insert(sequence, now);
        self.enqueue(id);
        Ok(())
    }

    /// Puts a sequence among the waiting, in order of rank.
    fn enqueue(&mut self, id: SeqId) {
        let place = self.waiting.partition_point(|&other| self.sequences.rank(other) < self.sequences.rank(id));
        self.waiting.insert(place, id);
    }

    /// Puts a sequence among the running, in order of rank.
    fn run(&mut self, id: SeqId) {
        let place = self.running.partition_point(|&other| self.sequences.rank(other) < self.sequences.rank(id));
        self.running.insert(place, id);
    }

    /// Ends a sequence and frees its blocks at once, also while a step that holds it is being computed: its result is then ignored.
    /// False if no such sequence is there.
    pub fn abort(&mut self, id: SeqId) -> bool {
        if self.sequences.get(id).is_none() {
            return false;
        }
        if self.faults.has(Fault::LeakOnAbort) {
            self.take(id);
        } else {
            self.remove(id);
        }
        true
    }

    /// A sequence that has not ended.
    pub fn sequence(&self, id: SeqId) -> Option<&Sequence> {
        self.sequences.get(id)
    }

    /// Whether no sequence is left.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// The limits.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// The block accounting, to look at.
    pub fn kv_cache(&self) -> &KvCache {
        &self.kv
    }

    /// Ends a sequence; its computed blocks can be found until they are reused.
    fn remove(&mut self, id: SeqId) {
        if let Some(mut sequence) = self.take(id) {
            self.kv.release(&mut sequence.table);
        }
    }

    /// Takes a sequence out of all lists; the caller gives its blocks back.
    fn take(&mut self, id: SeqId) -> Option<Sequence> {
        self.running.retain(|&other| other != id);
        self.waiting.retain(|&other| other != id);
        self.sequences.remove(id)
    }
}
