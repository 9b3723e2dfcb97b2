//! Texts and conversations to token ids, without holding up the async threads.
//!
//! Short texts are encoded at once; longer ones go through `offload`. A text that cannot fit the context whatever its tokens are is refused
//! before it is encoded.

use super::tool_text;
use crate::generation::TokenId;
use crate::grammar::CallSyntax;
use crate::server::error::{ApiError, ContextLengthError};
use crate::server::offload::Offload;
use crate::tokenizer::{ChatInput, ChatMessage, ChatTemplate, TemplateError, Tokenizer, TokenizerError};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::SystemTime;

/// Most bytes of text that are encoded on the spot (some tens of microseconds).
const INLINE_BYTES: usize = 4096;
/// What a message costs beside its text, in bytes of text: the template runs for it, and writes something around it.
const MESSAGE_BYTES: usize = 64;

/// A prompt as the client wrote it.
#[derive(Clone, Debug)]
pub enum Source {
    /// A text.
    Text {
        /// The text.
        text: String,
        /// Whether it begins with the token that begins every prompt.
        add_special_tokens: bool,
    },
    /// Token ids, left as they are.
    Tokens(Vec<TokenId>),
    /// A conversation.
    Chat(Conversation),
}

/// A conversation, and how it becomes one text.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// The messages, at least one.
    pub messages: Vec<ChatMessage>,
    /// Where the text ends.
    pub ending: Ending,
    /// Tools that may be called, as templates want them.
    pub tools: Vec<Value>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

/// How the text of a conversation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// With the beginning of the assistant's next message.
    #[default]
    NextMessage,
    /// After the last message.
    Closed,
    /// Within the last message.
    FinalMessage,
}

impl Source {
    /// Whether there is nothing to continue.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text { text, .. } => text.is_empty(),
            Self::Tokens(ids) => ids.is_empty(),
            Self::Chat(conversation) => conversation.messages.is_empty(),
        }
    }

    /// How long encoding takes, in bytes of text.
    fn cost(&self) -> usize {
        match self {
            Self::Text { text, .. } => text.len(),
            Self::Tokens(_) => 0,
            Self::Chat(Conversation { messages, variables, tools, .. }) => {
                let extra = |m: &ChatMessage| m.extra.values().map(cost_of_variable).sum::<usize>();
                let message = |m: &ChatMessage| m.content.len() + m.name.as_deref().map_or(0, str::len) + extra(m) + MESSAGE_BYTES;
                messages.iter().map(message).sum::<usize>() + variables.values().chain(tools).map(cost_of_variable).sum::<usize>()
            }
        }
    }

    fn param(&self) -> &'static str {
        if matches!(self, Self::Chat(_)) { "messages" } else { "prompt" }
    }
}

/// What a variable of a template costs: it may write all of its text, or go through all of its values.
fn cost_of_variable(value: &Value) -> usize {
    let inner: usize = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(cost_of_variable).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + cost_of_variable(value)).sum(),
        _ => 0,
    };
    inner + size_of::<Value>()
}

/// A prompt in token ids.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The ids, not empty.
    pub tokens: Arc<[TokenId]>,
    /// The text, if the client sent one.
    pub text: Option<String>,
    /// `prompt` or `messages`.
    pub param: &'static str,
}

/// Encodes prompts. One per server.
#[derive(Debug)]
pub struct Encoder {
    codec: Option<Arc<Codec>>,
    call_syntax: CallSyntax,
    offload: Offload,
}

#[derive(Debug)]
struct Codec {
    tokenizer: Arc<Tokenizer>,
    template: Arc<ChatTemplate>,
    /// Whether the template writes tools and calls itself.
    knows_tools: bool,
    call_syntax: CallSyntax,
    max_model_len: usize,
}

impl Encoder {
    /// An encoder for a model with a context of `max_model_len` tokens; without a tokenizer it passes token ids through.
    /// Long prompts go through `offload`.
    pub fn new(tokenizer: Option<Arc<Tokenizer>>, template: Arc<ChatTemplate>, max_model_len: usize, offload: Offload) -> Self {
        let knows_tools = template.uses("tools");
        let call_syntax = CallSyntax::of_template(template.source()).filter(|_| knows_tools).unwrap_or(CallSyntax::TAGS);
        let codec = tokenizer.map(|tokenizer| Arc::new(Codec { tokenizer, template, knows_tools, call_syntax, max_model_len }));
        Self { codec, call_syntax, offload }
    }

    /// How the model writes calls of tools: as its template does, if that knows tools in a syntax that is known here.
    pub fn call_syntax(&self) -> CallSyntax {
        self.call_syntax
    }

    /// Whether the tokenizer has a special token for the marker of calls, which must then be read as text.
    pub fn calls_are_special(&self) -> bool {
        self.codec.as_ref().is_some_and(|codec| codec.tokenizer.special_tokens().contents().any(|token| token == self.call_syntax.open))
    }

    /// Encodes the prompts of one request, in order. Those that will be cut may have any length.
    ///
    /// # Errors
    /// 400 if one cannot be encoded, rendered, or fit the context.
    pub async fn encode(&self, sources: Vec<Source>, are_cut: bool) -> Result<Vec<Encoded>, ApiError> {
        let cost: usize = sources.iter().map(Source::cost).sum();
        let codec = self.codec.clone();
        let work = move || sources.into_iter().map(|source| encode_one(codec.as_deref(), source, are_cut)).collect();
        self.offload.run_if(cost > INLINE_BYTES, work).await
    }

