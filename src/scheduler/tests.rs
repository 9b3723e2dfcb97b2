//! Tests of the scheduler by behaviour, one sentence each. The simulation covers their interplay.

use super::*;
use crate::generation::{FinishReason, Usage};

const NOW: Duration = Duration::ZERO;

fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        max_model_len: 64,
        block_size: 2,
        num_blocks: 32,
        enable_prefix_caching: true,
    }
}

fn sequence(id: u64, prompt: &[TokenId], max_tokens: u32) -> NewSequence {
    let stop = StopCriteria::length(max_tokens);
    NewSequence { id: SeqId(id), prompt: prompt.into(), stop, score_prompt: false, priority: 0, cache_salt: 0, deadline: None }
}

fn scheduler(config: SchedulerConfig, sequences: Vec<NewSequence>) -> Scheduler {
    let mut scheduler = Scheduler::new(config);
    for sequence in sequences {
        scheduler.add(sequence, NOW).unwrap();
    }
    scheduler
}

/// The result that the plan asks for, with token 9 where one is due.
fn results(plan: &StepPlan) -> Vec<StepResult> {
    plan.sequences.iter().map(|planned| if planned.samples { StepResult::Token(9) } else { StepResult::Computed }).collect()
}

/// One step in which everything succeeds.
fn step(scheduler: &mut Scheduler, budget: usize) -> (StepPlan, Vec<SchedulerEvent>) {
    let plan = scheduler.schedule(NOW, budget);
    scheduler.audit().unwrap();
    let events = scheduler.complete(&plan, &results(&plan));
    scheduler.audit().unwrap();
    (plan, events)
}

/// (id, start, number of tokens) of every planned sequence.
fn chunks(plan: &StepPlan) -> Vec<(u64, usize, usize)> {
    plan.sequences.iter().map(|planned| (planned.id.0, planned.start, planned.tokens.len())).collect()
}

fn finished(events: &[SchedulerEvent]) -> Vec<(u64, FinishReason, Usage)> {
    let ends = events.iter().filter_map(|event| match *event {
        SchedulerEvent::Finished { id, reason, usage } => Some((id.0, reason, usage)),
        _ => None,
    });
    ends.collect()
}

mod admission;
mod chunks;
mod failures;
mod preemption;
mod prefix_caching;
