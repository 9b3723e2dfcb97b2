//! Runs planned steps on the runner: plan to batch, behind a boundary that no panic crosses.

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

/// Gives `plan` to the runner.
pub(super) fn submit(
    runner: &mut dyn ModelRunner,
    plan: &StepPlan,
    scheduler: &Scheduler,
    active: &BTreeMap<SeqId, ActiveSequence>,
) -> Result<(), StepError> {
    let sequences = plan.sequences.iter().map(|planned| slice(planned, scheduler, active)).collect::<Result<Vec<_>, _>>()?;
    let batch = StepBatch { sequences, new_blocks: &plan.new_blocks };
    caught(|| runner.submit(&batch))
}

/// What the runner computed for `plan`, the oldest that was submitted; the outputs are parallel to its sequences.
pub(super) fn collect(runner: &mut dyn ModelRunner, plan: &StepPlan) -> Result<Vec<SequenceOutput>, StepError> {
    let outputs = caught(|| runner.collect())?;
    if outputs.len() != plan.sequences.len() {
        return Err(StepError::WrongNumberOfOutputs { found: outputs.len(), expected: plan.sequences.len() });
    }
    Ok(outputs)
}

/// After a panic the runner is used again: its contract is that it keeps no sequence state but pages, and every page of this step is
/// discarded with its sequence.
fn caught<T>(call: impl FnOnce() -> Result<T, RunnerError>) -> Result<T, StepError> {
    Ok(catch_unwind(AssertUnwindSafe(call)).map_err(|panic| StepError::Panicked(panic_text(&*panic)))??)
}

/// Whether a row of the sequence can be computed before its last token is known, but for that token itself.
pub(super) fn needs_no_token(active: &ActiveSequence) -> bool {
    active.constraint.is_none() && !active.request.sampling.reads_output()
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
    let position = planned.start + planned.tokens.len();
    // Of a step that is planned ahead one token is not there yet.
    let generated = position.saturating_sub(sequence.prompt().len());
    let forbidden: &[TokenId] = if generated < request.stop.min_tokens as usize { &active.stop_tokens } else { &[] };
    let sample = planned.samples.then(|| SampleSpec {
        params: &request.sampling,
        prompt_index: request.prompt_index,
        choice_index: request.choice_index,
        position: position as u32,
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
    let PlannedSequence { start, follows, .. } = *planned;
    Ok(SequenceSlice { tokens: &planned.tokens, follows, start, block_table: &planned.block_table, sample, score })
}

/// What a panic says.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
