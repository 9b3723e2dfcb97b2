//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`, as vLLM has them.

use super::chat::ChatMessage;
use super::number::integers;
use super::tools::Tool;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A text or a conversation to tokenize: exactly one of `prompt` and `messages`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"prompt": "Once upon a time"}))]
pub struct TokenizeRequest {
    /// A name of the served model; the served one if absent.
    pub model: Option<String>,
    /// A text.
    pub prompt: Option<String>,
    /// A conversation, which the chat template renders.
    #[schema(min_items = 1)]
    pub messages: Option<Vec<ChatMessage>>,
    /// End a conversation with the beginning of the assistant's next message.
    #[schema(default = true)]
    pub add_generation_prompt: Option<bool>,
    /// End a conversation within its last message; only with `add_generation_prompt: false`.
    #[schema(default = false)]
    pub continue_final_message: Option<bool>,
    /// Tools that the conversation may call.
    pub tools: Option<Vec<Tool>>,
    /// Further variables of the chat template.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Begin a text with the token that begins every prompt. A conversation begins with it in any case.
    #[schema(default = true)]
    pub add_special_tokens: Option<bool>,
    /// Return the tokens as the vocabulary spells them, too.
    #[schema(default = false)]
    pub return_token_strs: Option<bool>,
}

/// The tokens of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenizeResponse {
    /// How many there are.
    pub count: u64,
    /// How many the context holds.
    pub max_model_len: u64,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their spelling in the vocabulary, with `return_token_strs`; else null.
    #[schema(required = true)]
    pub token_strs: Option<Vec<String>>,
}

/// Tokens to make a text of.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"tokens": [1, 403, 501]}))]
pub struct DetokenizeRequest {
    /// A name of the served model; the served one if absent.
    pub model: Option<String>,
    /// Ids.
    #[serde(default, deserialize_with = "integers")]
    #[schema(required = true, nullable = false, value_type = Vec<u32>)]
    pub tokens: Option<Vec<i64>>,
}

/// The text of some tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeResponse {
    /// The text, special tokens included.
    pub prompt: String,
}

/// What clients need to know of the tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenizerInfo {
    /// A name for its kind, as clients of `transformers` expect one.
    pub tokenizer_class: String,
    /// One more than the largest id.
    pub vocab_size: u64,
    /// Tokens that the context holds.
    pub model_max_length: u64,
    /// The token that begins prompts.
    #[schema(required = true)]
    pub bos_token: Option<String>,
    /// The token that ends texts.
    #[schema(required = true)]
    pub eos_token: Option<String>,
    /// Source of the chat template that came with the tokenizer.
    #[schema(required = true)]
    pub chat_template: Option<String>,
}
