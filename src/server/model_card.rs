//! What the server says about its model, and the sampling defaults the model brings.

use crate::generation::TokenId;

/// The model as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCard {
    /// Names by which clients may ask for it, at least one; the first is the one in answers to requests without `model`.
    pub names: Vec<String>,
    /// Unix time at which the server was started.
    pub created: u64,
    /// Most tokens of prompt and answer together.
    pub max_model_len: usize,
    /// What determines an answer beside the request: weights, kernels, version.
    pub fingerprint: String,
    /// Name of the chat template; `None` without a tokenizer.
    pub chat_template: Option<String>,
}

/// What `generation_config.json` says; a `None` is the API's own default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end a text.
    pub eos_token_ids: Vec<TokenId>,
    /// Else 1.
    pub temperature: Option<f32>,
    /// Else 1.
    pub top_p: Option<f32>,
    /// Else all tokens.
    pub top_k: Option<u32>,
    /// Else off.
    pub min_p: Option<f32>,
    /// Else off.
    pub repetition_penalty: Option<f32>,
    /// Caps the length of a chat answer whose request names none; else it may fill the context.
    pub max_new_tokens: Option<u32>,
}
