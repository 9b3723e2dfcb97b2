//! Parts of requests that may be written in several ways: `prompt`, `stop`, the content of a message.
//!
//! They are decoded by hand, so that an error names the element and what was expected instead of "no variant matched".

use super::number::integral;
use super::schemas;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::fmt;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The prompt of a completion: one text, several texts, the token ids of one prompt, or those of several.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// Token ids of one prompt.
    Tokens(Vec<i64>),
    /// Token ids of several prompts.
    TokenLists(Vec<Vec<i64>>),
}

const PROMPT: &str = "expected a string, an array of strings, an array of token ids or an array of arrays of token ids";

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Text(text)),
            Value::Array(items) => prompt_array(items).map_err(D::Error::custom),
            other => Err(D::Error::custom(format!("{PROMPT}, got {}", kind(&other)))),
        }
    }
}

fn prompt_array(items: Vec<Value>) -> Result<Prompt, String> {
    match items.first() {
        None => Ok(Prompt::Tokens(Vec::new())),
        Some(Value::String(_)) => items.into_iter().enumerate().map(|(i, v)| string(i, v)).collect::<Result<_, _>>().map(Prompt::Texts),
        Some(Value::Number(_)) => token_ids(&items, "element").map(Prompt::Tokens),
        Some(Value::Array(_)) => items.iter().enumerate().map(|(i, v)| token_list(i, v)).collect::<Result<_, _>>().map(Prompt::TokenLists),
        Some(other) => Err(format!("{PROMPT}, got an array whose first element is {}", kind(other))),
    }
}

fn string(index: usize, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("element {index} is {}, expected a string like the first one", kind(&other))),
    }
}

fn token_list(index: usize, value: &Value) -> Result<Vec<i64>, String> {
    match value {
        Value::Array(ids) => token_ids(ids, &format!("element {index}, token")),
        other => Err(format!("element {index} is {}, expected an array of token ids like the first one", kind(other))),
    }
}

fn token_ids(items: &[Value], what: &str) -> Result<Vec<i64>, String> {
    items
        .iter()
        .enumerate()
        .map(|(i, value)| as_integer(value).ok_or_else(|| format!("{what} {i} is {}, expected a token id (an integer)", kind(value))))
        .collect()
}

fn as_integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().and_then(integral))
}

/// One stop string or several.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// One.
    One(String),
    /// Several, at most 64.
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::One(text)),
            Value::Array(items) => {
                let strings = items.into_iter().enumerate().map(|(i, value)| match value {
                    Value::String(text) => Ok(text),
                    other => Err(format!("element {i} is {}, expected a string", kind(&other))),
                });
                strings.collect::<Result<_, _>>().map(Self::Many).map_err(D::Error::custom)
            }
            other => Err(D::Error::custom(format!("expected a string or an array of strings, got {}", kind(&other)))),
        }
    }
}

impl Stop {
    /// The stop strings as a list.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// Content of a message: a text, or parts.
#[derive(Clone, Debug, PartialEq)]
pub enum MessageContent {
    /// A text.
    Text(String),
    /// Parts, joined without a separator.
    Parts(Vec<ContentPart>),
}

impl<'de> Deserialize<'de> for MessageContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// Reads parts from the deserializer itself, so that errors have their path.
struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = MessageContent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array of content parts")
    }

    fn visit_str<E>(self, text: &str) -> Result<MessageContent, E> {
        Ok(MessageContent::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<MessageContent, E> {
        Ok(MessageContent::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<MessageContent, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(parts)).map(MessageContent::Parts)
    }
}

/// One part of a message's content. Only `{"type": "text", "text": …}` is understood.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ContentPart {
    /// The kind of part.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The text.
    pub text: Option<String>,
    /// Everything else the client wrote: what other kinds of parts carry, and unknown keys, which are refused by name.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The schemas that [`schemas`] writes, for these types.
macro_rules! schema_of {
    ($($type:ty: $schema:path,)*) => {
        $(
            impl PartialSchema for $type {
                fn schema() -> RefOr<Schema> {
                    $schema()
                }
            }
            impl ToSchema for $type {}
        )*
    };
}

schema_of! {
    Prompt: schemas::prompt,
    Stop: schemas::stop,
    MessageContent: schemas::message_content,
}

/// The JSON type of a value, with an article, for error messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a number with a fraction",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