    /// Encodes a text of any length, also an empty one.
    ///
    /// # Errors
    /// 400 if it cannot be encoded.
    pub async fn text(&self, text: String, add_special_tokens: bool) -> Result<Vec<TokenId>, ApiError> {
        let Some(codec) = self.codec.clone() else { return Err(ApiError::unsupported("prompt", "it runs without a tokenizer")) };
        let is_long = text.len() > INLINE_BYTES;
        let work = move || codec.tokenizer.encode(&text, add_special_tokens).map_err(|e| not_encodable("prompt", &e));
        self.offload.run_if(is_long, work).await
    }

    /// The runs of tokens that spell `words`, each as it is spelled at the beginning of a text, and behind a space if that is another
    /// single run of the same length.
    ///
    /// # Errors
    /// 400 if one cannot be encoded.
    pub fn words(&self, words: &[String]) -> Result<Vec<Box<[TokenId]>>, ApiError> {
        let Some(codec) = &self.codec else { return Ok(Vec::new()) };
        let spell = |text: &str| codec.tokenizer.encode(text, false).map_err(|e| not_encodable("bad_words", &e));
        let mut runs = Vec::with_capacity(2 * words.len());
        for word in words.iter().map(|word| word.trim_start()) {
            let (alone, behind) = (spell(word)?, spell(&format!(" {word}"))?);
            if behind.len() == alone.len() && behind.first() != alone.first() {
                runs.push(behind.into());
            }
            runs.push(alone.into());
        }
        Ok(runs)
    }
}

fn encode_one(codec: Option<&Codec>, source: Source, is_cut: bool) -> Result<Encoded, ApiError> {
    let param = source.param();
    let (tokens, text) = match (source, codec) {
        (Source::Tokens(ids), _) => (ids, None),
        (Source::Text { text, add_special_tokens }, Some(codec)) => (codec.encode_text(&text, add_special_tokens, is_cut)?, Some(text)),
        (Source::Chat(conversation), Some(codec)) => (codec.encode_chat(conversation, is_cut)?, None),
        (Source::Text { .. } | Source::Chat(_), None) => return Err(ApiError::unsupported(param, "it runs without a tokenizer")),
    };
    if tokens.is_empty() {
        return Err(ApiError::invalid(param, "has no tokens"));
    }
    Ok(Encoded { tokens: tokens.into(), text, param })
}

impl Codec {
    fn encode_text(&self, text: &str, add_special_tokens: bool, is_cut: bool) -> Result<Vec<TokenId>, ApiError> {
        if !is_cut {
            self.check_length("prompt", text.len())?;
        }
        self.tokenizer.encode(text, add_special_tokens).map_err(|e| not_encodable("prompt", &e))
    }

    fn encode_chat(&self, conversation: Conversation, is_cut: bool) -> Result<Vec<TokenId>, ApiError> {
        let Conversation { messages, ending, variables, tools } = conversation;
        let (messages, variables) = self.with_tools(messages, variables, tools)?;
        let input = ChatInput {
            add_generation_prompt: ending == Ending::NextMessage,
            continue_final_message: ending == Ending::FinalMessage,
            extra: variables,
            ..ChatInput::new(&messages, self.tokenizer.special_tokens(), SystemTime::now())
        };
        let rendered = self.template.render(&input).map_err(|error| template_error(&error))?;
        // What was typed never becomes special tokens, which may be longer than others.
        if !is_cut {
            self.check_length("messages", rendered.typed().iter().map(ExactSizeIterator::len).sum())?;
        }
        self.tokenizer.encode_chat(&rendered).map_err(|e| not_encodable("messages", &e))
    }

    /// Tools where the template wants them: in a variable of their own, or in the messages.
    fn with_tools(
        &self,
        messages: Vec<ChatMessage>,
        mut variables: Map<String, Value>,
        tools: Vec<Value>,
    ) -> Result<(Vec<ChatMessage>, Map<String, Value>), ApiError> {
        if !self.knows_tools {
            return Ok((tool_text::spell(messages, &tools, self.call_syntax), variables));
        }
        if !tools.is_empty() && variables.insert("tools".to_owned(), Value::Array(tools)).is_some() {
            return Err(ApiError::invalid("chat_template_kwargs.tools", "must not stand beside 'tools'"));
        }
        Ok((messages, variables))
    }

    /// Refuses a text of more bytes than the context's tokens can have.
    fn check_length(&self, param: &'static str, bytes: usize) -> Result<(), ApiError> {
        let prompt_tokens = self.tokenizer.fewest_tokens(bytes);
        if prompt_tokens <= self.max_model_len {
            return Ok(());
        }
        let error = ContextLengthError { param, prompt_tokens, at_least: true, max_tokens: 0, max_model_len: self.max_model_len };
        Err(ApiError::ContextLength(error))
    }
}

fn not_encodable(param: &str, error: &TokenizerError) -> ApiError {
    ApiError::invalid(param, format!("cannot be encoded: {error}"))
}

fn template_error(error: &TemplateError) -> ApiError {
    if let TemplateError::ReservedVariable { variable } = error {
        return ApiError::invalid(format!("chat_template_kwargs.{variable}"), "is a variable of every template and cannot be set");
    }
    ApiError::Template { detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn empty_messages_cost_too() {
        let message = ChatMessage { role: "user".into(), content: String::new(), name: Some("ab".into()), ..ChatMessage::default() };
        let chat = |count| Source::Chat(Conversation { messages: vec![message.clone(); count], ..Conversation::default() });
        assert_eq!(chat(3).cost(), 3 * 66);
        assert!(chat(50_000).cost() > INLINE_BYTES);
        assert_eq!(Source::Text { text: "abc".into(), add_special_tokens: true }.cost(), 3);
        let variables = Map::from_iter([("list".to_owned(), json!([{"key": "v".repeat(INLINE_BYTES)}]))]);
        assert!(Source::Chat(Conversation { variables, ..Conversation::default() }).cost() > INLINE_BYTES);
    }
}
