//! What must be true of every plan, whatever the scheduler thought.

use super::tracked::Tracked;
use super::world::World;
use crate::scheduler::{PlannedSequence, SeqId, StepPlan};
use std::collections::BTreeSet;
use std::time::Duration;

impl World {
    /// Checks a plan against the records and brings them up to date.
    pub(super) fn check_plan(&mut self, plan: &StepPlan, now: Duration, budget: usize) -> Result<(), String> {
        self.check_expired(plan, now)?;
        self.check_preempted(plan)?;
        self.check_limits(plan, budget)?;
        self.check_oldest(plan)?;
        self.check_new_blocks(plan)?;
        let mut first_scheduled = Vec::new();
        for planned in &plan.sequences {
            let place = self.place(planned.id)?;
            if self.live[place].first_start.is_none() {
                first_scheduled.push(planned.id);
            }
            self.check_planned(place, planned)?;
        }
        ensure!(first_scheduled == plan.first_scheduled, "first scheduled are {first_scheduled:?}, not {:?}", plan.first_scheduled);
        self.check_nothing_idles(plan, budget)
    }

    fn check_expired(&mut self, plan: &StepPlan, now: Duration) -> Result<(), String> {
        let is_due = |tracked: &&Tracked| tracked.deadline.is_some_and(|deadline| deadline <= now);
        let due: Vec<SeqId> = self.live.iter().filter(is_due).map(|tracked| tracked.id).collect();
        let (mut wanted, mut expired) = (due.clone(), plan.expired.clone());
        if self.scenario.has_priorities {
            wanted.sort();
            expired.sort();
        }
        ensure!(wanted == expired, "{due:?} are due, {:?} expired", plan.expired);
        self.live.retain(|tracked| !due.contains(&tracked.id));
        self.summary.ends[2] += due.len() as u64;
        Ok(())
    }

    /// Only the youngest running ones are preempted, the youngest first.
    fn check_preempted(&mut self, plan: &StepPlan) -> Result<(), String> {
        for &id in &plan.preempted {
            let mut running = self.live.iter_mut().rev().filter(|tracked| tracked.is_running);
            let youngest = if self.scenario.has_priorities { running.find(|tracked| tracked.id == id) } else { running.next() };
            let Some(youngest) = youngest.filter(|tracked| tracked.id == id) else {
                return Err(format!("{id:?} was preempted and is not the youngest that runs"));
            };
            youngest.preempted();
            ensure!(plan.sequences.iter().all(|planned| planned.id != id), "{id:?} is preempted and planned");
            self.summary.preemptions += 1;
        }
        Ok(())
    }

    pub(super) fn check_limits(&self, plan: &StepPlan, budget: usize) -> Result<(), String> {
        let config = &self.scenario.config;
        let limit = budget.clamp(1, config.max_num_batched_tokens);
        ensure!(plan.num_tokens() <= limit, "{} tokens planned with a budget of {limit}", plan.num_tokens());
        ensure!(plan.sequences.len() <= config.max_num_seqs, "{} sequences planned", plan.sequences.len());
        let places = plan.sequences.iter().map(|planned| self.place(planned.id)).collect::<Result<Vec<_>, _>>()?;
        ensure!(self.scenario.has_priorities || places.is_sorted_by(|a, b| a < b), "the plan is not in order of arrival: {places:?}");
        Ok(())
    }

    /// The oldest is in every plan, so it ends within as many steps as it has positions.
    pub(super) fn check_oldest(&mut self, plan: &StepPlan) -> Result<(), String> {
        if self.scenario.has_priorities {
            return Ok(());
        }
        let first = plan.sequences.first().map(|planned| planned.id);
        ensure!(first == self.live.first().map(|tracked| tracked.id), "the plan begins with {first:?}, not the oldest");
        if let Some(oldest) = self.live.first_mut() {
            oldest.steps_as_oldest += 1;
            let limit = oldest.max_steps_as_oldest() + self.num_dropped_plans;
            ensure!(oldest.steps_as_oldest <= limit, "{:?} does not end as the oldest", oldest.id);
        }
        Ok(())
    }

    /// New blocks are new, and each stands in one table, where rows are computed into it.
    pub(super) fn check_new_blocks(&self, plan: &StepPlan) -> Result<(), String> {
        let new: BTreeSet<_> = plan.new_blocks.iter().copied().collect();
        ensure!(new.len() == plan.new_blocks.len(), "a block is new twice");
        let mut num_placed = 0;
        for planned in &plan.sequences {
            let tracked = &self.live[self.place(planned.id)?];
            let num_full = planned.start / self.scenario.config.block_size;
            for (index, block) in planned.block_table.iter().enumerate() {
                let is_new = new.contains(block);
                num_placed += usize::from(is_new);
                ensure!(!is_new || index >= num_full, "{block:?} is new and holds computed positions");
                let is_known = index < num_full || tracked.table.get(index) == Some(block);
                ensure!(is_new || is_known, "{:?} got {block:?} and it was not reported as new", planned.id);
            }
        }
        ensure!(num_placed == new.len(), "{} blocks are new, {num_placed} are in tables", new.len());
        Ok(())
    }

