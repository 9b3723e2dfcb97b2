//! What only chat has: messages, `max_completion_tokens`, the newer log-probabilities.

use super::encode::{Conversation, Ending, Source};
use super::shared::{self, MAX_LOGPROBS, Parameters};
use super::tools::Tools;
use super::{Bounds, range};
use crate::api::chat::{ChatMessage as WireMessage, ChatRequest, Role};
use crate::api::input::{ContentPart, MessageContent};
use crate::api::tools::PastCall;
use crate::server::error::ApiError;
use crate::server::extract::strict::parse_object;
use crate::server::output::calls::Calling;
use crate::tokenizer::ChatMessage;
use serde_json::{Map, Value, json};

/// Longest arguments of a past call that templates see as JSON.
const MAX_ARGUMENT_BYTES: usize = 16 << 10;
const MAX_ARGUMENT_VALUES: usize = 1_000;

/// A chat request, checked but for what needs the number of prompt tokens.
#[derive(Debug)]
pub struct Chat {
    /// What both APIs have.
    pub parameters: Parameters,
    /// The conversation, not empty.
    pub source: Source,
    /// How many tokens were asked for, and by which parameter; `None`: what the context has left.
    pub max_tokens: Option<(&'static str, u64)>,
    /// How calls of tools stand in the answer, if there may be any.
    pub calls: Option<Calling>,
    /// Log-probabilities with so many alternatives.
    pub logprobs: Option<u8>,
}

impl Chat {
    /// Checks a request.
    ///
    /// # Errors
    /// 400 with the parameter at fault; 404 for another model.
    pub fn parse(mut request: ChatRequest, bounds: &Bounds<'_>) -> Result<Self, ApiError> {
        let shared = request.take_shared();
        let max_tokens = max_tokens(&request)?;
        let logprobs = logprobs(&request)?;
        let turns = Turns {
            messages: request.messages,
            add_generation_prompt: request.add_generation_prompt,
            continue_final_message: request.continue_final_message,
            variables: request.chat_template_kwargs,
        };
        let tools = Tools::parse(request.tools, request.tool_choice, shared.parallel_tool_calls)?;
        let mut conversation = turns.parse(bounds.model.max_model_len)?;
        conversation.tools = tools.as_ref().map(|tools| tools.definitions.clone()).unwrap_or_default();
        if !bounds.has_tokenizer {
            return Err(ApiError::unsupported("messages", "it runs without a tokenizer; send token ids to /v1/completions"));
        }
        let mut parameters = shared::resolve(shared, bounds)?;
        let syntax = bounds.call_syntax;
        let calls = tools.as_ref().map(|tools| Calling { syntax, after_text: tools.may_follow_text(parameters.form.is_some()) });
        if let Some(tools) = &tools {
            parameters.form = Some(tools.form(parameters.form.as_ref(), syntax)?);
        }
        Ok(Self { parameters, source: Source::Chat(conversation), calls, max_tokens, logprobs })
    }
}

fn max_tokens(request: &ChatRequest) -> Result<Option<(&'static str, u64)>, ApiError> {
    let check = |param: &'static str, value| -> Result<_, ApiError> {
        Ok(range::integer::<u64>(param, value, 1..=i64::MAX)?.map(|tokens| (param, tokens)))
    };
    let older = check("max_tokens", request.max_tokens)?;
    Ok(check("max_completion_tokens", request.max_completion_tokens)?.or(older))
}

fn logprobs(request: &ChatRequest) -> Result<Option<u8>, ApiError> {
    let top = range::integer("top_logprobs", request.top_logprobs, 0..=MAX_LOGPROBS)?;
    match (request.logprobs.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "is only allowed with 'logprobs': true")),
    }
}

/// What a request says of its conversation.
#[derive(Debug)]
pub struct Turns {
    /// `messages`.
    pub messages: Option<Vec<WireMessage>>,
    /// `add_generation_prompt`.
    pub add_generation_prompt: Option<bool>,
    /// `continue_final_message`.
    pub continue_final_message: Option<bool>,
    /// `chat_template_kwargs`.
    pub variables: Option<Map<String, Value>>,
}

impl Turns {
    /// The conversation.
    ///
    /// # Errors
    /// 400 that names what is wrong.
    pub fn parse(self, max_model_len: usize) -> Result<Conversation, ApiError> {
        let ending = match (self.add_generation_prompt.unwrap_or(true), self.continue_final_message.unwrap_or(false)) {
            (true, false) => Ending::NextMessage,
            (false, false) => Ending::Closed,
            (false, true) => Ending::FinalMessage,
            (true, true) => return Err(ApiError::invalid("continue_final_message", "is only allowed with 'add_generation_prompt': false")),
        };
        let variables = self.variables.unwrap_or_default();
        Ok(Conversation { messages: messages(self.messages, max_model_len.max(MOST_MESSAGES))?, ending, variables, tools: Vec::new() })
    }
}

/// Fewest messages of a conversation that are looked at, whatever the context.
const MOST_MESSAGES: usize = 2_048;

