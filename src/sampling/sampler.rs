//! The choice of one token.

use super::filters::Weights;
use super::logprobs::{logprobs_of, token_logprobs};
use super::penalties::Penalties;
use super::philox::{RandomKey, uniform};
use super::{SampleSpec, SampledToken, SamplingError, row};
use crate::generation::{SamplingParams, TokenId};

/// Temperatures below this are greedy, as in vLLM: dividing by them would only overflow.
const GREEDY_TEMPERATURE: f32 = 1e-5;

/// Chooses tokens; owns scratch buffers that are reused from row to row, one per thread.
#[derive(Debug)]
pub struct Sampler {
    penalties: Penalties,
    weights: Weights,
    /// A row of which only some tokens are allowed.
    masked: Vec<f32>,
}

impl Sampler {
    /// A sampler for rows of `vocab_size` logits (other lengths work and let the buffers grow).
    pub fn new(vocab_size: usize) -> Self {
        Self { penalties: Penalties::new(vocab_size), weights: Weights::new(vocab_size), masked: Vec::new() }
    }

    /// Chooses the next token from `logits`, one f32 per token of the vocabulary, and leaves `logits` as they were.
    ///
    /// The result depends on nothing but the arguments.
    ///
    /// # Errors
    /// [`SamplingError::NonFinite`] when a logit is NaN or infinite, [`SamplingError::NothingAllowed`] when every token is forbidden.
    pub fn sample(&mut self, logits: &mut [f32], spec: &SampleSpec<'_>) -> Result<SampledToken, SamplingError> {
        if let (true, Some((token, _))) = (is_plain_greedy(spec), row::peak(logits)) {
            return Ok(SampledToken { token: token as TokenId, logprobs: None });
        }
        if let Some(token) = row::first_non_finite(logits) {
            return Err(SamplingError::NonFinite { token: token as TokenId, position: spec.position });
        }
        self.penalties.apply(logits, spec);
        let choice = self.choose_allowed(logits, spec);
        self.penalties.undo(logits);
        let token = choice?;
        let logprobs = spec.logprobs.map(|count| match spec.logprob_tokens {
            [] => token_logprobs(logits, token, count, self.weights.candidates()),
            listed => logprobs_of(logits, token, listed),
        });
        Ok(SampledToken { token, logprobs })
    }

    /// The choice among the tokens that are allowed.
    fn choose_allowed(&mut self, logits: &[f32], spec: &SampleSpec<'_>) -> Result<TokenId, SamplingError> {
        if spec.params.allowed_tokens.is_none() && spec.mask.is_none() {
            return self.choose(logits, spec);
        }
        let mut row = std::mem::take(&mut self.masked);
        row.clear();
        row.extend_from_slice(logits);
        for allowed in spec.params.allowed_tokens.as_deref().into_iter().chain(spec.mask) {
            allowed.fill_others(&mut row, f32::NEG_INFINITY);
        }
        let choice = self.choose(&row, spec);
        self.masked = row;
        choice
    }

    /// The choice from a row to which bias, penalties and mask were applied.
    fn choose(&mut self, logits: &[f32], spec: &SampleSpec<'_>) -> Result<TokenId, SamplingError> {
        let max = row::max(logits);
        if max == f32::NEG_INFINITY {
            return Err(SamplingError::NothingAllowed { position: spec.position });
        }
        if is_greedy(spec.params) {
            let best = logits.iter().position(|logit| *logit == max);
            return Ok(best.expect("the maximum of a row without NaN is one of its values") as TokenId);
        }
        self.weights.fill(logits, max, spec.params);
        let key =
            RandomKey { seed: spec.params.seed, prompt_index: spec.prompt_index, choice_index: spec.choice_index, position: spec.position };
        Ok(self.weights.draw(uniform(key)))
    }
}

/// Whether the choice is the first of the largest logits as they are.
fn is_plain_greedy(spec: &SampleSpec<'_>) -> bool {
    let params = spec.params;
    let changed = params.repetition_penalty != 1.0 || params.frequency_penalty != 0.0 || params.presence_penalty != 0.0;
    let masked = params.allowed_tokens.is_some() || spec.mask.is_some() || !params.bad_words.is_empty() || !spec.forbidden.is_empty();
    is_greedy(params) && !changed && !masked && params.logit_bias.is_empty() && spec.logprobs.is_none()
}

/// Whether only the most likely token can be chosen.
fn is_greedy(params: &SamplingParams) -> bool {
    params.temperature < GREEDY_TEMPERATURE || params.top_k == 1 || params.top_p <= 0.0
}
