//! What an answer must look like: `response_format` of OpenAI, `structured_outputs` of vLLM.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// What the answer must look like. It is always enforced.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false
}}}))]
pub struct ResponseFormat {
    /// `text`, `json_object` (any JSON object) or `json_schema`.
    #[serde(rename = "type")]
    #[schema(required = true, nullable = false, value_type = FormatKind)]
    pub kind: Option<String>,
    /// Only with `type: json_schema`.
    pub json_schema: Option<NamedSchema>,
}

/// Kinds of formats.
#[derive(Clone, Copy, Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum FormatKind {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema,
}

/// A JSON schema with a name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedSchema {
    /// Letters, digits, `_` and `-`, at most 64.
    #[schema(required = true, nullable = false, max_length = 64)]
    pub name: Option<String>,
    /// Accepted, without effect.
    pub description: Option<String>,
    /// The schema: JSON Schema, with the keywords that `docs/api.md` lists.
    #[schema(required = true, nullable = false, value_type = Object)]
    pub schema: Option<Value>,
    /// Accepted, without effect: a schema is always enforced.
    pub strict: Option<bool>,
}

/// What the answer must look like, as vLLM has it: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"choice": ["red", "green"]}))]
pub struct StructuredOutputs {
    /// A JSON schema, as an object or as a text.
    #[schema(value_type = Option<SchemaOrText>)]
    pub json: Option<Value>,
    /// A regex that the whole text matches, in the syntax of Rust's `regex`, without look-around; `\d` and `\w` are ASCII.
    pub regex: Option<String>,
    /// One of these texts.
    pub choice: Option<Vec<String>>,
    /// A context-free grammar in Lark's notation.
    pub grammar: Option<String>,
    /// Any JSON object, if true.
    pub json_object: Option<bool>,
    /// Not implemented: refused unless null.
    #[schema(ignore)]
    pub structural_tag: Option<Value>,
    /// Not implemented: refused unless null. There is never more than a space between the parts of JSON.
    #[schema(ignore)]
    pub whitespace_pattern: Option<Value>,
}

/// A JSON schema.
#[derive(Clone, Debug, ToSchema)]
#[serde(untagged)]
pub enum SchemaOrText {
    /// As an object.
    Object(serde_json::Map<String, Value>),
    /// As a text.
    Text(String),
}
