//! From a wire type of [`crate::api`] to [`GenerationRequest`](crate::generation::GenerationRequest)s: "parse, don't validate".
//!
//! Called by the routes of both APIs. The steps in order: [`shared`] resolves what both APIs have (sampling, stops, streaming), [`completion`]
//! and [`chat`] what is their own, [`encode`] turns texts into token ids away from the async threads, [`assemble`] fits everything into
//! the context and makes one request per choice. Beside the requests comes an [`OutputPlan`]: what the answer must look like.
//!
//! **Architecture invariant:** every range, default and combination of parameters is decided here, once; the seed is drawn here. Whatever
//! leaves this module is valid for the engine, whose own refusals are about capacity alone.

pub mod assemble;
mod caller;
pub mod chat;
pub mod completion;
pub mod encode;
pub mod form;
mod limits;
mod logit_bias;
mod range;
pub mod shared;
pub mod tokens;
mod tool_text;
pub mod tools;

#[cfg(test)]
mod tests;

pub use assemble::{Assembled, OutputPlan, PromptPlan};
pub use caller::Caller;
pub use limits::{Truncation, header_timeout};
pub use shared::StreamMode;

use super::model_card::{GenerationDefaults, ModelCard};
use crate::grammar::CallSyntax;

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// The model's names and context.
    pub model: &'a ModelCard,
    /// The model's sampling defaults.
    pub defaults: &'a GenerationDefaults,
    /// Token ids are below it.
    pub vocab_size: usize,
    /// Most choices of one request.
    pub max_choices: usize,
    /// Seed of requests that bring none.
    pub default_seed: Option<u64>,
    /// Whether there is a tokenizer: without one there is no text.
    pub has_tokenizer: bool,
    /// How the model writes calls of tools.
    pub call_syntax: CallSyntax,
}
