//! The choice of one token.

use super::edits::Edits;
use super::filters::Weights;
use super::logprobs::{logprobs_of, token_logprobs};
use super::plan::Plan;
use super::{SampleSpec, SampledToken, SamplingError, row};
use crate::generation::TokenId;

/// Chooses tokens; owns scratch buffers that are reused from row to row, one per thread.
#[derive(Debug)]
pub struct Sampler {
    edits: Edits,
    weights: Weights,
    /// A row of which only some tokens are allowed.
    masked: Vec<f32>,
}

impl Sampler {
    /// A sampler for rows of `vocab_size` logits (other lengths work and let the buffers grow).
    pub fn new(vocab_size: usize) -> Self {
        Self { edits: Edits::new(vocab_size), weights: Weights::new(vocab_size), masked: Vec::new() }
    }

    /// Chooses the next token from `logits`, one f32 per token of the vocabulary, and leaves `logits` as they were.
    ///
    /// The result depends on nothing but the arguments.
    ///
    /// # Errors
    /// [`SamplingError::NonFinite`] when a logit is NaN or infinite, [`SamplingError::NothingAllowed`] when every token is forbidden.
    pub fn sample(&mut self, logits: &mut [f32], spec: &SampleSpec<'_>) -> Result<SampledToken, SamplingError> {
        let plan = Plan::new(spec);
        if let (true, Some((token, _))) = (plan.is_greedy && is_plain(spec), row::peak(logits)) {
            return Ok(SampledToken { token: token as TokenId, logprobs: None });
        }
        if let Some(token) = row::first_non_finite(logits) {
            return Err(SamplingError::NonFinite { token: token as TokenId, position: spec.position });
        }
        self.edits.apply(logits, spec);
        let choice = self.choose_allowed(logits, &plan, spec);
        self.edits.undo(logits);
        let token = choice?;
        let logprobs = spec.logprobs.map(|count| match spec.logprob_tokens {
            [] => token_logprobs(logits, token, count, self.weights.candidates()),
            listed => logprobs_of(logits, token, listed),
        });
        Ok(SampledToken { token, logprobs })
    }

    /// The choice among the tokens that are allowed.
    fn choose_allowed(&mut self, logits: &[f32], plan: &Plan, spec: &SampleSpec<'_>) -> Result<TokenId, SamplingError> {
        if spec.params.allowed_tokens.is_none() && spec.mask.is_none() {
            return self.choose(logits, plan, spec.position);
        }
        let mut row = std::mem::take(&mut self.masked);
        row.clear();
        row.extend_from_slice(logits);
        for allowed in spec.params.allowed_tokens.as_deref().into_iter().chain(spec.mask) {
            allowed.fill_others(&mut row, f32::NEG_INFINITY);
        }
        let choice = self.choose(&row, plan, spec.position);
        self.masked = row;
        choice
    }

    /// The choice from a row to which bias, penalties and mask were applied.
    fn choose(&mut self, logits: &[f32], plan: &Plan, position: u32) -> Result<TokenId, SamplingError> {
        let max = row::max(logits);
        if max == f32::NEG_INFINITY {
            return Err(SamplingError::NothingAllowed { position });
        }
        if plan.is_greedy {
            let best = logits.iter().position(|logit| *logit == max);
            return Ok(best.expect("the maximum of a row without NaN is one of its values") as TokenId);
        }
        self.weights.fill(logits, max, plan);
        Ok(self.weights.draw(plan.random))
    }
}

/// Whether nothing changes the row before the choice, and nothing but the token is wanted.
fn is_plain(spec: &SampleSpec<'_>) -> bool {
    let params = spec.params;
    let changed = params.repetition_penalty != 1.0 || params.frequency_penalty != 0.0 || params.presence_penalty != 0.0;
    let masked = params.allowed_tokens.is_some() || spec.mask.is_some() || !params.bad_words.is_empty() || !spec.forbidden.is_empty();
    !changed && !masked && params.logit_bias.is_empty() && spec.logprobs.is_none()
}
