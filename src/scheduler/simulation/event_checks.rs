//! What must be true of the events of every step: they are computed here a second time and must be equal.

use super::world::World;
use crate::scheduler::{SchedulerEvent, StepPlan, StepResult};

impl World {
    /// The events that a step must give; brings the records up to date. `instances[i]` was planned as `plan.sequences[i]`.
    pub(super) fn expected_events(
        &mut self,
        plan: &StepPlan,
        instances: &[u64],
        results: &[StepResult],
    ) -> Result<Vec<SchedulerEvent>, String> {
        let mut events = Vec::new();
        for ((planned, &instance), &result) in plan.sequences.iter().zip(instances).zip(results) {
            let Some(place) = self.live.iter().position(|tracked| tracked.instance == instance) else {
                continue; // aborted while the step was computed
            };
            let tracked = &mut self.live[place];
            let id = tracked.id;
            if result == StepResult::Failed {
                events.push(SchedulerEvent::Failed { id });
                self.live.remove(place);
                self.summary.ends[1] += 1;
                continue;
            }
            tracked.num_computed = planned.start + planned.tokens.len();
            tracked.num_scored += planned.score_targets.len();
            if let StepResult::Token(token) = result {
                let solo = tracked.solo.output.get(tracked.num_generated());
                ensure!(solo == Some(&token), "{id:?} generates {token}, alone it generates {solo:?}");
                ensure!(
                    !tracked.score_prompt || tracked.num_scored + 1 == tracked.prompt_len,
                    "{id:?} samples with {} of {} prompt tokens scored",
                    tracked.num_scored,
                    tracked.prompt_len
                );
                tracked.push(token);
                events.push(SchedulerEvent::Token { id, token });
            }
            if tracked.is_finished() {
                events.push(SchedulerEvent::Finished { id, reason: tracked.solo.reason, usage: tracked.usage() });
                self.live.remove(place);
                self.summary.ends[0] += 1;
            }
        }
        Ok(events)
    }
}
