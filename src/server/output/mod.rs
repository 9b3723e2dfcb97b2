//! From the engine's events to an answer: text, stop strings, log-probabilities, usage, in both APIs' shapes, whole or streamed.
//!
//! [`driver`] merges the sequences of one request and runs each event through its [`choice`]; what comes out is either collected into one
//! answer ([`collect`]) or written as server-sent events ([`sse`]), both encoded by the API's [`shape`].
//!
//! **Architecture invariant:** whole and streamed answers are made from the same [`choice::Piece`]s, so that the concatenation of a stream
//! is the whole answer.
//!
//! **Architecture invariant:** the [`driver::Driver`] owns the engine's streams. Whoever drops it — a client that went away, an error, a stop
//! string — aborts what still runs.

pub mod calls;
pub mod chat;
pub mod choice;
pub mod collect;
pub mod completion;
pub mod driver;
pub mod offsets;
pub mod shape;
pub mod sse;
pub mod token_text;

#[cfg(test)]
mod tests;