fn messages(messages: Option<Vec<WireMessage>>, most: usize) -> Result<Vec<ChatMessage>, ApiError> {
    let messages = messages.ok_or_else(|| ApiError::Missing { param: "messages".to_owned() })?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "must have at least one message"));
    }
    if messages.len() > most {
        return Err(ApiError::invalid("messages", format!("must have at most {most} messages, got {}", messages.len())));
    }
    messages.into_iter().enumerate().map(|(index, message)| parse_message(index, message)).collect()
}

fn parse_message(index: usize, message: WireMessage) -> Result<ChatMessage, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let not_implemented = [
        ("audio", &message.audio),
        ("annotations", &message.annotations),
        ("function_call", &message.function_call),
        ("refusal", &message.refusal),
    ];
    for (field, value) in not_implemented {
        if value.as_ref().is_some_and(|value| !matches!(value, Value::Null) && value.as_array().is_none_or(|items| !items.is_empty())) {
            return Err(ApiError::unsupported(at(field), ""));
        }
    }
    let role = message.role.ok_or_else(|| ApiError::Missing { param: at("role") })?;
    let role = match (Role::from_name(&role), role.as_str()) {
        (Some(role), _) => role,
        (None, "function") => return Err(ApiError::unsupported(at("role"), "the role of tools is 'tool'")),
        (None, _) => {
            return Err(ApiError::invalid(at("role"), format!("must be one of {}, got '{role}'", Role::NAMES.join(", "))));
        }
    };
    let extra = tool_fields(&at, role, message.tool_calls, message.tool_call_id)?;
    let content = match message.content {
        Some(MessageContent::Text(text)) => text,
        Some(MessageContent::Parts(parts)) => parts_text(&at("content"), parts)?,
        None if extra.contains_key("tool_calls") => String::new(),
        None => return Err(ApiError::Missing { param: at("content") }),
    };
    Ok(ChatMessage { role: role.template_name().to_owned(), content, name: message.name, extra })
}

/// `tool_calls` and `tool_call_id`, as chat templates want them.
fn tool_fields(
    at: &dyn Fn(&str) -> String,
    role: Role,
    calls: Option<Vec<PastCall>>,
    id: Option<String>,
) -> Result<Map<String, Value>, ApiError> {
    let mut fields = Map::new();
    let calls = calls.filter(|calls| !calls.is_empty());
    match (role, id) {
        (Role::Tool, Some(id)) => drop(fields.insert("tool_call_id".to_owned(), Value::from(id))),
        (Role::Tool, None) => return Err(ApiError::Missing { param: at("tool_call_id") }),
        (_, Some(_)) => return Err(ApiError::invalid(at("tool_call_id"), "is only allowed in messages of the role 'tool'")),
        (_, None) => {}
    }
    if let Some(calls) = calls {
        if role != Role::Assistant {
            return Err(ApiError::invalid(at("tool_calls"), "is only allowed in messages of the role 'assistant'"));
        }
        let call = |(index, call)| past_call(&at(&format!("tool_calls[{index}]")), call);
        fields.insert("tool_calls".to_owned(), calls.into_iter().enumerate().map(call).collect::<Result<_, _>>()?);
    }
    Ok(fields)
}

fn past_call(at: &str, call: PastCall) -> Result<Value, ApiError> {
    let missing = |field: &str| ApiError::Missing { param: format!("{at}.{field}") };
    if let Some(other) = call.kind.filter(|kind| kind != "function") {
        return Err(ApiError::invalid(format!("{at}.type"), format!("must be 'function', got '{other}'")));
    }
    let id = call.id.ok_or_else(|| missing("id"))?;
    let function = call.function.ok_or_else(|| missing("function"))?;
    let name = function.name.ok_or_else(|| missing("function.name"))?;
    let text = function.arguments.ok_or_else(|| missing("function.arguments"))?;
    // Templates write them as JSON themselves; what is none, or long, stays the text that it is.
    let is_short = text.len() <= MAX_ARGUMENT_BYTES;
    let parsed = is_short.then(|| parse_object(text.as_bytes(), MAX_ARGUMENT_VALUES).ok()).flatten();
    let arguments = parsed.map_or(Value::String(text), Value::Object);
    Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}

fn parts_text(param: &str, parts: Vec<ContentPart>) -> Result<String, ApiError> {
    if parts.is_empty() {
        return Err(ApiError::invalid(param, "must have at least one part"));
    }
    let mut text = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let param = format!("{param}[{index}]");
        let kind = part.kind.ok_or_else(|| ApiError::Missing { param: format!("{param}.type") })?;
        match kind.as_str() {
            "text" => {}
            "image_url" | "input_audio" | "file" | "refusal" | "video_url" | "audio_url" => {
                return Err(ApiError::unsupported(format!("{param}.{kind}"), "only parts of type 'text' are understood"));
            }
            other => return Err(ApiError::invalid(format!("{param}.type"), format!("must be 'text', got '{other}'"))),
        }
        if let Some((key, _)) = part.other.iter().find(|(_, value)| !value.is_null()) {
            return Err(ApiError::Unknown { param: format!("{param}.{key}"), nearest: None });
        }
        text.push_str(&part.text.ok_or_else(|| ApiError::Missing { param: format!("{param}.text") })?);
    }
    Ok(text)
}
