//! Tools: what may be called, what must be, and calls.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::fmt;
use utoipa::ToSchema;

/// Something that the model may call.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"type": "function", "function": {"name": "weather", "description": "The weather in a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]
}}}))]
pub struct Tool {
    /// Always `function`.
    #[serde(rename = "type")]
    #[schema(required = true, nullable = false, value_type = CallKind)]
    pub kind: Option<String>,
    /// The function.
    #[schema(required = true, nullable = false)]
    pub function: Option<FunctionDefinition>,
}

/// A function that may be called.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionDefinition {
    /// Letters, digits, `_` and `-`, at most 64.
    #[schema(required = true, nullable = false, max_length = 64)]
    pub name: Option<String>,
    /// What it does, for the model.
    pub description: Option<String>,
    /// The JSON schema of its arguments, an object. Without it the function has none.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Accepted, without effect: the schema is always enforced.
    pub strict: Option<bool>,
}

/// Whether something is called.
#[derive(Clone, Debug, PartialEq, ToSchema)]
#[schema(example = "auto")]
#[serde(untagged)]
pub enum ToolChoice {
    /// `none`: nothing. `auto`: as the model decides. `required`: at least one of the tools.
    Mode(String),
    /// This function.
    Named(NamedTool),
}

/// A tool to call.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedTool {
    /// Always `function`.
    #[serde(rename = "type")]
    #[schema(required = true, nullable = false, value_type = CallKind)]
    pub kind: Option<String>,
    /// The function.
    #[schema(required = true, nullable = false)]
    pub function: Option<FunctionName>,
}

/// A function by its name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionName {
    /// One of the tools.
    #[schema(required = true, nullable = false)]
    pub name: Option<String>,
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

/// Reads a named tool from the deserializer itself, so that errors have their path.
struct ChoiceVisitor;

impl<'de> Visitor<'de> for ChoiceVisitor {
    type Value = ToolChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an object that names a function")
    }

    fn visit_str<E>(self, mode: &str) -> Result<ToolChoice, E> {
        Ok(ToolChoice::Mode(mode.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<ToolChoice, A::Error> {
        NamedTool::deserialize(MapAccessDeserializer::new(fields)).map(ToolChoice::Named)
    }
}

/// The only kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// A function.
    #[default]
    Function,
}

/// A call in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToolCall {
    /// `call_…`
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: CallKind,
    /// What is called.
    pub function: FunctionCall,
}

/// A function with its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// Its arguments, as JSON.
    pub arguments: String,
}

/// A piece of a call in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToolCallDelta {
    /// Which call of the message.
    pub index: u32,
    /// Only in the first piece of each call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only in the first piece of each call.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<CallKind>,
    /// What is added.
    pub function: FunctionDelta,
}

/// A piece of a function with its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionDelta {
    /// Only in the first piece of each call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments.
    pub arguments: String,
}

/// A call in a message of the conversation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PastCall {
    /// Its id.
    #[schema(required = true, nullable = false)]
    pub id: Option<String>,
    /// Always `function`.
    #[serde(rename = "type")]
    #[schema(value_type = Option<CallKind>)]
    pub kind: Option<String>,
    /// What was called.
    #[schema(required = true, nullable = false)]
    pub function: Option<PastFunction>,
    /// Position in the message, which answers in streams have.
    #[schema(ignore)]
    pub index: Option<Value>,
}

/// A function that was called.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PastFunction {
    /// Its name.
    #[schema(required = true, nullable = false)]
    pub name: Option<String>,
    /// Its arguments, as JSON.
    #[schema(required = true, nullable = false)]
    pub arguments: Option<String>,
    /// What SDKs add to answers that they parsed; without effect.
    #[schema(ignore)]
    pub parsed_arguments: Option<Value>,
}
