//! What goes to the runner and what comes back: plain data.

use super::SeqId;
use crate::generation::{FinishReason, TokenId, Usage};
use crate::kv_cache::BlockId;

/// One step. It is empty only if no sequence is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Number of the plan, ascending.
    pub step: u64,
    /// What to compute, oldest sequence first, each at most once.
    pub sequences: Vec<PlannedSequence>,
    /// Blocks handed out for this step, whose content is garbage.
    pub new_blocks: Vec<BlockId>,
    /// Sequences of this plan that are in a plan for the first time.
    pub first_scheduled: Vec<SeqId>,
    /// Sequences that lost their blocks, youngest first. They are in no plan until there is room again.
    pub preempted: Vec<SeqId>,
    /// Sequences that ended because their deadline passed, in order of arrival.
    pub expired: Vec<SeqId>,
}

impl StepPlan {
    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Rows of the step, over all sequences.
    pub fn num_tokens(&self) -> usize {
        self.sequences.iter().map(|planned| planned.tokens.len()).sum()
    }
}

/// The part of one sequence in a step: consecutive positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedSequence {
    /// The sequence.
    pub id: SeqId,
    /// Absolute position of the first token; all before lie in the KV cache.
    pub start: usize,
    /// The tokens, at least one.
    pub tokens: Vec<TokenId>,
    /// In a plan made ahead of the results before it: the token is the one that this sequence of the plan before, by its index, is given there.
    pub follows: Option<usize>,
    /// Blocks that cover positions `0..start + tokens.len()`; none where the sequence of a plan made ahead turned out to have ended.
    pub block_table: Vec<BlockId>,
    /// Whether the last row gives the next token.
    pub samples: bool,
    /// The prompt tokens that follow the first `score_targets.len()` rows, to be scored. Every prompt token but the first comes exactly
    /// once and in order over all plans, if the sequence has `score_prompt`; else there are none.
    pub score_targets: Vec<TokenId>,
}

/// What a step gave for one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepResult {
    /// The rows were computed; no token was due.
    Computed,
    /// The rows were computed and this token follows.
    Token(TokenId),
    /// The rows were computed and this token follows, which ends the sequence.
    LastToken(TokenId),
    /// Nothing of this sequence may be used any more.
    Failed,
}

/// What a step meant for a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerEvent {
    /// It goes on with this token; a token that ends it comes too, directly before `Finished`.
    Token {
        /// The sequence.
        id: SeqId,
        /// The token.
        token: TokenId,
    },
    /// It ended.
    Finished {
        /// The sequence.
        id: SeqId,
        /// Why.
        reason: FinishReason,
        /// Tokens read and written.
        usage: Usage,
    },
    /// It ended because the step failed for it.
    Failed {
        /// The sequence.
        id: SeqId,
    },
}
