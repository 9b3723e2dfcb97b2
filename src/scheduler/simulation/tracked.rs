//! An independent record of one sequence: what it must contain, what was seen of it.

use super::oracle::{self, SoloRun};
use crate::generation::{StopCriteria, TokenId, Usage};
use crate::kv_cache::BlockId;
use crate::scheduler::{NewSequence, SeqId};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) id: SeqId,
    /// Unique, also among sequences of one id after each other.
    pub(super) instance: u64,
    pub(super) salt: u64,
    pub(super) prompt_len: usize,
    pub(super) stop: StopCriteria,
    pub(super) score_prompt: bool,
    pub(super) deadline: Option<Duration>,
    pub(super) tokens: Vec<TokenId>,
    /// The model's state after each token.
    pub(super) states: Vec<u64>,
    pub(super) solo: SoloRun,
    /// Whether it was planned and not preempted since.
    pub(super) is_running: bool,
    pub(super) num_computed: usize,
    pub(super) num_scored: usize,
    /// Where its first plan began.
    pub(super) first_start: Option<usize>,
    /// Its blocks in the last plan that held it.
    pub(super) table: Vec<BlockId>,
    pub(super) steps_as_oldest: usize,
}

impl Tracked {
    pub(super) fn new(new: &NewSequence, instance: u64, vocab_size: u32) -> Self {
        let extend = |state: &mut u64, token: &TokenId| {
            *state = oracle::extend(*state, *token);
            Some(*state)
        };
        let states: Vec<u64> = new.prompt.iter().scan(oracle::root(new.cache_salt), extend).collect();
        let prompt_state = states[states.len() - 1];
        Self {
            id: new.id,
            instance,
            salt: new.cache_salt,
            prompt_len: new.prompt.len(),
            stop: new.stop.clone(),
            score_prompt: new.score_prompt,
            deadline: new.deadline,
            tokens: new.prompt.to_vec(),
            states,
            solo: oracle::solo_run(prompt_state, &new.stop, vocab_size),
            is_running: false,
            num_computed: 0,
            num_scored: 0,
            first_start: None,
            table: Vec::new(),
            steps_as_oldest: 0,
        }
    }

    pub(super) fn num_generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Most steps in which it can be the oldest: each computes at least one of its positions.
    pub(super) fn max_steps_as_oldest(&self) -> usize {
        self.prompt_len + self.stop.max_tokens as usize
    }

    pub(super) fn push(&mut self, token: TokenId) {
        let state = self.states[self.states.len() - 1];
        self.tokens.push(token);
        self.states.push(oracle::extend(state, token));
    }

    pub(super) fn preempted(&mut self) {
        self.is_running = false;
        self.num_computed = 0;
        self.table.clear();
    }

    pub(super) fn is_finished(&self) -> bool {
        self.num_computed >= self.prompt_len && self.num_generated() == self.solo.output.len()
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_len as u32,
            cached_tokens: self.first_start.unwrap_or(0) as u32,
            completion_tokens: self.num_generated() as u32,
        }
    }
}
