//! `POST /v1/completions`.

use super::common::{FinishReason, LogitBias, Metadata, ObjectKind, StreamOptions, Usage};
use super::input::{Prompt, Stop};
use super::number::{float, integer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A completion to make. Every field but `prompt` may be left out or `null`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"prompt": "Once upon a time", "max_tokens": 32, "temperature": 0.7}))]
pub struct CompletionRequest {
    /// A name of the served model; the served one if absent.
    pub model: Option<String>,
    /// Text or token ids, one prompt or several.
    #[schema(required = true, nullable = false)]
    pub prompt: Option<Prompt>,
    /// Most tokens to generate. Default 16; 0 only with `echo`.
    #[serde(default, deserialize_with = "integer")]
    #[schema(minimum = 0, default = 16)]
    pub max_tokens: Option<i64>,
    /// 0 = the most likely token always. Default from the model's generation_config, else 1.
    #[serde(default, deserialize_with = "float")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Nucleus sampling. 0 = the most likely token alone.
    #[serde(default, deserialize_with = "float")]
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Sample among the `k` most likely tokens; -1 and 0 = all.
    #[serde(default, deserialize_with = "integer")]
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Sample among tokens at least this times as likely as the most likely one.
    #[serde(default, deserialize_with = "float")]
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// Choices for each prompt.
    #[serde(default, deserialize_with = "integer")]
    #[schema(minimum = 1, default = 1)]
    pub n: Option<i64>,
    /// Only equal to `n`: choosing the best of more is not implemented.
    #[serde(default, deserialize_with = "integer")]
    #[schema(minimum = 1)]
    pub best_of: Option<i64>,
    /// Strings that end a choice; they are not part of the text.
    pub stop: Option<Stop>,
    /// The same seed gives the same text.
    #[serde(default, deserialize_with = "integer")]
    pub seed: Option<i64>,
    /// Answer with server-sent events.
    #[schema(default = false)]
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Begin the text with the prompt; with `logprobs` the prompt is scored too.
    #[schema(default = false)]
    pub echo: Option<bool>,
    /// Log-probabilities of each token, with so many alternatives.
    #[serde(default, deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<i64>,
    /// Lowers the logit of every token generated before.
    #[serde(default, deserialize_with = "float")]
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// Lowers the logit of a token for each time it was generated before.
    #[serde(default, deserialize_with = "float")]
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Divides (or multiplies, if negative) the logits of tokens in the prompt and the text. 1 = off.
    #[serde(default, deserialize_with = "float")]
    #[schema(minimum = 0.01, maximum = 100)]
    pub repetition_penalty: Option<f64>,
    /// Added to the logits, by token id, each in -100..=100.
    #[schema(value_type = Option<std::collections::BTreeMap<String, f64>>)]
    pub logit_bias: Option<LogitBias>,
    /// Go on after an end-of-sequence token.
    #[schema(default = false)]
    pub ignore_eos: Option<bool>,
    /// No end-of-sequence token before so many tokens.
    #[serde(default, deserialize_with = "integer")]
    #[schema(minimum = 0, default = 0)]
    pub min_tokens: Option<i64>,
    /// Return the token ids of prompt and text.
    #[schema(default = false)]
    pub return_token_ids: Option<bool>,
    /// Accepted, without effect.
    pub user: Option<String>,
    /// Accepted, without effect.
    pub safety_identifier: Option<String>,
    /// Accepted, without effect.
    pub prompt_cache_key: Option<String>,
    /// Accepted, without effect.
    pub store: Option<bool>,
    /// Accepted, without effect.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Metadata>,
    /// `auto` or `default`; without effect.
    pub service_tier: Option<String>,
    /// Accepted, without effect.
    pub parallel_tool_calls: Option<bool>,
}

/// A whole completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionResponse {
    /// `cmpl-…`
    pub id: String,
    /// Always `text_completion`.
    pub object: ObjectKind,
    /// Unix time.
    pub created: u64,
    /// The name of the model that was asked for.
    pub model: String,
    /// What determines the answer beside the request: weights, kernels, version.
    pub system_fingerprint: String,
    /// `n` per prompt: choice `c` of prompt `p` has the index `p * n + c`.
    pub choices: Vec<CompletionChoice>,
    /// Tokens read and written.
    pub usage: Usage,
}

/// One completed text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// The text, without the stop string; with `echo` it begins with the prompt.
    pub text: String,
    /// Position among the choices.
    pub index: u32,
    /// Present if asked for.
    #[schema(required = true)]
    pub logprobs: Option<CompletionLogprobs>,
    /// Why the text ended.
    #[schema(required = true, nullable = false)]
    pub finish_reason: Option<FinishReason>,
    /// Ids of the generated tokens, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// Ids of the prompt's tokens, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// Log-probabilities in the shape of the completions API: parallel arrays, one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Each token's text; a token that is not UTF-8 on its own is written as `bytes:\xNN…`.
    pub tokens: Vec<String>,
    /// Its log-probability; null for the first token of an echoed prompt.
    #[schema(value_type = Vec<Option<f32>>)]
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens and the chosen one; null for the first token of an echoed prompt.
    #[schema(value_type = Vec<Option<Object>>)]
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Characters before the token, from the start of the returned text.
    pub text_offset: Vec<u64>,
}

/// A piece of a streamed completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionChunk {
    /// The same in all chunks.
    pub id: String,
    /// Always `text_completion`.
    pub object: ObjectKind,
    /// The same in all chunks.
    pub created: u64,
    /// The name of the model that was asked for.
    pub model: String,
    /// As in the whole answer.
    pub system_fingerprint: String,
    /// The piece; empty in the usage chunk.
    pub choices: Vec<CompletionChunkChoice>,
    /// Only with `include_usage`: null but in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// A piece of one choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionChunkChoice {
    /// More text.
    pub text: String,
    /// Which choice.
    pub index: u32,
    /// One entry per token of this chunk, if asked for.
    #[schema(required = true)]
    pub logprobs: Option<CompletionLogprobs>,
    /// Null but in the last chunk of each choice.
    #[schema(required = true)]
    pub finish_reason: Option<FinishReason>,
    /// Ids of the tokens of this chunk, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// Ids of the prompt's tokens, in the first chunk of each choice, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}
