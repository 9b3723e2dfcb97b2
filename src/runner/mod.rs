//! Executes one step of the schedule on a model: tokens in, sampled tokens and log-probabilities out.
//!
//! `engine` builds a [`StepBatch`] from the scheduler's plan, and calls [`ModelRunner::submit`] and [`ModelRunner::collect`] once for each step, always
//! from the engine thread.
//!
//! **Architecture invariant:** a runner holds no policy. It keeps no sequence state but the KV pages it was told to write, and of a step that was
//! submitted what its outputs are made of.

#[cfg(test)]
pub mod fake;
pub mod paged;

use crate::generation::{TokenId, TokenLogprobs};
use crate::kv_cache::BlockId;
pub use crate::model::openelm::{StepOp, StepProfile};
use crate::sampling::{SampleSpec, SampledToken, SamplingError};

/// What one sequence contributes to a step: `tokens.len()` consecutive positions, starting at `start`.
#[derive(Clone, Debug)]
pub struct SequenceSlice<'a> {
    /// Token ids to compute, at least one.
    pub tokens: &'a [TokenId],
    /// The token, a single one, is not `tokens[0]` but what this sequence of the step submitted before, by its index, was given there. Then `sample` must
    /// not depend on it: its output is that up to this token ([`SamplingParams::reads_output`](crate::generation::SamplingParams::reads_output)).
    pub follows: Option<usize>,
    /// Absolute position of the first of them; everything before lies in the KV cache already.
    pub start: usize,
    /// Blocks of the sequence, covering at least `start + tokens.len()` positions.
    pub block_table: &'a [BlockId],
    /// How to choose the next token from the last row; `None` while the sequence is still catching up.
    pub sample: Option<SampleSpec<'a>>,
    /// Score tokens that follow rows of this slice (prompt log-probabilities).
    pub score: Option<ScoreSpec<'a>>,
}

/// Which log-probabilities of known tokens to return: row `i` of the slice scores `targets[i]`.
#[derive(Clone, Copy, Debug)]
pub struct ScoreSpec<'a> {
    /// The token that follows each of the first `targets.len()` rows of the slice.
    pub targets: &'a [TokenId],
    /// How many of the most likely alternatives to list.
    pub top_n: u8,
}

/// One step's work.
#[derive(Debug)]
pub struct StepBatch<'a> {
    /// The sequences, in the order of the plan.
    pub sequences: Vec<SequenceSlice<'a>>,
    /// Blocks handed out since the last step, whose content is garbage. A runner may poison them (tests do, with NaN).
    pub new_blocks: &'a [BlockId],
}

/// What a step yields for one sequence.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SequenceOutput {
    /// Present exactly when the slice had `sample`.
    pub sampled: Option<Result<SampledToken, SamplingError>>,
    /// One entry per target of `score`; fewer mean that the row after the last entry is not finite.
    pub scores: Vec<TokenLogprobs>,
}

/// What a runner can hold, fixed when it was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerLimits {
    /// Number of KV blocks.
    pub num_blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// Most rows of one step.
    pub max_num_batched_tokens: usize,
    /// Logits in a row.
    pub vocab_size: usize,
}

/// A step that could not be computed. It fails the sequences of that step.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The step failed; the next one may succeed.
    #[error("step failed: {0}")]
    Step(String),
    /// The runner can compute nothing more.
    #[error("runner is unusable: {0}")]
    Fatal(String),
}

/// A model that can execute steps.
pub trait ModelRunner: Send {
    /// The limits a batch must keep.
    fn limits(&self) -> RunnerLimits;

    /// Whether steps are computed elsewhere, after [`Self::submit`] has returned. Then the next step may be submitted before the last one is
    /// collected, and its sequences may follow those of that one; two steps are on their way at most.
    fn computes_elsewhere(&self) -> bool {
        false
    }

    /// Begins a step. After success it is owed a [`Self::collect`].
    ///
    /// # Errors
    /// [`RunnerError`] when the step cannot be computed; then there is nothing to collect.
    fn submit(&mut self, batch: &StepBatch<'_>) -> Result<(), RunnerError>;

    /// Waits for the oldest step that was submitted and not collected. One output per sequence of its batch, in order; none when nothing
    /// was submitted.
    ///
    /// # Errors
    /// [`RunnerError`] when nothing of the step may be used. NaN or infinite logits of one sequence are not such an error:
    /// they come back as that sequence's [`SamplingError`].
    fn collect(&mut self) -> Result<Vec<SequenceOutput>, RunnerError>;

    /// Computes one step: what [`Self::submit`] and [`Self::collect`] do.
    ///
    /// # Errors
    /// Those of the two.
    fn step(&mut self, batch: &StepBatch<'_>) -> Result<Vec<SequenceOutput>, RunnerError> {
        self.submit(batch)?;
        self.collect()
    }

    /// Where the time of the steps went since it was last reset; `None` for a runner that does not tell.
    fn step_profile(&mut self) -> Option<&mut StepProfile> {
        None
    }
}
