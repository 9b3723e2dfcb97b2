//! Runs one planned step on the runner: plan to batch, behind a boundary that no panic crosses.

use super::core::ActiveSequence;
use crate::generation::TokenId;
use crate::runner::{ModelRunner, RunnerError, ScoreSpec, SequenceOutput, SequenceSlice, StepBatch};
use crate::sampling::SampleSpec;
use crate::scheduler::{PlannedSequence, Scheduler, SeqId, StepPlan};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A step of which nothing can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Runner(#[from] RunnerError),
    #[error("runner panicked: {0}")]
    Panicked(String),
    #[error("runner returned {found} outputs for {expected} sequences")]
    WrongNumberOfOutputs { found: usize, expected: usize },
    #[error("sequence {} is planned but not known", .0.0)]
    UnknownSequence(SeqId),
}

/// Computes `plan`; the outputs are parallel to its sequences.
pub(super) fn run(
    runner: &mut dyn ModelRunner,
    plan: &StepPlan,
    scheduler: &Scheduler,
    active: &BTreeMap<SeqId, ActiveSequence>,
) -> Result<Vec<SequenceOutput>, StepError> {
    let sequences = plan.sequences.iter().map(|planned| slice(planned, scheduler, active)).collect::<Result<Vec<_>, _>>()?;
    let batch = StepBatch { sequences, new_blocks: &plan.new_blocks };
    // After a panic the runner is used again: its contract is that it keeps no sequence state but pages, and every page of this step is
    // discarded with its sequence.
    let outputs = catch_unwind(AssertUnwindSafe(|| runner.step(&batch))).map_err(|panic| StepError::Panicked(panic_text(&*panic)))??;
    if outputs.len() != plan.sequences.len() {
        return Err(StepError::WrongNumberOfOutputs { found: outputs.len(), expected: plan.sequences.len() });
    }
    Ok(outputs)
}

fn slice<'a>(
    planned: &'a PlannedSequence,
    scheduler: &'a Scheduler,
    active: &'a BTreeMap<SeqId, ActiveSequence>,
) -> Result<SequenceSlice<'a>, StepError> {
    let unknown = StepError::UnknownSequence(planned.id);
    let (Some(sequence), Some(active)) = (scheduler.sequence(planned.id), active.get(&planned.id)) else { return Err(unknown) };
    let request = &active.request;
    let output = sequence.output();
    let forbidden: &[TokenId] = if output.len() < request.stop.min_tokens as usize { &active.stop_tokens } else { &[] };
    let sample = planned.samples.then(|| SampleSpec {
        params: &request.sampling,
        prompt_index: request.prompt_index,
        choice_index: request.choice_index,
        position: (planned.start + planned.tokens.len()) as u32,
        prompt: &request.prompt,
        output,
        forbidden,
        mask: active.constraint.as_ref().and_then(|constraint| constraint.mask()),
        logprobs: request.logprobs,
        logprob_tokens: &request.logprob_tokens,
    });
    let score = match request.prompt_logprobs {
        Some(top_n) if !planned.score_targets.is_empty() => Some(ScoreSpec { targets: &planned.score_targets, top_n }),
        _ => None,
    };
    Ok(SequenceSlice { tokens: &planned.tokens, start: planned.start, block_table: &planned.block_table, sample, score })
}

/// What a panic says.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
