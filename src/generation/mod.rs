//! What is asked of the engine and what it answers: plain values, shared by every layer.
//!
//! Raw JSON becomes [`GenerationRequest`]s once, in `server`; nothing deeper sees an optional or unchecked field.
//!
//! **Architecture invariant:** std only. No clock is read here, no I/O, no channel, no tensor.

mod constraint;
mod event;
mod mask;
mod params;

pub use constraint::{Constraint, ConstraintRef, ConstraintState};
pub use event::{FailureKind, FinishReason, GenerationEvent, GenerationFailure, TokenLogprob, TokenLogprobs, Usage};
pub use mask::TokenMask;
pub use params::{SamplingParams, StopCriteria};

use std::sync::Arc;

/// Index into the vocabulary. An alias, not a newtype: slices of ids cross from the tokenizer to the kernels unchanged.
pub type TokenId = u32;

/// One sequence to generate: one choice of one prompt. A request with `n` choices for `p` prompts is `n * p` of these.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationRequest {
    /// The id the client knows (`x-request-id`); for log lines only.
    pub request_id: Arc<str>,
    /// Token ids of the prompt, never empty, every id below the vocabulary size.
    pub prompt: Arc<[TokenId]>,
    /// Which prompt of the HTTP request this is; enters the random numbers.
    pub prompt_index: u32,
    /// Which choice of the prompt this is; enters the random numbers.
    pub choice_index: u32,
    /// How a token is chosen.
    pub sampling: SamplingParams,
    /// The form that the text must have.
    pub constraint: Option<ConstraintRef>,
    /// When the sequence ends.
    pub stop: StopCriteria,
    /// Log-probabilities of each generated token, with this many of the most likely alternatives (0 = the chosen one only).
    pub logprobs: Option<u8>,
    /// With log-probabilities: list these tokens, best first, in place of the most likely ones. Empty = those.
    pub logprob_tokens: Arc<[TokenId]>,
    /// Log-probabilities of the prompt's tokens, likewise. Such a request never reads the prefix cache.
    pub prompt_logprobs: Option<u8>,
    /// Whether to send [`GenerationEvent::Prefill`].
    pub reports_prefill: bool,
    /// Who goes first when some must wait: lower ones do. A unit counts as ten seconds of waiting.
    pub priority: i16,
    /// Only sequences of the same salt share blocks of the prefix cache.
    pub cache_salt: u64,
}
