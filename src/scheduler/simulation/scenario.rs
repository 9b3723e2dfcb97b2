//! The conditions of one run, drawn from its seed: limits, and how often what happens.

use super::rng::Rng;
use crate::generation::{StopCriteria, TokenId};
use crate::scheduler::{NewSequence, SchedulerConfig, SeqId};
use std::sync::Arc;
use std::time::Duration;

/// Chances are in permille per iteration, or per sequence where said.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) config: SchedulerConfig,
    pub(super) digest_bits_cut: u32,
    /// Few tokens make shared beginnings and collisions likely.
    pub(super) vocab_size: u32,
    pub(super) num_salts: usize,
    /// Iterations with arrivals; then the run drains.
    pub(super) iterations: usize,
    /// Most sequences at a time.
    pub(super) max_live: usize,
    pub(super) arrival: usize,
    pub(super) abort: usize,
    pub(super) abort_mid_step: usize,
    pub(super) step_failure: usize,
    /// Per planned sequence.
    pub(super) sequence_failure: usize,
    pub(super) dropped_plan: usize,
    /// That a plan is followed by one made ahead of its results, where that can be.
    pub(super) ahead: usize,
    /// Per sequence.
    pub(super) deadline: usize,
    /// Per sequence.
    pub(super) score_prompt: usize,
    /// Per sequence that a stop token may end it early.
    pub(super) eos: usize,
    /// Whether sequences have priorities. What is known of their order is little then.
    pub(super) has_priorities: bool,
    /// Whether budgets are drawn anew each step, or always the largest.
    pub(super) random_budget: bool,
}

impl Scenario {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let (max_model_len, block_size) = (rng.between(6, 40), rng.between(1, 4));
        let config = SchedulerConfig {
            max_num_seqs: rng.between(1, 8),
            max_num_batched_tokens: rng.pick(&[1, 3, 8, 16, 32, 64]),
            max_model_len,
            block_size,
            // From too few for the longest sequence to enough for three of them.
            num_blocks: (max_model_len * rng.between(3, 12)).div_ceil(4 * block_size),
            enable_prefix_caching: rng.chance(850),
        };
        Self {
            config,
            digest_bits_cut: rng.pick(&[0, 0, 60, 63]),
            vocab_size: rng.between(2, 3) as u32,
            num_salts: rng.between(1, 2),
            iterations: rng.between(200, 1500),
            max_live: rng.between(1, 14),
            arrival: rng.pick(&[100, 300, 900]),
            abort: rng.pick(&[0, 5, 40]),
            abort_mid_step: rng.pick(&[0, 5, 40]),
            step_failure: rng.pick(&[0, 0, 5, 50]),
            sequence_failure: rng.pick(&[0, 0, 5, 30]),
            dropped_plan: rng.pick(&[0, 0, 10]),
            deadline: rng.pick(&[0, 100, 400]),
            score_prompt: rng.pick(&[0, 150, 500]),
            eos: rng.pick(&[0, 300]),
            random_budget: rng.chance(500),
            has_priorities: rng.chance(250),
            ahead: rng.pick(&[0, 500, 1000]),
        }
    }

    /// The budget of one step.
    pub(super) fn budget(&self, rng: &mut Rng) -> usize {
        if self.random_budget { rng.between(0, self.config.max_num_batched_tokens + 2) } else { self.config.max_num_batched_tokens }
    }

    /// A sequence, now and then one that cannot be accepted.
    pub(super) fn sequence(&self, id: SeqId, now: Duration, rng: &mut Rng) -> NewSequence {
        let prompt = self.prompt(rng);
        let room = self.config.max_model_len.saturating_sub(prompt.len()) + usize::from(rng.chance(50));
        let max_tokens = if rng.chance(100) { 0 } else { rng.between(1, room.max(1)) as u32 };
        let eos = if rng.chance(self.eos) { vec![0] } else { vec![] };
        let stop = StopCriteria { min_tokens: rng.between(0, 6) as u32, eos_token_ids: Arc::from(eos), ..StopCriteria::length(max_tokens) };
        NewSequence {
            id,
            prompt: prompt.into(),
            stop,
            score_prompt: rng.chance(self.score_prompt),
            priority: if self.has_priorities { rng.between(0, 4) as i16 - 2 } else { 0 },
            cache_salt: rng.between(1, self.num_salts) as u64,
            deadline: rng.chance(self.deadline).then(|| now + Duration::from_millis(rng.between(0, 60) as u64)),
        }
    }

    /// The beginning of one of a few fixed texts, then a few tokens of its own; one in a hundred is empty.
    fn prompt(&self, rng: &mut Rng) -> Vec<TokenId> {
        if rng.chance(10) {
            return Vec::new();
        }
        let mut text = Rng::new(rng.between(0, 2) as u64);
        let longest = self.config.max_model_len * 3 / 4;
        let num_shared = if rng.chance(300) {
            longest / 2
        } else {
            {
                let most = rng.pick(&[longest, longest / 4]);
                rng.between(0, most)
            }
        };
        let num_own = if num_shared > 0 && rng.chance(300) { 0 } else { rng.between(1, 4) };
        let shared = (0..num_shared).map(|_| text.next());
        let mut prompt: Vec<_> = shared.map(|number| (number % u64::from(self.vocab_size)) as TokenId).collect();
        prompt.extend((0..num_own).map(|_| (rng.next() % u64::from(self.vocab_size)) as TokenId));
        prompt
    }
}
