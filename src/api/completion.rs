//! `POST /v1/completions`.

use super::common::{FinishReason, ObjectKind, PromptLogprob, PromptLogprobs, PromptProgress, Usage};
use super::input::Prompt;
use super::number::integer;
use super::shared::{request, shared_fields};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

shared_fields!(request {
    /// A completion to make. Every field but `prompt` may be left out or `null`.
    #[schema(example = json!({"prompt": "Once upon a time", "max_tokens": 32, "temperature": 0.7}))]
    CompletionRequest {
        /// Text or token ids, one prompt or several.
        #[schema(required = true, nullable = false)]
        pub prompt: Option<Prompt>,
        /// Most tokens to generate. Default 16; 0 only with `echo`.
        #[serde(default, deserialize_with = "integer")]
        #[schema(minimum = 0, default = 16)]
        pub max_tokens: Option<i64>,
        /// Generate so many choices for each prompt and return the `n` with the highest log-probability a token; not with `stream`.
        #[serde(default, deserialize_with = "integer")]
        #[schema(minimum = 1)]
        pub best_of: Option<i64>,
        /// Begin a prompt that is a text with the token that begins every prompt.
        #[schema(default = true)]
        pub add_special_tokens: Option<bool>,
        /// Begin the text with the prompt; with `logprobs` the prompt is scored too.
        #[schema(default = false)]
        pub echo: Option<bool>,
        /// Log-probabilities of each token, with so many alternatives.
        #[serde(default, deserialize_with = "integer")]
        #[schema(minimum = 0, maximum = 20)]
        pub logprobs: Option<i64>,
    }
});

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
    /// With `prompt_logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<BTreeMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<PromptLogprobs>,
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
    /// With `return_progress`, while the prompt is computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<PromptProgress>,
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
