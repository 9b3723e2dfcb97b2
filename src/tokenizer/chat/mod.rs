//! Chat templates: a conversation to the one text the model continues.
//!
//! Templates are Jinja as `transformers` runs them: `trim_blocks`, `lstrip_blocks`, loop controls, Python's string methods,
//! `raise_exception`, `strftime_now` and a `tojson` that writes what Python's `json.dumps` writes.
//!
//! A template decides where message text goes, and may trim, split or join it on the way; yet no special token may come from it. So a
//! conversation whose rendering contains special tokens is rendered again with the text of the messages *marked* (see [`marking`]), and
//! the marks that come out say which characters of the result were typed.
//!
//! **Architecture invariant:** rendering is bounded in work, memory and output, and reads no clock.

mod environment;
mod json;
mod marking;
mod strftime;

use super::{SpecialTokens, TemplateError};
use marking::Marking;
use minijinja::{Environment, Value};
use std::ops::Range;
use std::time::SystemTime;

/// The names of the built-in templates.
const BUILTINS: &[&str] = &["plain", "zephyr"];

/// Put behind the last message where that is to be continued: the template may trim the message, and may write more after it.
const FINAL_MARK: char = '\u{10FFFD}';

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, …
    pub role: String,
    /// What is said.
    pub content: String,
    /// The speaker's name, if given.
    pub name: Option<String>,
    /// Further fields that templates may know: `tool_calls`, `tool_call_id`. Strings in them count as typed text.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// What a template is rendered with.
#[derive(Clone, Debug)]
pub struct ChatInput<'a> {
    /// The conversation.
    pub messages: &'a [ChatMessage],
    /// Whether the text ends with the beginning of the assistant's next message.
    pub add_generation_prompt: bool,
    /// Whether the text ends within the last message, which the assistant then continues.
    pub continue_final_message: bool,
    /// Further variables (`chat_template_kwargs`, tools). Strings in them count as typed text, like those of the messages.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// The tokenizer's special tokens: `bos_token` and `eos_token` for the template, and what typed text must not become.
    pub special_tokens: &'a SpecialTokens,
    /// What `strftime_now` shows, in UTC.
    pub now: SystemTime,
}

impl<'a> ChatInput<'a> {
    /// A conversation to be continued by the assistant, with no further variables.
    pub fn new(messages: &'a [ChatMessage], special_tokens: &'a SpecialTokens, now: SystemTime) -> Self {
        Self { messages, add_generation_prompt: true, continue_final_message: false, extra: serde_json::Map::new(), special_tokens, now }
    }
}

/// A conversation as one text, which knows which of its characters were typed rather than written by the template.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RenderedChat {
    text: String,
    typed: Vec<Range<usize>>,
}

impl RenderedChat {
    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The ranges of [`Self::text`] that cannot be part of a special token: ascending, disjoint. They need not cover all that was typed,
    /// only what might look like one.
    pub fn typed(&self) -> &[Range<usize>] {
        &self.typed
    }

    /// What stands before the last `mark`.
    fn before_last(mut self, mark: char) -> Option<Self> {
        let end = self.text.rfind(mark)?;
        self.text.truncate(end);
        self.typed.retain_mut(|range| {
            range.end = range.end.min(end);
            range.start < range.end
        });
        Some(self)
    }

    /// A text that was typed from beginning to end.
    #[cfg(test)]
    pub(super) fn typed_only(text: &str) -> Self {
        Self { text: text.to_owned(), typed: std::iter::once(0..text.len()).collect() }
    }
}

