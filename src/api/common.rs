//! Pieces that both APIs share.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Options of a stream.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Send one more chunk before the end, with `choices: []` and the usage of the whole request.
    pub include_usage: Option<bool>,
    /// Send the usage so far with every chunk.
    pub continuous_usage_stats: Option<bool>,
    /// Not implemented: refused unless `false`.
    #[schema(ignore)]
    pub include_obfuscation: Option<bool>,
}

/// An end of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

/// Biases by token id (written as a string, as JSON keys are).
pub type LogitBias = BTreeMap<String, f64>;

/// Accepted for compatibility; its content has no effect.
pub type Metadata = serde_json::Map<String, Value>;

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens generated, over all choices.
    pub completion_tokens: u64,
    /// Their sum.
    pub total_tokens: u64,
    /// Of the prompt tokens, which were not computed again.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// Details of the prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens found in the prefix cache.
    pub cached_tokens: u64,
}

/// How far a prompt is computed, as llama.cpp writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptProgress {
    /// Tokens of the prompt.
    pub total: u64,
    /// Of these, found in the prefix cache.
    pub cache: u64,
    /// Of these, computed, those of the cache included.
    pub processed: u64,
    /// Milliseconds since the request came.
    pub time_ms: u64,
}

/// The log-probability of a token at a place in a prompt, as vLLM writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PromptLogprob {
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its place among all tokens, the likeliest first, from 1.
    pub rank: u32,
    /// Its text.
    pub decoded_token: String,
}

/// For each token of a prompt: itself and the likeliest ones, by id; null for the first token, which nothing predicts.
pub type PromptLogprobs = Vec<Option<BTreeMap<String, PromptLogprob>>>;

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The model calls tools.
    ToolCalls,
}

impl FinishReason {
    /// As it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// The kind of object an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ObjectKind {
    /// A completion, or a chunk of one.
    #[serde(rename = "text_completion")]
    TextCompletion,
    /// A chat completion.
    #[serde(rename = "chat.completion")]
    ChatCompletion,
    /// A chunk of a chat completion.
    #[serde(rename = "chat.completion.chunk")]
    ChatCompletionChunk,
    /// A model.
    #[serde(rename = "model")]
    Model,
    /// A list.
    #[serde(rename = "list")]
    List,
}
