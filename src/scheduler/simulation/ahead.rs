//! Steps planned ahead of the results before them. A device computes such a step right after the one before, with the blocks it was planned with,
//! also the rows of sequences that have ended meanwhile.

use super::world::World;
use crate::kv_cache::BlockId;
use crate::scheduler::{PlannedSequence, StepPlan, StepResult};
use std::collections::BTreeSet;

/// See the module.
pub(super) struct Ahead {
    pub(super) plan: StepPlan,
    /// Who was planned.
    pub(super) instances: Vec<u64>,
    pub(super) results: Vec<StepResult>,
}

impl World {
    /// Asks for the plan after `plan`, which was computed.
    pub(super) fn plan_ahead(&mut self, plan: &StepPlan, budget: usize) -> Result<Option<(StepPlan, Vec<u64>)>, String> {
        let Some(ahead) = self.scheduler.schedule_ahead(plan, self.now, budget) else { return Ok(None) };
        ensure!(ahead.step > self.last_step, "plan {} is ahead of plan {}", ahead.step, self.last_step);
        self.last_step = ahead.step;
        self.log_plan(&ahead);
        for next in &ahead.sequences {
            let planned = next.follows.and_then(|index| plan.sequences.get(index)).ok_or("follows nobody")?;
            let id = planned.id;
            ensure!(next.id == id && next.start == planned.start + planned.tokens.len(), "{next:?} is ahead of {planned:?}");
            let tracked = &self.live[self.place(id)?];
            ensure!(planned.samples && next.samples, "{id:?} goes on without a token");
            ensure!(tracked.num_generated() + 1 < tracked.stop.max_tokens as usize, "{id:?} goes on after its last token");
            ensure!(tracked.deadline.is_none_or(|deadline| deadline > self.now), "{id:?} goes on after its deadline");
        }
        let running = self.live.iter().filter(|tracked| tracked.is_running);
        let going_on = running.clone().filter(|tracked| tracked.num_generated() + 1 < tracked.stop.max_tokens as usize).count();
        ensure!(going_on == ahead.sequences.len(), "{going_on} go on, {} are planned ahead", ahead.sequences.len());
        let num_running = running.count();
        let is_full = going_on == self.scenario.config.max_num_seqs || num_running == self.live.len();
        ensure!(is_full || going_on == num_running && !self.has_room_for_next(), "others could begin beside what is planned ahead");
        self.check_limits(&ahead, budget)?;
        self.audit()?;
        ahead.new_blocks.iter().for_each(|&block| self.shadow.poison(block));
        self.summary.ahead[0] += 1;
        let instances = self.instances(&ahead)?;
        Ok(Some((ahead, instances)))
    }

    /// Confirms a plan that was made ahead, and computes it.
    pub(super) fn confirm_ahead(&mut self, mut plan: StepPlan, instances: Vec<u64>) -> Result<(), String> {
        let tables: Vec<Vec<BlockId>> = plan.sequences.iter().map(|planned| planned.block_table.clone()).collect();
        self.scheduler.confirm(&mut plan);
        let lives: Vec<bool> = instances.iter().map(|&instance| self.live.iter().any(|tracked| tracked.instance == instance)).collect();
        for ((planned, table), _) in plan.sequences.iter().zip(&tables).zip(&lives).filter(|(_, lives)| !**lives) {
            ensure!(planned.block_table.is_empty(), "{:?} has ended and keeps its blocks in the plan", planned.id);
            self.shadow.spoil(table, planned.start);
            self.summary.ahead[1] += 1;
        }
        let survivors = |plan: &StepPlan| -> Vec<PlannedSequence> {
            plan.sequences.iter().zip(&lives).filter(|(_, lives)| **lives).map(|(planned, _)| planned.clone()).collect()
        };
        let confirmed = StepPlan { sequences: survivors(&plan), ..plan.clone() };
        self.check_confirmed(&confirmed)?;
        for (planned, table) in plan.sequences.iter_mut().zip(tables) {
            planned.block_table = table;
        }
        let mut computed = self.compute(&StepPlan { sequences: survivors(&plan), ..plan.clone() })?.into_iter();
        let results = lives.iter().map(|&lives| if lives { computed.next() } else { None }.unwrap_or(StepResult::Failed)).collect();
        let mut confirmed = confirmed.sequences.into_iter();
        for (planned, lives) in plan.sequences.iter_mut().zip(&lives) {
            if *lives {
                planned.clone_from(&confirmed.next().ok_or("as many as live")?);
            } else {
                planned.block_table.clear();
            }
        }
        self.ahead = Some(Ahead { plan, instances, results });
        Ok(())
    }

    /// What is true of every plan, of those that have not ended.
    fn check_confirmed(&mut self, plan: &StepPlan) -> Result<(), String> {
        let held: BTreeSet<BlockId> = plan.sequences.iter().flat_map(|planned| planned.block_table.iter().copied()).collect();
        let new_blocks = plan.new_blocks.iter().copied().filter(|block| held.contains(block)).collect();
        self.check_new_blocks(&StepPlan { new_blocks, ..plan.clone() })?;
        if !plan.sequences.is_empty() {
            self.check_oldest(plan)?;
        }
        for planned in &plan.sequences {
            self.check_planned(self.place(planned.id)?, planned)?;
        }
        Ok(())
    }
}
