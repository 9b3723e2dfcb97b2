//! Calls of tools as text: how they are written, and the grammar of what may be written.

use super::lark::literal;
use super::{Form, schema};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;

/// How a model writes calls of tools.
///
/// A call is the object `{"name": …, "arguments": …}`. Calls stand together, nothing before the first marker being part of them:
/// [`Self::open`], [`Self::before`], the calls with [`Self::between`] between them, [`Self::after`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CallSyntax {
    /// The marker: where it stands, calls begin.
    pub open: &'static str,
    /// Between the marker and the first call.
    pub before: &'static str,
    /// Between two calls.
    pub between: &'static str,
    /// Behind the last call.
    pub after: &'static str,
}

impl CallSyntax {
    /// `<tool_call>`, a call, `</tool_call>`, on lines of their own, for each call: what models of the Hermes family write, and this
    /// server's own form for templates that have none.
    pub const TAGS: Self = Self { open: "<tool_call>", before: "\n", between: "\n</tool_call>\n<tool_call>\n", after: "\n</tool_call>" };
    /// `[TOOL_CALLS]` and a list of calls: what models of the Mistral family write.
    pub const LIST: Self = Self { open: "[TOOL_CALLS]", before: " [", between: ", ", after: "]" };

    /// What stands before the name of a call.
    pub const BEFORE_NAME: &'static str = "{\"name\": \"";
    /// What stands between the name and the arguments of a call.
    pub const BEFORE_ARGUMENTS: &'static str = "\", \"arguments\": ";

    /// The syntax that a chat template writes calls in, if it is one of these.
    pub fn of_template(source: &str) -> Option<Self> {
        [Self::TAGS, Self::LIST].into_iter().find(|syntax| source.contains(syntax.open))
    }

    /// Whether some vocabularies have a special token for this text.
    pub(super) fn is_marker(text: &[u8]) -> bool {
        [Self::TAGS.open, Self::TAGS.after.trim_start(), Self::LIST.open].iter().any(|marker| marker.as_bytes() == text)
    }
}

/// A function that may be called.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Function {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// What may be called, and whether something must be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calls {
    /// What may be called, not empty.
    pub functions: Vec<Function>,
    /// How calls are written.
    pub syntax: CallSyntax,
    /// Most calls, at least 1.
    pub most: u32,
    /// Whether the answer may be something else.
    pub otherwise: Otherwise,
}

/// What an answer may be instead of calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Otherwise {
    /// Nothing: there must be a call.
    Nothing,
    /// Any text, also before the first call.
    Text,
    /// JSON of a schema.
    Json(Value),
}

impl Calls {
    /// Whether calls come only behind a marker that the model may write or not.
    pub(super) fn is_optional(&self) -> bool {
        self.otherwise == Otherwise::Text
    }

    /// The grammar in `llguidance`'s dialect of Lark; behind the marker, if calls are optional.
    pub(super) fn grammar(&self) -> String {
        let syntax = self.syntax;
        let mut grammar = String::new();
        let opening = if self.is_optional() { String::new() } else { literal(syntax.open) };
        let answer = if matches!(self.otherwise, Otherwise::Json(_)) { " | answer" } else { "" };
        let more = format!("({} call){{0,{}}}", literal(syntax.between), self.most.saturating_sub(1));
        let more = if self.most > 1 { more } else { String::new() };
        let _ = writeln!(grammar, "start: calls{answer}");
        let _ = writeln!(grammar, "calls: {opening} {} call {more} {}", literal(syntax.before), literal(syntax.after));
        let rules: Vec<String> = (0..self.functions.len()).map(|index| format!("call_{index}")).collect();
        let _ = writeln!(grammar, "call: {}", rules.join(" | "));
        for (rule, function) in rules.iter().zip(&self.functions) {
            let head = format!("{}{}{}", CallSyntax::BEFORE_NAME, function.name, CallSyntax::BEFORE_ARGUMENTS);
            let _ = writeln!(grammar, "{rule}: {} {rule}_arguments \"}}\"", literal(&head));
            let _ = writeln!(grammar, "{rule}_arguments: %json {}", schema::prepared(&function.parameters));
        }
        if let Otherwise::Json(schema) = &self.otherwise {
            let _ = writeln!(grammar, "answer: %json {}", schema::prepared(schema));
        }
        grammar
    }

    /// The schemas in it, and how to name each in an error.
    pub(super) fn schemas(&self) -> impl Iterator<Item = (String, &Value)> {
        let arguments = |(index, function)| {
            let Function { parameters, .. }: &Function = function;
            (format!("[{index}].function.parameters"), parameters)
        };
        self.functions.iter().enumerate().map(arguments)
    }

    /// The schema that stands beside the calls.
    pub(super) fn answer(&self) -> Option<Form> {
        if let Otherwise::Json(schema) = &self.otherwise { Some(Form::JsonSchema(schema.clone())) } else { None }
    }
}
