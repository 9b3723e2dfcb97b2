//! Executes one step of the schedule on a model: tokens in, sampled tokens and log-probabilities out.
//!
//! `engine` builds a [`StepBatch`] from the scheduler's plan and calls [`ModelRunner::step`] once a step, always from the engine thread.
//!
//! **Architecture invariant:** a runner holds no policy. It keeps no sequence state between steps but the KV pages it was told to write.

#[cfg(test)]
pub mod fake;
pub mod paged;

use crate::generation::{TokenId, TokenLogprobs};
use crate::kv_cache::BlockId;
pub use crate::model::openelm::{StepOp, StepProfile};
use crate::sampling::{SampleSpec, SampledToken, SamplingError};

/// What one sequence contributes to a step: `tokens.len()` consecutive positions, starting at `start`.
#[derive(Debug)]
pub struct SequenceSlice<'a> {
    /// Token ids to compute, at least one.
    pub tokens: &'a [TokenId],
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

    /// Computes one step and returns one output per sequence of the batch, in order.
    ///
    /// # Errors
    /// [`RunnerError`] when nothing of the step may be used. NaN or infinite logits of one sequence are not such an error:
    /// they come back as that sequence's [`SamplingError`].
    fn step(&mut self, batch: &StepBatch<'_>) -> Result<Vec<SequenceOutput>, RunnerError>;

    /// Where the time of the steps went since it was last reset; `None` for a runner that does not tell.
    fn step_profile(&mut self) -> Option<&mut StepProfile> {
        None
    }
}
