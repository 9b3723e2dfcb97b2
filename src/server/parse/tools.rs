//! `tools` and `tool_choice`: what may be called, and whether something must be.

use super::form::{AskedForm, check_name};
use crate::api::tools::{FunctionDefinition, NamedTool, Tool, ToolChoice};
use crate::grammar::{CallSyntax, Calls, Form, Function, Otherwise};
use crate::server::error::ApiError;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Most tools of a request.
const MAX_TOOLS: usize = 128;
/// Most calls of an answer.
const MAX_CALLS: u32 = 16;

/// Tools that may be called, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    /// As chat templates want them.
    pub definitions: Vec<Value>,
    functions: Vec<Function>,
    choice: Choice,
    most: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Auto,
    Required,
    /// The function of this index.
    Named(usize),
}

impl Tools {
    /// Reads the parameters; `None` if nothing may be called.
    ///
    /// # Errors
    /// 400 that names what is wrong.
    pub fn parse(tools: Option<Vec<Tool>>, choice: Option<ToolChoice>, parallel: Option<bool>) -> Result<Option<Self>, ApiError> {
        let tools = tools.unwrap_or_default();
        let (definitions, functions) = functions(tools)?;
        let Some(choice) = parse_choice(choice, &functions)? else { return Ok(None) };
        let is_single = parallel == Some(false) || matches!(choice, Choice::Named(_));
        Ok(Some(Self { definitions, functions, choice, most: if is_single { 1 } else { MAX_CALLS } }))
    }

    /// Whether text may stand before calls; `has_form` says whether text must have a form.
    pub(super) fn may_follow_text(&self, has_form: bool) -> bool {
        self.choice == Choice::Auto && !has_form
    }

    /// What the answer must look like, where the text of it could have a form of its own.
    ///
    /// # Errors
    /// 400 if both forms cannot be had.
    pub(super) fn form(&self, text: Option<&AskedForm>, syntax: CallSyntax) -> Result<AskedForm, ApiError> {
        let functions = match self.choice {
            Choice::Named(index) => vec![self.functions[index].clone()],
            Choice::Auto | Choice::Required => self.functions.clone(),
        };
        let otherwise = match (self.choice, text.map(|text| (text, text.json_schema()))) {
            (Choice::Required | Choice::Named(_), _) => Otherwise::Nothing,
            (Choice::Auto, None) => Otherwise::Text,
            (Choice::Auto, Some((_, Some(schema)))) => Otherwise::Json(schema),
            (Choice::Auto, Some((text, None))) => {
                return Err(ApiError::invalid(text.param, "is not allowed with 'tools', unless 'tool_choice' is 'none': JSON alone is"));
            }
        };
        Ok(AskedForm { form: Form::Calls(Calls { functions, syntax, most: self.most, otherwise }), param: "tools" })
    }
}

fn functions(tools: Vec<Tool>) -> Result<(Vec<Value>, Vec<Function>), ApiError> {
    if tools.len() > MAX_TOOLS {
        return Err(ApiError::invalid("tools", format!("must have at most {MAX_TOOLS} tools, got {}", tools.len())));
    }
    let parsed: Vec<(Value, Function)> = tools.into_iter().enumerate().map(function).collect::<Result<_, _>>()?;
    let mut names = HashSet::new();
    if let Some((index, (_, twice))) = parsed.iter().enumerate().find(|(_, (_, function))| !names.insert(&function.name)) {
        return Err(ApiError::invalid(
            format!("tools[{index}].function.name"),
            format!("must be used once, '{}' is there twice", twice.name),
        ));
    }
    Ok(parsed.into_iter().unzip())
}

fn function((index, tool): (usize, Tool)) -> Result<(Value, Function), ApiError> {
    let at = |field: &str| format!("tools[{index}].{field}");
    match tool.kind.as_deref() {
        Some("function") => {}
        Some(other) => return Err(ApiError::invalid(at("type"), format!("must be 'function', got '{other}'"))),
        None => return Err(ApiError::Missing { param: at("type") }),
    }
    let definition = tool.function.ok_or_else(|| ApiError::Missing { param: at("function") })?;
    let FunctionDefinition { name, description, parameters, .. } = definition;
    check_name(&at("function.name"), name.as_deref())?;
    let name = name.unwrap_or_default();
    let mut shown = Map::from_iter([("name".to_owned(), Value::from(name.as_str()))]);
    if let Some(description) = description {
        shown.insert("description".to_owned(), Value::from(description));
    }
    if let Some(parameters) = &parameters {
        shown.insert("parameters".to_owned(), parameters.clone());
    }
    let parameters = arguments_schema(&at("function.parameters"), parameters)?;
    Ok((json!({"type": "function", "function": shown}), Function { name, parameters }))
}

/// The schema of a function's arguments, which are always an object.
fn arguments_schema(param: &str, parameters: Option<Value>) -> Result<Value, ApiError> {
    match parameters {
        None => Ok(json!({"type": "object", "properties": {}, "additionalProperties": false})),
        Some(Value::Object(mut schema)) => match schema.get("type") {
            Some(kind) if kind == "object" => Ok(Value::Object(schema)),
            Some(other) => Err(ApiError::invalid(format!("{param}.type"), format!("must be 'object', got {other}"))),
            None => {
                schema.insert("type".to_owned(), Value::from("object"));
                Ok(Value::Object(schema))
            }
        },
        Some(_) => Err(ApiError::invalid(param, "must be a JSON schema of an object")),
    }
}

fn parse_choice(choice: Option<ToolChoice>, functions: &[Function]) -> Result<Option<Choice>, ApiError> {
    let has_tools = !functions.is_empty();
    let choice = match choice {
        None if !has_tools => return Ok(None),
        None => Choice::Auto,
        Some(ToolChoice::Mode(mode)) => match mode.as_str() {
            "none" => return Ok(None),
            "auto" => Choice::Auto,
            "required" => Choice::Required,
            other => {
                let problem = format!("must be 'none', 'auto', 'required' or an object that names a function, got '{other}'");
                return Err(ApiError::invalid("tool_choice", problem));
            }
        },
        Some(ToolChoice::Named(named)) => {
            let name = called_name(named)?;
            match functions.iter().position(|function| function.name == name) {
                Some(index) => Choice::Named(index),
                None if has_tools => {
                    return Err(ApiError::invalid("tool_choice.function.name", format!("must be one of the tools, got '{name}'")));
                }
                None => Choice::Required,
            }
        }
    };
    if has_tools { Ok(Some(choice)) } else { Err(ApiError::invalid("tool_choice", "is only allowed with 'tools'")) }
}

/// The name of the function that is to be called.
fn called_name(named: NamedTool) -> Result<String, ApiError> {
    let missing = |field: &str| ApiError::Missing { param: format!("tool_choice.{field}") };
    let kind = named.kind.ok_or_else(|| missing("type"))?;
    if kind != "function" {
        return Err(ApiError::invalid("tool_choice.type", format!("must be 'function', got '{kind}'")));
    }
    named.function.ok_or_else(|| missing("function"))?.name.ok_or_else(|| missing("function.name"))
}
