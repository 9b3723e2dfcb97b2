//! What the two APIs have in common about an answer.

use super::collect::Collected;
use super::driver::Output;
use super::token_text::TokenText;
use crate::api::common::{PromptLogprob, PromptLogprobs, Usage};
use crate::generation::{TokenId, TokenLogprob, TokenLogprobs};
use crate::server::parse::OutputPlan;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What every answer and every chunk of one request begins with, and how its tokens are written.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// `cmpl-…` or `chatcmpl-…`.
    pub id: String,
    /// Unix time.
    pub created: u64,
    /// What determines the answer beside the request.
    pub system_fingerprint: String,
    /// What was asked for.
    pub plan: Arc<OutputPlan>,
    /// Writes tokens.
    pub token_text: TokenText,
}

impl Envelope {
    /// `usage` of a chunk that is not the usage chunk: what was used so far, if every chunk is to say it; null, if a usage chunk will come;
    /// else absent.
    pub fn chunk_usage(&self, so_far: Option<Usage>) -> Option<Option<Usage>> {
        let usage_chunk_comes = self.plan.stream.is_some_and(|stream| stream.include_usage);
        (so_far.is_some() || usage_chunk_comes).then_some(so_far)
    }

    /// The tokens, if they were asked for.
    pub fn token_ids(&self, tokens: Vec<TokenId>) -> Option<Vec<TokenId>> {
        self.plan.return_token_ids.then_some(tokens)
    }

    /// The prompt's tokens of this choice, if they were asked for.
    pub fn prompt_token_ids(&self, choice: u32) -> Option<Vec<TokenId>> {
        let prompt = self.plan.prompts.get((choice / self.plan.n.max(1)) as usize)?;
        self.plan.return_token_ids.then(|| prompt.tokens.to_vec())
    }

    /// Log-probabilities of the prompt, if they were asked for.
    pub fn prompt_logprobs(&self, scores: &[Option<TokenLogprobs>]) -> Option<PromptLogprobs> {
        self.plan.prompt_logprobs?;
        Some(scores.iter().map(|entry| entry.as_ref().map(|entry| self.ranked(entry))).collect())
    }

    fn ranked(&self, entry: &TokenLogprobs) -> BTreeMap<String, PromptLogprob> {
        let written = |token: &TokenLogprob, rank| {
            let written = PromptLogprob { logprob: finite(token.logprob), rank, decoded_token: self.token_text.lossy(token.token) };
            (token.token.to_string(), written)
        };
        let top = (1..).zip(&entry.top).map(|(rank, token)| written(token, rank));
        top.chain([written(&entry.chosen, entry.rank)]).collect()
    }
}

/// Encodes answers in the shape of one API.
pub trait Shape: Send + Sync + 'static {
    /// A whole answer.
    type Whole: Serialize;
    /// A piece of a streamed one.
    type Chunk: Serialize;

    /// For the answer to one request.
    fn new(envelope: Envelope) -> Self;

    /// The whole answer.
    fn whole(&self, choices: Vec<Collected>, usage: Usage) -> Self::Whole;

    /// The chunks for one output, in order; with what was used so far, if every chunk is to say it.
    fn chunks(&mut self, output: Output, so_far: Option<Usage>) -> Vec<Self::Chunk>;

    /// The chunk with the usage, after all others.
    fn usage_chunk(&self, usage: Usage) -> Self::Chunk;
}

/// The log-probability as JSON can write it: an impossible token has none lower than any real one.
pub fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}
