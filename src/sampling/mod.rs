//! Chooses the next token from a row of f32 logits.
//!
//! `runner` calls [`Sampler::sample`] once per sequence and step and [`score`] once per prompt token to score.
//!
//! A choice goes through these stages, in vLLM's order: logit bias; repetition, frequency, presence penalty; masks of bad words, of
//! forbidden tokens and of those that are not allowed; temperature; min-p; top-k; top-p (of the mass that is left); draw. Temperature 0,
//! `top_k` 1 and `top_p` 0 take the most likely token, ties by the lower id. Log-probabilities come from the logits before all of this.
//!
//! **Architecture invariant:** a choice is a pure function of the row and its [`SampleSpec`], to the bit, on every machine: no
//! generator with a state, no library exponential, no order that depends on a thread.
//!
//! **Architecture invariant:** NaN or an infinity in a row is an error, never a token.

mod edits;
mod filters;
mod logprobs;
mod order;
mod philox;
mod plan;
mod row;
mod sampler;
#[cfg(test)]
mod tests;

pub use edits::{Edit, Edits};
pub use logprobs::{RowFacts, score};
pub use order::Candidate;
pub use plan::Plan;
pub use sampler::Sampler;

use crate::generation::{SamplingParams, TokenId, TokenLogprobs, TokenMask};

/// Everything the choice of one token depends on, beside the logits.
#[derive(Clone, Copy, Debug)]
pub struct SampleSpec<'a> {
    /// Parameters of the request.
    pub params: &'a SamplingParams,
    /// Index of the prompt within its HTTP request; enters the random number.
    pub prompt_index: u32,
    /// Index of the choice; enters the random number.
    pub choice_index: u32,
    /// Absolute position of the token to choose; enters the random number.
    pub position: u32,
    /// The prompt's tokens (repetition penalty).
    pub prompt: &'a [TokenId],
    /// The tokens generated so far (all penalties); where the last one is awaited, those before it.
    pub output: &'a [TokenId],
    /// Tokens that may not be chosen at this position (end-of-sequence before `min_tokens`).
    pub forbidden: &'a [TokenId],
    /// The only tokens that may be chosen at this position, beside what the parameters say; `None` = all.
    pub mask: Option<&'a TokenMask>,
    /// How many alternatives to list with the log-probability; `None` = no log-probabilities.
    pub logprobs: Option<u8>,
    /// List these in place of the most likely ones; empty = those. Each lies in the row.
    pub logprob_tokens: &'a [TokenId],
}

impl<'a> SampleSpec<'a> {
    /// A choice by parameters alone: of the first token of the first choice of a prompt that nothing is known of, without log-probabilities.
    pub fn new(params: &'a SamplingParams) -> Self {
        Self {
            params,
            prompt_index: 0,
            choice_index: 0,
            position: 0,
            prompt: &[],
            output: &[],
            forbidden: &[],
            mask: None,
            logprobs: None,
            logprob_tokens: &[],
        }
    }
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledToken {
    /// Its id.
    pub token: TokenId,
    /// Present exactly when `logprobs` was asked.
    pub logprobs: Option<TokenLogprobs>,
}

/// Why no token can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// A logit is NaN or infinite.
    #[error("logit of token {token} at position {position} is not finite")]
    NonFinite {
        /// The first such token.
        token: TokenId,
        /// The position of the token to choose.
        position: u32,
    },
    /// Every token is forbidden.
    #[error("every token is forbidden at position {position}")]
    NothingAllowed {
        /// The position of the token to choose.
        position: u32,
    },
}
