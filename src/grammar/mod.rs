//! Forms that an answer must have — JSON, a JSON schema, a regex, choices, a grammar, calls of tools — to masks of tokens.
//!
//! `server` compiles the form of a request here before it hands the request to the engine, away from the async threads; the engine follows it
//! through [`Constraint`](crate::generation::Constraint) and knows nothing of this module. `schema` holds a JSON schema against what can be
//! enforced and finds what is at fault where it cannot be, `bounds` mends bounds of numbers in it; `calls` writes calls of tools as a
//! grammar, `lark` regexes and choices, and checks grammars that users write; `vocabulary` tells `llguidance` what the tokens spell; `follow`
//! and `trigger` are the states of sequences, `pace` what their steps may cost.
//!
//! **Architecture invariant:** a form is enforced as a whole or refused: no keyword is passed over.
//!
//! **Architecture invariant:** compiling and each step are bounded in work and memory, whoever wrote the form.
//!
//! JSON has no free white space: at most one space after each colon and comma, so that a weak model cannot go on with blanks for ever.

mod bounds;
mod calls;
mod compile;
mod error;
mod follow;
mod lark;
mod pace;
mod schema;
mod trigger;
mod vocabulary;

pub use calls::{CallSyntax, Calls, Function, Otherwise};
pub use compile::Compiler;
pub use error::FormError;

use serde::Serialize;
use serde_json::Value;

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Form {
    /// Any JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema(Value),
    /// A text that a regex matches from beginning to end.
    Regex(String),
    /// One of some texts.
    Choice(Vec<String>),
    /// A text of a context-free grammar in Lark's notation.
    Grammar(String),
    /// Calls of tools.
    Calls(Calls),
}

#[cfg(test)]
mod tests;
