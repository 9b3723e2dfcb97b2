//! Every invariant of the scheduler's state in one function.

use super::{Scheduler, Sequence};
use crate::kv_cache::InvariantViolation;

impl Scheduler {
    /// Checks that lists, sequences and block counts agree. Tests and the simulation call it after every change; it is linear in the number of
    /// blocks and sequences.
    ///
    /// # Errors
    /// The first [`InvariantViolation`] found: a defect of this program.
    pub fn audit(&self) -> Result<(), InvariantViolation> {
        let violation = |text: String| Err(InvariantViolation(text));
        if self.running.len() > self.config.max_num_seqs {
            return violation(format!("{} sequences run", self.running.len()));
        }
        if self.running.len() + self.waiting.len() != self.sequences.len() {
            return violation(format!("{} run, {} wait, {} exist", self.running.len(), self.waiting.len(), self.sequences.len()));
        }
        let has_priorities = self.sequences.iter().any(|sequence| sequence.priority != 0);
        let mut last_rank = None;
        for (place, &id) in self.running.iter().chain(&self.waiting).enumerate() {
            let Some(sequence) = self.sequences.get(id) else {
                return violation(format!("{id:?} is listed and has ended"));
            };
            // With priorities a waiting sequence may rank before a running one, which keeps its place.
            if has_priorities && place == self.running.len() {
                last_rank = None;
            }
            if last_rank.replace(sequence.rank) >= Some(sequence.rank) {
                return violation(format!("{id:?} is not in order of rank"));
            }
            let checked = if place < self.running.len() { self.audit_running(sequence) } else { audit_waiting(sequence) };
            checked.map_err(|InvariantViolation(text)| InvariantViolation(format!("{id:?} {text}")))?;
        }
        self.kv.audit(self.sequences.iter().map(|sequence| &sequence.table))
    }

    fn audit_running(&self, sequence: &Sequence) -> Result<(), InvariantViolation> {
        let computed = sequence.num_computed_tokens;
        let (num_tokens, num_blocks) = (sequence.tokens.len(), sequence.table.len());
        if computed >= num_tokens {
            return Err(InvariantViolation(format!("runs with {computed} of {num_tokens} tokens computed")));
        }
        let num_ahead = usize::from(sequence.ahead_step.is_some());
        if self.kv.blocks_for(computed) > num_blocks || num_blocks > self.kv.blocks_for(num_tokens + num_ahead) {
            return Err(InvariantViolation(format!("holds {num_blocks} blocks for {computed} of {num_tokens} tokens")));
        }
        if sequence.table.num_committed() * self.kv.block_size() > computed {
            let committed = sequence.table.num_committed();
            return Err(InvariantViolation(format!("has {committed} blocks cached with {computed} tokens computed")));
        }
        if sequence.num_scored >= sequence.prompt_len.max(1) {
            return Err(InvariantViolation(format!("scored {} of {} prompt tokens", sequence.num_scored, sequence.prompt_len)));
        }
        Ok(())
    }
}

fn audit_waiting(sequence: &Sequence) -> Result<(), InvariantViolation> {
    if !sequence.table.is_empty() || sequence.num_computed_tokens != 0 {
        let (blocks, computed) = (sequence.table.len(), sequence.num_computed_tokens);
        return Err(InvariantViolation(format!("waits with {blocks} blocks and {computed} tokens computed")));
    }
    Ok(())
}