    pub(super) fn check_planned(&mut self, place: usize, planned: &PlannedSequence) -> Result<(), String> {
        let config = self.scenario.config;
        let tracked = &mut self.live[place];
        let (id, start, end) = (planned.id, planned.start, planned.start + planned.tokens.len());
        if !tracked.is_running {
            let is_hit = start > 0;
            ensure!(start % config.block_size == 0, "{id:?} begins at {start}, inside a block");
            ensure!(!is_hit || config.enable_prefix_caching, "{id:?} hits a cache that is off");
            ensure!(!is_hit || !tracked.score_prompt, "{id:?} is to be scored and reads the cache");
            tracked.num_computed = start;
        }
        ensure!(start == tracked.num_computed, "{id:?} goes on at {start}, not {}", tracked.num_computed);
        ensure!(!planned.tokens.is_empty(), "{id:?} computes nothing");
        ensure!(tracked.tokens.get(start..end) == Some(&planned.tokens[..]), "{id:?} computes other tokens at {start}..{end}");
        let samples = end == tracked.tokens.len() && tracked.stop.max_tokens > 0;
        ensure!(planned.samples == samples, "{id:?} samples after {end} of {} tokens: {}", tracked.tokens.len(), planned.samples);
        check_targets(tracked, planned)?;
        tracked.is_running = true;
        tracked.table.clone_from(&planned.block_table);
        if tracked.first_start.is_none() {
            tracked.first_start = Some(start);
            self.summary.cached_tokens += start as u64;
        }
        Ok(())
    }

    /// Budget is left only if every running sequence was served and the first waiting one has no room.
    fn check_nothing_idles(&self, plan: &StepPlan, budget: usize) -> Result<(), String> {
        let config = &self.scenario.config;
        if plan.num_tokens() >= budget.clamp(1, config.max_num_batched_tokens) {
            return Ok(());
        }
        let num_running = self.live.iter().filter(|tracked| tracked.is_running).count();
        ensure!(num_running <= config.max_num_seqs, "{num_running} sequences run");
        ensure!(num_running == plan.sequences.len(), "{num_running} run, {} are planned, budget is left", plan.sequences.len());
        let Some(waiting) = self.live.iter().find(|tracked| !tracked.is_running) else { return Ok(()) };
        // With priorities it is not known who is first among the waiting.
        if num_running == config.max_num_seqs || !plan.preempted.is_empty() || self.scenario.has_priorities {
            return Ok(());
        }
        ensure!(!self.has_room_for_next() || self.has_twin(waiting, plan), "{:?} waits though it has room", waiting.id);
        Ok(())
    }

    /// Whether the first waiting sequence fits beside what the running ones are owed, even if nothing of it is cached. With priorities nobody knows
    /// who is first.
    pub(super) fn has_room_for_next(&self) -> bool {
        let config = &self.scenario.config;
        let Some(waiting) = self.live.iter().find(|tracked| !tracked.is_running).filter(|_| !self.scenario.has_priorities) else {
            return false;
        };
        let blocks = |num_tokens: usize| num_tokens.div_ceil(config.block_size);
        let running = self.live.iter().filter(|tracked| tracked.is_running);
        let num_owed: usize = running.map(|tracked| blocks(tracked.tokens.len()).saturating_sub(tracked.table.len())).sum();
        blocks(waiting.tokens.len()) + num_owed <= self.scheduler.kv_cache().num_free_blocks()
    }

    /// Whether the plan completes a block that this sequence needs too.
    fn has_twin(&self, waiting: &Tracked, plan: &StepPlan) -> bool {
        let config = &self.scenario.config;
        let is_twin = |planned: &PlannedSequence| {
            let end_of_block = (planned.start / config.block_size + 1) * config.block_size;
            let other = self.live.iter().find(|tracked| tracked.id == planned.id);
            let is_equal = other.is_some_and(|other| other.states.get(end_of_block - 1) == waiting.states.get(end_of_block - 1));
            is_equal && planned.start + planned.tokens.len() >= end_of_block && waiting.tokens.len() > end_of_block
        };
        config.enable_prefix_caching && !waiting.score_prompt && plan.sequences.iter().any(is_twin)
    }
}

/// Every prompt token but the first is a target once, in order.
fn check_targets(tracked: &Tracked, planned: &PlannedSequence) -> Result<(), String> {
    let (start, end) = (planned.start, planned.start + planned.tokens.len());
    let due = if tracked.score_prompt && start == tracked.num_scored && start + 1 < tracked.prompt_len {
        &tracked.tokens[start + 1..(end + 1).min(tracked.prompt_len)]
    } else {
        &[]
    };
    ensure!(planned.score_targets == due, "{:?} scores {:?} at {start}, due are {due:?}", tracked.id, planned.score_targets);
    let skips = tracked.score_prompt && start < tracked.num_scored && end > tracked.num_scored && end <= tracked.prompt_len;
    ensure!(!skips || tracked.num_scored + 1 >= tracked.prompt_len, "{:?} passes unscored positions at {start}..{end}", tracked.id);
    Ok(())
}
