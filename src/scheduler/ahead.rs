//! The next step, planned while the one before it is still being computed.
//!
//! What the tokens of that step are is not known yet, and mostly it does not matter: whoever generates goes on with one more row. So a runner that
//! computes elsewhere can be sent the next step before it has answered the last one, and never waits for plans. A sequence that turns out to
//! have ended leaves a row that was computed for nothing; its result is passed over.

use super::{PlannedSequence, Scheduler, Sequence, StepPlan};
use crate::kv_cache::Fault;
use std::time::Duration;

impl Scheduler {
    /// Plans the step after `plan`, whose results are awaited: whoever generates goes on with the one token that `plan` gives it, in the same order.
    /// That token stands in the new plan as 0 until [`Self::confirm`]; the plan is to be computed whatever comes.
    ///
    /// `None`, and nothing has changed, where the step after `plan` is or may be another one: a sequence is still catching up, one that waits could
    /// begin, a deadline has passed, the budget is too small, or blocks are missing; and where nothing goes on.
    pub fn schedule_ahead(&mut self, plan: &StepPlan, now: Duration, token_budget: usize) -> Option<StepPlan> {
        if self.planned_step != Some(plan.step) || !self.is_next_step_known(plan, now) {
            return None;
        }
        let going_on: Vec<usize> = (0..plan.sequences.len()).filter(|&index| self.goes_on(&plan.sequences[index], plan.step)).collect();
        let is_full = going_on.len() == self.config.max_num_seqs || self.waits_for_blocks(going_on.len());
        let missing: usize = going_on.iter().map(|&index| self.blocks_missing(&plan.sequences[index])).sum();
        let budget = token_budget.min(self.config.max_num_batched_tokens);
        if going_on.is_empty() || !is_full || going_on.len() > budget || missing > self.kv.num_free_blocks() {
            return None;
        }
        self.step += 1;
        let mut ahead = StepPlan { step: self.step, ..StepPlan::default() };
        going_on.into_iter().for_each(|index| self.plan_next_row((index, &plan.sequences[index]), &mut ahead));
        Some(ahead)
    }

    /// Takes the results of the step before into a plan made ahead of them: its tokens, and the blocks that its sequences now hold. After
    /// [`Self::complete`] of that step, and before anything else is planned.
    ///
    /// Sequences that ended have no blocks in the plan any more, so that what they computed stays in the prefix cache.
    pub fn confirm(&mut self, ahead: &mut StepPlan) {
        self.planned_step = Some(ahead.step);
        for planned in &mut ahead.sequences {
            match self.sequences.get_mut(planned.id).filter(|sequence| sequence.ahead_step == Some(ahead.step)) {
                Some(sequence) => {
                    sequence.ahead_step = None;
                    sequence.planned_step = Some(ahead.step);
                    planned.tokens = sequence.tokens[planned.start..].to_vec();
                    planned.block_table = sequence.table.blocks().to_vec();
                }
                None if self.faults.has(Fault::AheadKeepsBlocks) => {}
                None => planned.block_table.clear(),
            }
        }
    }

    /// Whether only the sequences of `plan` can be in the next one, each with the token that follows.
    fn is_next_step_known(&self, plan: &StepPlan, now: Duration) -> bool {
        let mut current = plan.sequences.iter().filter(|planned| self.is_in_plan(planned, plan.step));
        let is_expired = |sequence: &Sequence| sequence.deadline.is_some_and(|deadline| deadline <= now);
        current.clone().count() == self.running.len() && current.all(|planned| planned.samples) && !self.sequences.iter().any(is_expired)
    }

    /// Whether nobody waits, or all do for blocks that the `going_on` running sequences hold, should none of them end.
    fn waits_for_blocks(&self, going_on: usize) -> bool {
        let Some(&next) = self.waiting.front() else { return true };
        let num_owed = self.running.iter().map(|&id| self.blocks_owed(id)).sum();
        going_on == self.running.len() && self.find_room(next, num_owed).is_none()
    }

    fn is_in_plan(&self, planned: &PlannedSequence, step: u64) -> bool {
        self.sequences.get(planned.id).is_some_and(|sequence| sequence.planned_step == Some(step))
    }

    /// Whether a planned sequence generates another token after the awaited one, unless that one tells it to stop.
    fn goes_on(&self, planned: &PlannedSequence, step: u64) -> bool {
        let awaited = usize::from(!self.faults.has(Fault::AheadBeyondEnd));
        let has_more = |sequence: &Sequence| sequence.output().len() + awaited < sequence.stop.max_tokens as usize;
        self.is_in_plan(planned, step) && self.sequences.get(planned.id).is_some_and(has_more)
    }

    /// Blocks that a sequence needs for the row after those that are planned.
    fn blocks_missing(&self, planned: &PlannedSequence) -> usize {
        let rows = planned.start + planned.tokens.len() + 1;
        self.kv.blocks_for(rows).saturating_sub(planned.block_table.len())
    }

    fn plan_next_row(&mut self, (index, planned): (usize, &PlannedSequence), ahead: &mut StepPlan) {
        let start = planned.start + planned.tokens.len();
        let sequence = self.sequences.listed(planned.id);
        if !self.faults.has(Fault::AheadWithoutBlock) {
            // There are enough, as was counted.
            self.kv.grow(&mut sequence.table, start + 1, &mut ahead.new_blocks);
        }
        sequence.ahead_step = Some(ahead.step);
        ahead.sequences.push(PlannedSequence {
            id: planned.id,
            start,
            tokens: vec![0],
            follows: Some(index),
            block_table: sequence.table.blocks().to_vec(),
            samples: true,
            score_targets: Vec::new(),
        });
    }
}
