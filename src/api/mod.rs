//! Wire types: the JSON of requests, answers, stream chunks and errors, exactly as OpenAI's clients send and read them.
//!
//! `server` decodes requests into these types and encodes answers from them; `openapi.yaml` is generated from them.
//!
//! **Architecture invariant:** serde and utoipa types only. Nothing is checked here beyond JSON types: ranges, defaults and everything
//! that needs the model live in `server::parse`. In requests every field is optional, so that `null` means "the default" everywhere and a
//! missing field can be named.

pub mod chat;
pub mod common;
pub mod completion;
pub mod error;
pub mod format;
pub mod input;
pub mod models;
pub mod number;
pub mod render;
mod schemas;
pub mod shared;
pub mod tokens;
pub mod tools;

#[cfg(test)]
mod tests;
