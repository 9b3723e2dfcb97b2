//! One sequence: its tokens, how far they are computed, and the blocks that hold the result.

use super::NewSequence;
use crate::generation::{StopCriteria, TokenId, Usage};
use crate::kv_cache::{BlockId, BlockTable, CacheScope};
use std::collections::BTreeMap;
use std::time::Duration;

/// Waiting that a unit of priority counts for, in milliseconds.
const PRIORITY_MS: i64 = 10_000;

/// Names a sequence; chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// A sequence that waits or runs.
///
/// ```text
/// 0        num_computed_tokens          tokens().len()
/// |── in the KV cache ──|── to be computed ──|
/// |──── prompt() ────|───── output() ────────|
/// ```
#[derive(Debug)]
pub struct Sequence {
    id: SeqId,
    arrival: Duration,
    /// Who goes first: arrival in milliseconds, moved by the priority, then the order of arrival.
    pub(super) rank: (i64, u64),
    pub(super) priority: i16,
    pub(super) prompt_len: usize,
    /// Prompt, then output.
    pub(super) tokens: Vec<TokenId>,
    pub(super) stop: StopCriteria,
    pub(super) score_prompt: bool,
    pub(super) scope: CacheScope,
    pub(super) deadline: Option<Duration>,
    /// Leading tokens whose keys and values are in the KV cache.
    pub(super) num_computed_tokens: usize,
    /// Leading prompt positions whose successor was scored; survives preemption, so that nothing is scored twice.
    pub(super) num_scored: usize,
    /// Tokens that the prefix cache held when the sequence was first scheduled; `None` before.
    pub(super) cached_tokens: Option<usize>,
    pub(super) table: BlockTable,
    /// The plan that holds the sequence.
    pub(super) planned_step: Option<u64>,
    /// The plan that was made ahead of that one's results and holds the sequence too: its table covers one more row.
    pub(super) ahead_step: Option<u64>,
}

impl Sequence {
    /// Its name.
    pub fn id(&self) -> SeqId {
        self.id
    }

    /// When it was added, on the clock of the scheduler's caller.
    pub fn arrival(&self) -> Duration {
        self.arrival
    }

    /// Tokens of the prompt.
    pub fn prompt(&self) -> &[TokenId] {
        &self.tokens[..self.prompt_len]
    }

    /// Tokens generated.
    pub fn output(&self) -> &[TokenId] {
        &self.tokens[self.prompt_len..]
    }

    /// Prompt and output.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Blocks held, in order of position.
    pub fn block_table(&self) -> &[BlockId] {
        self.table.blocks()
    }

    /// Leading tokens whose keys and values are in the KV cache.
    pub fn num_computed_tokens(&self) -> usize {
        self.num_computed_tokens
    }

    /// Tokens that the prefix cache held when the sequence was first scheduled; 0 before.
    pub fn cached_tokens(&self) -> usize {
        self.cached_tokens.unwrap_or(0)
    }

    /// Tokens read and written so far.
    pub(super) fn usage(&self) -> Usage {
        // Bounded by the context, far below the range of u32.
        Usage {
            prompt_tokens: self.prompt_len as u32,
            cached_tokens: self.cached_tokens() as u32,
            completion_tokens: self.output().len() as u32,
        }
    }

    /// How many tokens a step of this budget computes.
    ///
    /// Rows that were scored before a preemption are computed in chunks of their own, so that a chunk is scored from its first row
    /// or not at all.
    pub(super) fn next_chunk(&self, budget: usize) -> usize {
        let missing = self.tokens.len() - self.num_computed_tokens;
        let uniform = match self.num_scored.checked_sub(self.num_computed_tokens) {
            None | Some(0) => missing,
            Some(scored_before) => scored_before,
        };
        missing.min(uniform).min(budget)
    }

    /// The prompt tokens to score in a chunk of `num_tokens`: those that follow its rows.
    pub(super) fn score_targets(&self, num_tokens: usize) -> &[TokenId] {
        let start = self.num_computed_tokens;
        if !self.score_prompt || start < self.num_scored {
            return &[];
        }
        let end = (start + num_tokens + 1).min(self.prompt_len);
        self.tokens.get(start + 1..end).unwrap_or(&[])
    }
}

/// All sequences that have not ended, by id.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    by_id: BTreeMap<SeqId, Sequence>,
    next_ordinal: u64,
}

impl Sequences {
    pub(super) fn insert(&mut self, new: NewSequence, arrival: Duration) {
        let sequence = Sequence {
            id: new.id,
            arrival,
            rank: (arrival.as_millis() as i64 + i64::from(new.priority) * PRIORITY_MS, self.next_ordinal),
            priority: new.priority,
            prompt_len: new.prompt.len(),
            tokens: new.prompt.to_vec(),
            stop: new.stop,
            score_prompt: new.score_prompt,
            scope: CacheScope { salt: new.cache_salt },
            deadline: new.deadline,
            num_computed_tokens: 0,
            num_scored: 0,
            cached_tokens: None,
            table: BlockTable::default(),
            planned_step: None,
            ahead_step: None,
        };
        self.next_ordinal += 1;
        self.by_id.insert(new.id, sequence);
    }

    pub(super) fn get(&self, id: SeqId) -> Option<&Sequence> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SeqId) -> Option<&mut Sequence> {
        self.by_id.get_mut(&id)
    }

    /// Who goes first: lower ones do.
    pub(super) fn rank(&self, id: SeqId) -> Option<(i64, u64)> {
        self.by_id.get(&id).map(|sequence| sequence.rank)
    }

    /// A sequence of the running or the waiting list.
    pub(super) fn listed(&mut self, id: SeqId) -> &mut Sequence {
        self.by_id.get_mut(&id).expect("a listed sequence has not ended")
    }

    pub(super) fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        self.by_id.remove(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.by_id.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
