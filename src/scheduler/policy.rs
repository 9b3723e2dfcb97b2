//! Who is computed next: expiry, the running sequences, preemption, admission.

use super::{PlannedSequence, Scheduler, SeqId, StepPlan};
use crate::kv_cache::{Fault, PrefixHit};
use std::time::Duration;

impl Scheduler {
    /// Plans the next step of at most `token_budget` tokens, taken as `1..=max_num_batched_tokens`, and ends sequences whose deadline is not
    /// after `now`. The results go to [`Scheduler::complete`]; a plan that is never completed counts as not computed.
    pub fn schedule(&mut self, now: Duration, token_budget: usize) -> StepPlan {
        self.step += 1;
        self.planned_step = Some(self.step);
        let mut plan = StepPlan { step: self.step, ..StepPlan::default() };
        let budget = token_budget.clamp(1, self.config.max_num_batched_tokens);
        self.expire(now, &mut plan);
        let budget = self.plan_running(budget, &mut plan);
        // Whoever was preempted must not come back with the blocks that were taken from it.
        if plan.preempted.is_empty() {
            self.admit_waiting(budget, &mut plan);
        }
        plan
    }

    fn expire(&mut self, now: Duration, plan: &mut StepPlan) {
        let listed = self.running.iter().chain(&self.waiting);
        let is_expired =
            |&id: &SeqId| self.sequences.get(id).is_some_and(|sequence| sequence.deadline.is_some_and(|deadline| deadline <= now));
        plan.expired = listed.copied().filter(is_expired).collect();
        if self.faults.has(Fault::DeadlineIgnoredWhileRunning) {
            plan.expired.retain(|id| self.waiting.contains(id));
        }
        for &id in &plan.expired {
            if self.faults.has(Fault::LeakOnExpiry) {
                self.take(id);
            } else {
                self.remove(id);
            }
        }
    }

    /// Lets the running sequences catch up, in order of rank. Returns what is left of the budget.
    fn plan_running(&mut self, mut budget: usize, plan: &mut StepPlan) -> usize {
        let mut index = 0;
        while budget > 0 && index < self.running.len() {
            let id = self.running[index];
            let num_tokens = self.sequences.listed(id).next_chunk(budget);
            if !self.make_room(id, num_tokens, plan) {
                break;
            }
            self.plan_sequence(id, num_tokens, plan);
            budget -= num_tokens;
            index += 1;
        }
        budget
    }

    /// Gives `id` the blocks for its next `num_tokens`, preempting the youngest until there are enough. False when it was itself the
    /// youngest.
    fn make_room(&mut self, id: SeqId, num_tokens: usize, plan: &mut StepPlan) -> bool {
        while !self.grow(id, num_tokens, plan) {
            let victim = if self.faults.has(Fault::OldestPreempted) { 0 } else { self.running.len() - 1 };
            let preempted = self.preempt(victim, plan);
            if preempted == id {
                return false;
            }
        }
        true
    }

    fn grow(&mut self, id: SeqId, num_tokens: usize, plan: &mut StepPlan) -> bool {
        let sequence = self.sequences.listed(id);
        let mut num_covered = sequence.num_computed_tokens + num_tokens;
        if self.faults.has(Fault::TableOffByOne) && num_covered % self.kv.block_size() == 1 {
            num_covered -= 1;
        }
        self.kv.grow(&mut sequence.table, num_covered, &mut plan.new_blocks)
    }

    /// Takes all blocks from the running sequence at `index`. It will be computed again from its tokens, which it keeps.
    fn preempt(&mut self, index: usize, plan: &mut StepPlan) -> SeqId {
        let id = self.running.remove(index);
        let sequence = self.sequences.listed(id);
        if !self.faults.has(Fault::ComputedKeptOnPreemption) {
            sequence.num_computed_tokens = 0;
        }
        if self.faults.has(Fault::OutputLostOnPreemption) {
            sequence.tokens.truncate(sequence.prompt_len);
        }
        if self.faults.has(Fault::ScoredTwice) {
            sequence.num_scored = 0;
        }
        self.kv.release(&mut sequence.table);
        self.enqueue(id);
        plan.preempted.push(id);
        self.totals.preemptions += 1;
        id
    }

    /// Lets waiting sequences run, in order of rank: one that does not fit holds up those behind it, so none starves.
    fn admit_waiting(&mut self, mut budget: usize, plan: &mut StepPlan) {
        let max_num_seqs = self.config.max_num_seqs + usize::from(self.faults.has(Fault::OneSequenceTooMany));
        let mut num_owed = self.running.iter().map(|&id| self.blocks_owed(id)).sum();
        while budget > 0 && self.running.len() < max_num_seqs {
            let next = if self.faults.has(Fault::WaitingOvertaken) { self.waiting.back() } else { self.waiting.front() };
            let Some(&id) = next else { break };
            let Some(hit) = self.find_room(id, num_owed) else { break };
            if self.is_computed_by_another(id, &hit, plan) {
                break;
            }
            self.waiting.retain(|&other| other != id);
            self.run(id);
            self.start(id, hit, plan);
            let num_tokens = self.sequences.listed(id).next_chunk(budget);
            if !self.grow(id, num_tokens, plan) {
                break;
            }
            self.plan_sequence(id, num_tokens, plan);
            num_owed += self.blocks_owed(id);
            if !self.faults.has(Fault::BudgetExceeded) {
                budget -= num_tokens;
            }
        }
    }

