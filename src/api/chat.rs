//! `POST /v1/chat/completions`.

use super::common::{FinishReason, ObjectKind, PromptLogprob, PromptLogprobs, PromptProgress, Usage};
use super::input::MessageContent;
use super::number::integer;
use super::shared::{request, shared_fields};
use super::tools::{PastCall, Tool, ToolCall, ToolCallDelta, ToolChoice};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

shared_fields!(request {
    /// A conversation to continue. Every field but `messages` may be left out or `null`.
    #[schema(example = json!({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64}))]
    ChatRequest {
        /// The conversation so far.
        #[schema(required = true, nullable = false, min_items = 1)]
        pub messages: Option<Vec<ChatMessage>>,
        /// End the text that the model reads with the beginning of the assistant's next message.
        #[schema(default = true)]
        pub add_generation_prompt: Option<bool>,
        /// Go on within the last message; only with `add_generation_prompt: false`.
        #[schema(default = false)]
        pub continue_final_message: Option<bool>,
        /// Further variables of the chat template.
        #[schema(value_type = Option<Object>)]
        pub chat_template_kwargs: Option<Map<String, Value>>,
        /// Most tokens to generate. Default: what the context has left. The older name of `max_completion_tokens`, which goes before.
        #[serde(default, deserialize_with = "integer")]
        #[schema(minimum = 1)]
        pub max_tokens: Option<i64>,
        /// Most tokens to generate. Default: what the context has left.
        #[serde(default, deserialize_with = "integer")]
        #[schema(minimum = 1)]
        pub max_completion_tokens: Option<i64>,
        /// What the model may call, at most 128.
        pub tools: Option<Vec<Tool>>,
        /// Whether it does. Default: `auto` if there are tools.
        pub tool_choice: Option<ToolChoice>,
        /// Log-probabilities of each token.
        #[schema(default = false)]
        pub logprobs: Option<bool>,
        /// Alternatives to list with each; only with `logprobs`.
        #[serde(default, deserialize_with = "integer")]
        #[schema(minimum = 0, maximum = 20)]
        pub top_logprobs: Option<i64>,
    }
});

/// One message of the conversation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatMessage {
    /// Who speaks.
    #[schema(required = true, nullable = false, value_type = Role)]
    pub role: Option<String>,
    /// What is said. May be null in a message of the assistant that calls tools.
    #[schema(required = true)]
    pub content: Option<MessageContent>,
    /// The speaker's name, for templates that use it; without effect on others.
    pub name: Option<String>,
    /// Null in answers; accepted back as null.
    #[schema(ignore)]
    pub refusal: Option<Value>,
    /// What SDKs add to answers that they parsed; without effect.
    #[schema(ignore)]
    pub parsed: Option<Value>,
    /// Not implemented: refused by name unless null.
    #[schema(ignore)]
    pub audio: Option<Value>,
    /// Not implemented: refused by name unless null or empty.
    #[schema(ignore)]
    pub annotations: Option<Value>,
    /// What the assistant called.
    pub tool_calls: Option<Vec<PastCall>>,
    /// Which call a tool answers.
    pub tool_call_id: Option<String>,
    /// Not implemented: refused by name unless null.
    #[schema(ignore)]
    pub function_call: Option<Value>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, by their newer name; templates see `system`.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool that was called.
    Tool,
}

impl Role {
    /// All of them, as they are written.
    pub const NAMES: [&'static str; 5] = ["system", "developer", "user", "assistant", "tool"];

    /// The name that chat templates know.
    pub fn template_name(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "system" => Some(Self::System),
            "developer" => Some(Self::Developer),
            "user" => Some(Self::User),
            "assistant" => Some(Self::Assistant),
            "tool" => Some(Self::Tool),
            _ => None,
        }
    }
}

/// A whole chat completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatResponse {
    /// `chatcmpl-…`
    pub id: String,
    /// Always `chat.completion`.
    pub object: ObjectKind,
    /// Unix time.
    pub created: u64,
    /// The name of the model that was asked for.
    pub model: String,
    /// What determines the answer beside the request: weights, kernels, version.
    pub system_fingerprint: String,
    /// `n` choices.
    pub choices: Vec<ChatChoice>,
    /// Tokens read and written.
    pub usage: Usage,
    /// Ids of the prompt's tokens, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// With `prompt_logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<BTreeMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<PromptLogprobs>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChoice {
    /// Position among the choices.
    pub index: u32,
    /// What the model says.
    pub message: AssistantMessage,
    /// Present if asked for.
    #[schema(required = true)]
    pub logprobs: Option<ChatLogprobs>,
    /// Why the answer ended.
    pub finish_reason: FinishReason,
    /// Ids of the generated tokens, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// A message of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssistantMessage {
    /// Always `assistant`.
    pub role: Role,
    /// The text; null if there are only calls.
    #[schema(required = true)]
    pub content: Option<String>,
    /// Always null.
    #[schema(required = true)]
    pub refusal: Option<String>,
    /// What the model calls; absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// Log-probabilities in the shape of the chat API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<ChatTokenLogprob>,
    /// Always null.
    #[schema(required = true)]
    pub refusal: Option<Vec<ChatTokenLogprob>>,
}

/// A token, its log-probability and the alternatives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatTokenLogprob {
    /// Its text; bytes that are not UTF-8 on their own appear as U+FFFD.
    pub token: String,
    /// Its log-probability.
    pub logprob: f32,
    /// Its bytes: joined over the tokens they are the text, which has no space at its beginning, and the token that ends it.
    pub bytes: Vec<u8>,
    /// The most likely tokens, best first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// An alternative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Its log-probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A piece of a streamed chat completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChunk {
    /// The same in all chunks.
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: ObjectKind,
    /// The same in all chunks.
    pub created: u64,
    /// The name of the model that was asked for.
    pub model: String,
    /// As in the whole answer.
    pub system_fingerprint: String,
    /// The piece; empty in the usage chunk.
    pub choices: Vec<ChatChunkChoice>,
    /// Only with `include_usage`: null but in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// Ids of the prompt's tokens, in the first chunk, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// With `return_progress`, while the prompt is computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<PromptProgress>,
}

/// A piece of one choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChunkChoice {
    /// Which choice.
    pub index: u32,
    /// What is added.
    pub delta: ChatDelta,
    /// One entry per token of this chunk, if asked for.
    #[schema(required = true)]
    pub logprobs: Option<ChatLogprobs>,
    /// Null but in the last chunk of each choice.
    #[schema(required = true)]
    pub finish_reason: Option<FinishReason>,
    /// Ids of the tokens of this chunk, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What a chunk adds to the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChatDelta {
    /// Only in the first chunk of each choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of what the model calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}
