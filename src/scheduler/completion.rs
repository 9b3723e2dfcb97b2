//! What the results of a step mean: tokens appended, blocks made findable, sequences ended.

use super::{PlannedSequence, Scheduler, SchedulerEvent, Sequence, StepPlan, StepResult};
use crate::generation::{FinishReason, TokenId};
use crate::kv_cache::Fault;

impl Scheduler {
    /// Applies the results of `plan`; `results[i]` belongs to `plan.sequences[i]`. Events come in the order of the plan.
    ///
    /// Sequences that ended since the plan was made give no event. A result that is missing, or is not of the kind that the plan asked
    /// for, fails its sequence. A plan that is not the last one, or was completed before, changes nothing.
    pub fn complete(&mut self, plan: &StepPlan, results: &[StepResult]) -> Vec<SchedulerEvent> {
        let mut events = Vec::with_capacity(plan.sequences.len());
        if self.planned_step.take_if(|step| *step == plan.step).is_none() {
            return events;
        }
        let outcomes: Vec<Outcome> =
            plan.sequences.iter().enumerate().map(|(index, planned)| Outcome::of(planned, results.get(index))).collect();
        if !self.faults.has(Fault::FailedBlocksForgottenLate) {
            self.forget_failed(plan, &outcomes);
        }
        for (planned, &outcome) in plan.sequences.iter().zip(&outcomes) {
            let is_current = |sequence: &Sequence| sequence.planned_step == Some(plan.step) || self.faults.has(Fault::StaleResultApplied);
            if !self.sequences.get(planned.id).is_some_and(is_current) {
                continue;
            }
            match outcome {
                Outcome::Computed => self.advance(planned, None, &mut events),
                Outcome::Token { token, is_last } => self.advance(planned, Some((token, is_last)), &mut events),
                Outcome::Failed => self.fail(planned, &mut events),
            }
        }
        if self.faults.has(Fault::FailedBlocksForgottenLate) {
            self.forget_failed(plan, &outcomes);
        }
        events
    }

    /// Takes whatever failed sequences have computed, also in earlier steps, out of the prefix cache: keys and values that made one request
    /// fail must not meet the next one of the same prompt.
    ///
    /// This comes before any other result, so that no sequence exchanges a block of its own for one that cannot be trusted, and it
    /// includes sequences that were aborted before their failure was known, but not rows computed ahead for one that had ended by then.
    fn forget_failed(&mut self, plan: &StepPlan, outcomes: &[Outcome]) {
        if self.faults.has(Fault::FailedBlocksStayCached) {
            return;
        }
        for (planned, _) in plan.sequences.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Outcome::Failed) {
            self.kv.forget(&planned.block_table);
        }
    }

    /// Takes computed rows, and the token they gave, into the sequence.
    fn advance(&mut self, planned: &PlannedSequence, token: Option<(TokenId, bool)>, events: &mut Vec<SchedulerEvent>) {
        let id = planned.id;
        let sequence = self.sequences.listed(id);
        sequence.planned_step = None;
        sequence.num_scored += planned.score_targets.len();
        sequence.num_computed_tokens = planned.start + planned.tokens.len();
        self.kv.commit(&mut sequence.table, sequence.scope, &sequence.tokens[..sequence.num_computed_tokens]);
        if let Some((token, _)) = token {
            sequence.tokens.push(token);
            events.push(SchedulerEvent::Token { id, token });
        }
        let is_last = token.is_some_and(|(_, is_last)| is_last);
        if let Some(reason) = finish_reason(sequence, is_last) {
            events.push(SchedulerEvent::Finished { id, reason, usage: sequence.usage() });
            if self.faults.has(Fault::FinishedTwice) {
                events.push(SchedulerEvent::Finished { id, reason, usage: sequence.usage() });
            }
            self.remove(id);
        }
    }

    /// Ends a sequence whose step failed.
    fn fail(&mut self, planned: &PlannedSequence, events: &mut Vec<SchedulerEvent>) {
        let Some(mut sequence) = self.take(planned.id) else { return };
        events.push(SchedulerEvent::Failed { id: planned.id });
        if self.faults.has(Fault::CommittedOnFailure) {
            let end = planned.start + planned.tokens.len();
            self.kv.commit(&mut sequence.table, sequence.scope, &sequence.tokens[..end]);
        }
        if !self.faults.has(Fault::LeakOnFailure) {
            self.kv.release(&mut sequence.table);
        }
    }
}

/// What a result means, held against what the plan asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Computed,
    Token { token: TokenId, is_last: bool },
    Failed,
}

impl Outcome {
    fn of(planned: &PlannedSequence, result: Option<&StepResult>) -> Self {
        match (result, planned.samples) {
            (Some(&StepResult::Token(token)), true) => Self::Token { token, is_last: false },
            (Some(&StepResult::LastToken(token)), true) => Self::Token { token, is_last: true },
            (Some(StepResult::Computed), false) => Self::Computed,
            _ => Self::Failed,
        }
    }
}

/// Why the sequence ends here, if it does; `is_last` says that nothing can follow its last token.
fn finish_reason(sequence: &Sequence, is_last: bool) -> Option<FinishReason> {
    if sequence.num_computed_tokens < sequence.prompt_len {
        return None;
    }
    let max_tokens = sequence.stop.max_tokens;
    let generated = sequence.output().len() as u32;
    match sequence.output().last() {
        None if max_tokens == 0 => Some(FinishReason::Length),
        None => None,
        Some(&token) if is_last || sequence.stop.is_stop_token(token, generated) => Some(FinishReason::Stop),
        Some(_) => (generated >= max_tokens).then_some(FinishReason::Length),
    }
}
