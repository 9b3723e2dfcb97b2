//! What handles and streams tell the engine thread.
//!
//! The channel has no bound of its own and needs none: admission bounds the submissions in it, and each accepted sequence sends one message at most.

use super::shared::Ticket;
use crate::generation::{GenerationEvent, GenerationRequest};
use crate::scheduler::SeqId;
use std::time::Instant;
use tokio::sync::mpsc;

/// A message to the engine thread.
#[derive(Debug)]
pub(super) enum Command {
    /// All sequences of one request.
    Submit(Vec<Submission>),
    /// Nobody reads this sequence any more.
    Abort(SeqId),
    /// The reader of this sequence found its end in the text.
    Finish(SeqId),
    /// The time to finish is over.
    AbortAll,
    /// Abort everything and end the thread.
    Stop,
}

/// One accepted sequence on its way to the engine thread.
#[derive(Debug)]
pub(super) struct Submission {
    pub id: SeqId,
    pub request: GenerationRequest,
    pub arrival: Instant,
    pub deadline: Option<Instant>,
    pub events: mpsc::Sender<GenerationEvent>,
    pub ticket: Ticket,
}