/// A compiled chat template. Immutable; share it in an `Arc`.
pub struct ChatTemplate {
    name: String,
    source: String,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template. `name` says where it comes from, in errors and to the user.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] with the line.
    pub fn from_source(name: impl Into<String>, source: &str) -> Result<Self, TemplateError> {
        let name = name.into();
        match environment::compile(source) {
            Ok(environment) => Ok(Self { name, source: source.to_owned(), environment }),
            Err(error) => Err(TemplateError::Syntax { name, line: error.line().unwrap_or(0), detail: environment::describe(&error) }),
        }
    }

    /// A built-in template.
    ///
    /// * `plain`: the texts of the messages, one after the other, a newline between them; no roles and nothing at the end. For models
    ///   that only ever saw running text: the last message is what they continue.
    /// * `zephyr`: the format of OpenELM's Instruct models, with an empty system message where there is none.
    ///
    /// # Errors
    /// [`TemplateError::UnknownBuiltin`].
    pub fn builtin(name: &str) -> Result<Self, TemplateError> {
        let source = match name {
            "plain" => include_str!("builtin/plain.jinja"),
            "zephyr" => include_str!("builtin/zephyr.jinja"),
            _ => return Err(TemplateError::UnknownBuiltin { name: name.to_owned(), known: BUILTINS }),
        };
        Self::from_source(name, source)
    }

    /// Whether [`Self::builtin`] knows this name.
    pub fn is_builtin(name: &str) -> bool {
        BUILTINS.contains(&name)
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The source it was made from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it looks at a variable that is not one of its own.
    pub fn uses(&self, variable: &str) -> bool {
        environment::uses(&self.environment, variable)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// When a role is no name, a variable is reserved, or the template fails, refuses the conversation or exceeds a limit.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<RenderedChat, TemplateError> {
        check(input)?;
        let whole = self.render_whole(input)?;
        if !input.continue_final_message {
            return Ok(whole);
        }
        whole.before_last(FINAL_MARK).ok_or_else(|| TemplateError::NoFinalMessage { name: self.name.clone() })
    }

    fn render_whole(&self, input: &ChatInput<'_>) -> Result<RenderedChat, TemplateError> {
        let text = self.run(input, &str::to_owned)?;
        if input.special_tokens.find(&text).next().is_none() {
            return Ok(RenderedChat { text, typed: Vec::new() });
        }
        // The template's doing is known exactly if marks make no difference to it …
        let marking = Marking::new(input, &self.source)?;
        if let Ok(marked) = self.run(input, &|typed| marking.mark(typed)) {
            let rendered = marking.unmark(&marked);
            if rendered.text == text {
                return Ok(rendered);
            }
        }
        // … and if they do (it looks into the text or changes its letters), only what looks like a special token is marked.
        let marked = self.run(input, &|typed| marking.mark_special(typed, input.special_tokens))?;
        Ok(marking.unmark(&marked))
    }

    /// Runs the template with every typed string passed through `typed`.
    fn run(&self, input: &ChatInput<'_>, typed: &dyn Fn(&str) -> String) -> Result<String, TemplateError> {
        environment::run(&self.environment, context(input, typed)).map_err(|failure| failure.into_error(&self.name))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("name", &self.name).field("source", &self.source).finish_non_exhaustive()
    }
}

/// Roles go into the text as they are, since templates make special tokens of them (`<|user|>`): so they must be plain names.
fn check(input: &ChatInput<'_>) -> Result<(), TemplateError> {
    let is_name =
        |role: &str| (1..=64).contains(&role.len()) && role.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if input.continue_final_message && input.messages.last().is_none_or(|message| message.content.contains(FINAL_MARK)) {
        return Err(TemplateError::NoMarkersLeft);
    }
    if let Some((index, message)) = input.messages.iter().enumerate().find(|(_, message)| !is_name(&message.role)) {
        return Err(TemplateError::InvalidRole { index, role: message.role.clone() });
    }
    match input.extra.keys().find(|key| RESERVED.contains(&key.as_str())) {
        Some(variable) => Err(TemplateError::ReservedVariable { variable: variable.clone() }),
        None => Ok(()),
    }
}

const RESERVED: &[&str] = &["messages", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now"];

/// The template's variables.
fn context(input: &ChatInput<'_>, typed: &dyn Fn(&str) -> String) -> Value {
    let last = input.messages.len().checked_sub(1).filter(|_| input.continue_final_message);
    let messages = input.messages.iter().enumerate().map(|(index, message)| {
        let mut content = typed(&message.content);
        content.extend((Some(index) == last).then_some(FINAL_MARK));
        let name = message.name.as_ref().map(|name| ("name", Value::from(typed(name))));
        let fields = [("role", Value::from(message.role.as_str())), ("content", Value::from(content))];
        let extra = message.extra.iter().map(|(key, value)| (key.as_str(), json::from_json(value, typed)));
        Value::from_pairs(extra.chain(fields).chain(name))
    });
    let special = [("bos_token", input.special_tokens.bos_token()), ("eos_token", input.special_tokens.eos_token())];
    let now = input.now;
    let fixed = [
        ("messages", Value::from_iter(messages)),
        ("add_generation_prompt", Value::from(input.add_generation_prompt)),
        ("strftime_now", Value::from_function(move |format: &str| strftime::strftime(format, now))),
    ];
    let extra = input.extra.iter().map(|(key, value)| (key.as_str(), json::from_json(value, typed)));
    let special = special.into_iter().filter_map(|(key, token)| Some((key, Value::from(token?))));
    Value::from_pairs(extra.chain(fixed).chain(special))
}

#[cfg(test)]
mod tests;