    /// Blocks a running sequence still needs for the tokens it has. They are free but spoken for.
    pub(super) fn blocks_owed(&self, id: SeqId) -> usize {
        self.sequences.get(id).map_or(0, |sequence| self.kv.blocks_for(sequence.tokens.len()).saturating_sub(sequence.table.len()))
    }

    /// What the prefix cache has of a waiting sequence, if all its tokens fit beside the `num_owed` blocks promised to others.
    pub(super) fn find_room(&self, id: SeqId, num_owed: usize) -> Option<PrefixHit> {
        let sequence = self.sequences.get(id)?;
        // At least the last token is computed, because its row of logits is wanted.
        let num_known = sequence.tokens.len() - usize::from(!self.faults.has(Fault::LastTokenNotRecomputed));
        let hit = if sequence.score_prompt && !self.faults.has(Fault::ScoringReadsCache) {
            PrefixHit::default()
        } else {
            self.kv.find_prefix(sequence.scope, &sequence.tokens[..num_known])
        };
        let num_needed = self.kv.blocks_for(sequence.tokens.len()) - hit.blocks.len() + hit.num_free;
        (num_needed + num_owed <= self.kv.num_free_blocks()).then_some(hit)
    }

    /// Whether most of what a waiting sequence would compute is computed in this step anyway, for another sequence: choices of one prompt,
    /// or a burst of equal ones. One step later it finds these blocks in the prefix cache.
    ///
    /// This holds nobody up for long: a running sequence passes each of its blocks once, and nobody is admitted meanwhile.
    fn is_computed_by_another(&self, id: SeqId, hit: &PrefixHit, plan: &StepPlan) -> bool {
        let Some(sequence) = self.sequences.get(id).filter(|sequence| !sequence.score_prompt) else { return false };
        if !self.config.enable_prefix_caching {
            return false;
        }
        let block_size = self.kv.block_size();
        let num_hit = hit.blocks.len() * block_size;
        let num_common = |planned: &PlannedSequence| {
            let other = self.sequences.get(planned.id).filter(|other| other.scope == sequence.scope)?;
            let computed = &other.tokens[..planned.start + planned.tokens.len()];
            let wanted = &sequence.tokens[..sequence.tokens.len() - 1];
            let common = computed.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            (planned.start < num_hit + block_size).then_some(common / block_size * block_size)
        };
        let num_found_later = plan.sequences.iter().filter_map(num_common).max().unwrap_or(0);
        num_found_later > num_hit && 2 * (num_found_later - num_hit) >= sequence.tokens.len() - num_hit
    }

    /// Makes a sequence begin, for the first time or again, behind what the prefix cache has of it.
    fn start(&mut self, id: SeqId, hit: PrefixHit, plan: &mut StepPlan) {
        let sequence = self.sequences.listed(id);
        let num_cached = hit.blocks.len() * self.kv.block_size();
        if !hit.blocks.is_empty() {
            self.kv.adopt(&mut sequence.table, hit);
            sequence.num_computed_tokens = num_cached;
        }
        if sequence.cached_tokens.is_none() || self.faults.has(Fault::UsageWrong) {
            sequence.cached_tokens = Some(num_cached);
            plan.first_scheduled.push(id);
            if self.config.enable_prefix_caching && !sequence.score_prompt {
                self.totals.prefix_cache_queries += sequence.prompt_len as u64;
                self.totals.prefix_cache_hits += num_cached as u64;
            }
        }
    }

    fn plan_sequence(&mut self, id: SeqId, num_tokens: usize, plan: &mut StepPlan) {
        let sequence = self.sequences.listed(id);
        let start = sequence.num_computed_tokens;
        let end = start + num_tokens;
        let is_caught_up = end == sequence.tokens.len() || self.faults.has(Fault::SampledMidPrompt);
        sequence.planned_step = Some(plan.step);
        sequence.ahead_step = None;
        if self.faults.has(Fault::CommittedBeforeComputed) {
            self.kv.commit(&mut sequence.table, sequence.scope, &sequence.tokens[..end]);
        }
        plan.sequences.push(PlannedSequence {
            id,
            start,
            tokens: sequence.tokens[start..end].to_vec(),
            follows: None,
            block_table: sequence.table.blocks().to_vec(),
            samples: is_caught_up && sequence.stop.max_tokens > 0,
            score_targets: sequence.score_targets(num_tokens).to_vec(),
        });
    }
}
