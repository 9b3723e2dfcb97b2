//! `POST /v1/completions/render`, `POST /v1/chat/completions/render`: what a request comes to, without an answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A prompt as the model would read it, and how it would go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RenderedPrompt {
    /// `cmpl-…` or `chatcmpl-…`
    pub request_id: String,
    /// The name of the model that was asked for.
    pub model: String,
    /// Ids of the prompt's tokens.
    pub token_ids: Vec<u32>,
    /// Their text, special tokens included; null if the server runs without a tokenizer.
    #[schema(required = true)]
    pub prompt: Option<String>,
    /// How tokens would be chosen.
    pub sampling_params: RenderedSampling,
}

/// Sampling parameters with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RenderedSampling {
    /// Choices.
    pub n: u32,
    /// Most tokens: what was asked for, or what fits.
    pub max_tokens: u32,
    /// Fewest tokens.
    pub min_tokens: u32,
    /// 0 = the most likely token always.
    pub temperature: f32,
    /// 1 = off.
    pub top_p: f32,
    /// 0 = off.
    pub top_k: u32,
    /// 0 = off.
    pub min_p: f32,
    /// 0 = off.
    pub presence_penalty: f32,
    /// 0 = off.
    pub frequency_penalty: f32,
    /// 1 = off.
    pub repetition_penalty: f32,
    /// What the random numbers come from; as `seed` of a request it gives the same.
    pub seed: i64,
}
