//! One run: the scheduler, its clients and its runner, driven by one stream of random numbers.

use super::Summary;
use super::ahead::Ahead;
use super::rng::Rng;
use super::scenario::Scenario;
use super::shadow_kv::ShadowKv;
use super::tracked::Tracked;
use crate::kv_cache::{BlockId, Fault, Faults};
use crate::scheduler::{AdmissionError, NewSequence, PlannedSequence, Scheduler, SchedulerEvent, SeqId, StepPlan, StepResult};
use std::collections::BTreeSet;
use std::time::Duration;

/// More than enough for any run to drain: every step ends or advances the oldest of a few sequences of at most 40 tokens.
const MAX_DRAIN_STEPS: usize = 2_000;

pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) scheduler: Scheduler,
    /// Sequences that have not ended, in order of arrival.
    pub(super) live: Vec<Tracked>,
    pub(super) num_dropped_plans: usize,
    pub(super) summary: Summary,
    pub(super) shadow: ShadowKv,
    pub(super) rng: Rng,
    pub(super) now: Duration,
    next_id: u64,
    next_instance: u64,
    pub(super) last_step: u64,
    /// The step that was planned ahead and is computed; what it gave is for the next iteration.
    pub(super) ahead: Option<Ahead>,
}

impl World {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut rng = Rng::new(seed);
        let scenario = Scenario::draw(&mut rng);
        let faults = Faults { planted: fault, digest_bits_cut: scenario.digest_bits_cut };
        Self {
            scheduler: Scheduler::with_faults(scenario.config, faults),
            shadow: ShadowKv::new(scenario.config.num_blocks, scenario.config.block_size),
            live: Vec::new(),
            num_dropped_plans: 0,
            summary: Summary::default(),
            rng,
            now: Duration::ZERO,
            next_id: 0,
            next_instance: 0,
            last_step: 0,
            ahead: None,
            scenario,
        }
    }

    /// Number of the last plan.
    pub(super) fn step(&self) -> u64 {
        self.last_step
    }

    /// Arrivals and trouble, then draining in peace, then everything must be gone.
    pub(super) fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.scenario.iterations {
            self.now += Duration::from_millis(self.rng.between(0, 3) as u64);
            self.arrive()?;
            if self.rng.chance(self.scenario.abort) {
                self.abort_one()?;
            }
            self.iterate()?;
        }
        let trouble = &mut self.scenario;
        (trouble.abort_mid_step, trouble.step_failure, trouble.sequence_failure, trouble.dropped_plan) = (0, 0, 0, 0);
        for _ in 0..MAX_DRAIN_STEPS {
            if self.live.is_empty() {
                break;
            }
            self.iterate()?;
        }
        let stats = self.scheduler.stats();
        ensure!(self.live.is_empty() && self.scheduler.is_idle(), "{} sequences never ended", self.live.len());
        ensure!(stats.blocks_used == 0, "{} blocks leaked", stats.blocks_used);
        let plan = self.scheduler.schedule(self.now, 1);
        ensure!(plan == StepPlan { step: plan.step, ..StepPlan::default() }, "an idle scheduler plans {plan:?}");
        Ok(())
    }

    fn iterate(&mut self) -> Result<(), String> {
        let budget = self.scenario.budget(&mut self.rng);
        if let Some(Ahead { plan, instances, results }) = self.ahead.take() {
            return self.complete(&plan, &instances, &results, budget);
        }
        let plan = self.scheduler.schedule(self.now, budget);
        ensure!(plan.step > self.last_step, "plan {} follows plan {}", plan.step, self.last_step);
        self.last_step = plan.step;
        self.log_plan(&plan);
        self.check_plan(&plan, self.now, budget)?;
        self.audit()?;
        plan.new_blocks.iter().for_each(|&block| self.shadow.poison(block));
        if self.rng.chance(self.scenario.dropped_plan) {
            self.num_dropped_plans += 1;
            return Ok(());
        }
        let instances = self.instances(&plan)?;
        let results = self.compute(&plan)?;
        self.complete(&plan, &instances, &results, budget)
    }

    /// What the results of a plan mean, `instances[i]` being planned as `plan.sequences[i]`.
    fn complete(&mut self, plan: &StepPlan, instances: &[u64], results: &[StepResult], budget: usize) -> Result<(), String> {
        let ahead = if self.rng.chance(self.scenario.ahead) { self.plan_ahead(plan, budget)? } else { None };
        if self.rng.chance(self.scenario.abort_mid_step) {
            self.abort_one()?;
        }
        let events = self.scheduler.complete(plan, results);
        self.log_events(&events);
        let expected = self.expected_events(plan, instances, results)?;
        ensure!(events == expected, "events are {events:?}, not {expected:?}");
        if let Some((ahead, instances)) = ahead {
            self.confirm_ahead(ahead, instances)?;
        }
        self.poison_unreachable();
        self.summary.steps += u64::from(!plan.is_empty());
        self.audit()
    }

    fn arrive(&mut self) -> Result<(), String> {
        while self.live.len() < self.scenario.max_live && self.rng.chance(self.scenario.arrival) {
            self.next_id += 1;
            self.add(SeqId(self.next_id))?;
        }
        Ok(())
    }

    fn add(&mut self, id: SeqId) -> Result<(), String> {
        let new = self.scenario.sequence(id, self.now, &mut self.rng);
        let expected = self.expected_refusal(&new);
        let refused = self.scheduler.add(new.clone(), self.now).err();
        ensure!(refused == expected, "a prompt of {} tokens is refused with {refused:?}, not {expected:?}", new.prompt.len());
        if refused.is_none() {
            self.next_instance += 1;
            self.live.push(Tracked::new(&new, self.next_instance, self.scenario.vocab_size));
            let twice = self.scheduler.add(new, self.now);
            ensure!(twice == Err(AdmissionError::DuplicateId { id }), "{id:?} is accepted twice");
        }
        Ok(())
    }

    fn expected_refusal(&self, new: &NewSequence) -> Option<AdmissionError> {
        let config = &self.scenario.config;
        let (prompt, max_tokens, max_model_len) = (new.prompt.len(), new.stop.max_tokens as usize, config.max_model_len);
        let needed_tokens = prompt + max_tokens.max(1) - 1;
        let capacity_tokens = config.num_blocks * config.block_size;
        match () {
            () if prompt == 0 => Some(AdmissionError::EmptyPrompt),
            () if prompt + max_tokens > max_model_len => Some(AdmissionError::TooLongForContext { prompt, max_tokens, max_model_len }),
            () if needed_tokens > capacity_tokens => Some(AdmissionError::TooLargeForPool { needed_tokens, capacity_tokens }),
            () => None,
        }
    }

    /// Aborts a random sequence; now and then another comes at once under the same id.
    fn abort_one(&mut self) -> Result<(), String> {
        if self.live.is_empty() {
            return Ok(());
        }
        let place = self.rng.between(0, self.live.len() - 1);
        let id = self.live.remove(place).id;
        self.summary.log.push(id.0);
        ensure!(self.scheduler.abort(id), "{id:?} cannot be aborted");
        ensure!(!self.scheduler.abort(id), "{id:?} can be aborted twice");
        self.summary.ends[3] += 1;
        self.audit()?;
        if self.rng.chance(500) {
            self.add(id)?;
        }
        Ok(())
    }

    /// The results of the step: of the shadow KV, except for what fails.
    pub(super) fn compute(&mut self, plan: &StepPlan) -> Result<Vec<StepResult>, String> {
        let fails_whole = self.rng.chance(self.scenario.step_failure);
        let fails: Vec<bool> = plan.sequences.iter().map(|_| fails_whole || self.rng.chance(self.scenario.sequence_failure)).collect();
        let mut work: Vec<(&PlannedSequence, &Tracked)> = Vec::with_capacity(plan.sequences.len());
        for planned in &plan.sequences {
            work.push((planned, &self.live[self.place(planned.id)?]));
        }
        let tokens = self.shadow.compute(&work, self.scenario.vocab_size)?;
        let results = plan.sequences.iter().zip(&fails).zip(tokens).map(|((planned, &fails), token)| match (fails, planned.samples) {
            (true, _) => StepResult::Failed,
            (false, true) => StepResult::Token(token),
            (false, false) => StepResult::Computed,
        });
        let results = results.collect();
        self.corrupt(plan, &fails);
        Ok(results)
    }

    /// Nothing that only failed sequences hold can be trusted any more, not even what earlier steps computed.
    fn corrupt(&mut self, plan: &StepPlan, fails: &[bool]) {
        let failed: BTreeSet<SeqId> =
            plan.sequences.iter().zip(fails).filter(|(_, fails)| **fails).map(|(planned, _)| planned.id).collect();
        let healthy = self.live.iter().filter(|tracked| !failed.contains(&tracked.id));
        let kept: BTreeSet<BlockId> = healthy.flat_map(|tracked| self.blocks_of(tracked.id)).collect();
        let lost: BTreeSet<BlockId> = failed.iter().flat_map(|&id| self.blocks_of(id)).collect();
        lost.difference(&kept).for_each(|&block| self.shadow.poison(block));
    }

    fn blocks_of(&self, id: SeqId) -> Vec<BlockId> {
        self.scheduler.sequence(id).map_or(Vec::new(), |sequence| sequence.block_table().to_vec())
    }

    /// What nobody holds and nobody can find may be overwritten by anyone.
    fn poison_unreachable(&mut self) {
        let kv = self.scheduler.kv_cache();
        let blocks = (0..kv.num_blocks() as u32).map(BlockId);
        blocks.filter(|&block| kv.ref_count(block) == 0 && !kv.is_cached(block)).for_each(|block| self.shadow.poison(block));
    }

    pub(super) fn audit(&self) -> Result<(), String> {
        self.scheduler.audit().map_err(|violation| violation.to_string())?;
        let stats = self.scheduler.stats();
        let num_live = self.live.len();
        ensure!(stats.waiting + stats.running == num_live, "{} wait, {} run, {num_live} live", stats.waiting, stats.running);
        ensure!(stats.preemptions_total == self.summary.preemptions, "{} preemptions counted", stats.preemptions_total);
        ensure!(stats.prefix_cache_hits_total == self.summary.cached_tokens, "{} tokens hit", stats.prefix_cache_hits_total);
        Ok(())
    }

    pub(super) fn place(&self, id: SeqId) -> Result<usize, String> {
        self.live.iter().position(|tracked| tracked.id == id).ok_or_else(|| format!("{id:?} has ended"))
    }

    pub(super) fn instances(&self, plan: &StepPlan) -> Result<Vec<u64>, String> {
        plan.sequences.iter().map(|planned| self.place(planned.id).map(|place| self.live[place].instance)).collect()
    }

    pub(super) fn log_plan(&mut self, plan: &StepPlan) {
        let log = &mut self.summary.log;
        log.extend([u64::MAX, plan.step]);
        log.extend(plan.expired.iter().chain(&plan.preempted).chain(&plan.first_scheduled).map(|id| id.0));
        log.extend(plan.new_blocks.iter().map(|block| u64::from(block.0)));
        for planned in &plan.sequences {
            log.extend([planned.id.0, planned.start as u64, planned.tokens.len() as u64, u64::from(planned.samples)]);
            log.extend(planned.block_table.iter().map(|block| u64::from(block.0)));
        }
    }

    fn log_events(&mut self, events: &[SchedulerEvent]) {
        for event in events {
            self.summary.log.extend(match *event {
                SchedulerEvent::Token { id, token } => [0, id.0, u64::from(token)],
                SchedulerEvent::Finished { id, usage, .. } => [1, id.0, u64::from(usage.completion_tokens)],
                SchedulerEvent::Failed { id } => [2, id.0, 0],
            });
        }
    }
}
