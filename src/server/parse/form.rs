//! `response_format` and `structured_outputs`: what an answer must look like.

use crate::api::format::{NamedSchema, ResponseFormat, StructuredOutputs};
use crate::grammar::Form;
use crate::server::error::ApiError;
use crate::server::extract::strict::parse_object;
use serde_json::Value;

/// Most JSON values of a schema that comes as a text.
const MAX_SCHEMA_VALUES: usize = 1 << 14;
/// Longest name of a schema or a function.
const MAX_NAME_BYTES: usize = 64;

/// A form, and the parameter that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedForm {
    /// What the answer must look like.
    pub form: Form,
    /// For errors, which add where in the form they are.
    pub param: &'static str,
}

impl AskedForm {
    /// Reads both parameters.
    ///
    /// # Errors
    /// 400 that names what is wrong.
    pub(super) fn parse(format: Option<ResponseFormat>, outputs: Option<StructuredOutputs>) -> Result<Option<Self>, ApiError> {
        let format = format.map(of_format).transpose()?.flatten();
        let outputs = outputs.map(of_outputs).transpose()?;
        match (format, outputs) {
            (Some(_), Some(_)) => Err(ApiError::invalid("structured_outputs", "must not stand beside 'response_format'")),
            (format, outputs) => Ok(format.or(outputs)),
        }
    }

    /// The schema, if the form is JSON.
    pub(super) fn json_schema(&self) -> Option<Value> {
        match &self.form {
            Form::JsonObject => Some(serde_json::json!({"type": "object"})),
            Form::JsonSchema(schema) => Some(schema.clone()),
            _ => None,
        }
    }
}

fn of_format(format: ResponseFormat) -> Result<Option<AskedForm>, ApiError> {
    let kind = format.kind.ok_or_else(|| missing("response_format.type"))?;
    if kind != "json_schema" && format.json_schema.is_some() {
        return Err(ApiError::invalid("response_format.json_schema", "is only allowed with 'type': 'json_schema'"));
    }
    let asked = |form, param| Ok(Some(AskedForm { form, param }));
    match kind.as_str() {
        "text" => Ok(None),
        "json_object" => asked(Form::JsonObject, "response_format"),
        "json_schema" => asked(named_schema(format.json_schema)?, "response_format.json_schema.schema"),
        other => Err(ApiError::invalid("response_format.type", format!("must be 'text', 'json_object' or 'json_schema', got '{other}'"))),
    }
}

fn named_schema(schema: Option<NamedSchema>) -> Result<Form, ApiError> {
    let NamedSchema { name, schema, .. } = schema.ok_or_else(|| missing("response_format.json_schema"))?;
    check_name("response_format.json_schema.name", name.as_deref())?;
    Ok(Form::JsonSchema(schema.ok_or_else(|| missing("response_format.json_schema.schema"))?))
}

fn of_outputs(outputs: StructuredOutputs) -> Result<AskedForm, ApiError> {
    let StructuredOutputs { json, regex, choice, grammar, json_object, structural_tag, whitespace_pattern } = outputs;
    for (field, value) in [("structural_tag", structural_tag), ("whitespace_pattern", whitespace_pattern)] {
        if value.is_some_and(|value| !value.is_null()) {
            return Err(ApiError::unsupported(format!("structured_outputs.{field}"), ""));
        }
    }
    let json = json.map(schema_or_text).transpose()?;
    let forms = [
        json.map(|schema| (Form::JsonSchema(schema), "structured_outputs.json")),
        regex.map(|regex| (Form::Regex(regex), "structured_outputs.regex")),
        choice.map(|texts| (Form::Choice(texts), "structured_outputs.choice")),
        grammar.map(|grammar| (Form::Grammar(grammar), "structured_outputs.grammar")),
        json_object.filter(|is_asked| *is_asked).map(|_| (Form::JsonObject, "structured_outputs.json_object")),
    ];
    let mut given = forms.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some((form, param)), None) => Ok(AskedForm { form, param }),
        _ => Err(ApiError::invalid("structured_outputs", "must have exactly one of json, regex, choice, grammar and json_object")),
    }
}

fn schema_or_text(json: Value) -> Result<Value, ApiError> {
    let Value::String(text) = json else { return Ok(json) };
    parse_object(text.as_bytes(), MAX_SCHEMA_VALUES).map(Value::Object).map_err(|error| {
        let problem = match error {
            ApiError::InvalidJson { detail, .. } => format!("the string is not valid JSON: {detail}"),
            ApiError::NotAnObject { found } => format!("the string holds {found}"),
            _ => format!("it has more than {MAX_SCHEMA_VALUES} JSON values"),
        };
        ApiError::invalid("structured_outputs.json", format!("must be a JSON schema: {problem}"))
    })
}

/// Checks the name of a schema or a function.
pub(super) fn check_name(param: &str, name: Option<&str>) -> Result<(), ApiError> {
    let name = name.ok_or_else(|| missing(param))?;
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_valid) {
        return Ok(());
    }
    Err(ApiError::invalid(param, format!("must have 1 to {MAX_NAME_BYTES} letters, digits, '_' and '-', got '{name}'")))
}

fn missing(param: &str) -> ApiError {
    ApiError::Missing { param: param.to_owned() }
}
