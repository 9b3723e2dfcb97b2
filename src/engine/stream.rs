//! The receiving end of one sequence.

use super::command::Command;
use crate::generation::{FailureKind, GenerationEvent, GenerationFailure, GenerationRequest};
use crate::scheduler::SeqId;
use std::pin::Pin;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// Events of one sequence, the last of them `Finished` or `Failed`, exactly once. Dropping the stream before that aborts the sequence: its
/// blocks are free within one step.
#[derive(Debug)]
pub struct GenerationStream {
    id: SeqId,
    events: mpsc::Receiver<GenerationEvent>,
    commands: Sender<Command>,
    ended: bool,
}

impl GenerationStream {
    pub(super) fn new(id: SeqId, events: mpsc::Receiver<GenerationEvent>, commands: Sender<Command>) -> Self {
        Self { id, events, commands, ended: false }
    }

    /// The next event; `None` after the terminal one. Cancel safe.
    pub async fn recv(&mut self) -> Option<GenerationEvent> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// Ends the sequence as finished by [`FinishReason::Stop`](crate::generation::FinishReason::Stop): its text holds a stop string, which
    /// only the reader can see. Dropping the stream would count it as aborted.
    pub fn finish(mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            // A dead engine has nothing to end.
            let _ = self.commands.send(Command::Finish(self.id));
        }
    }

    /// [`Self::recv`] for hand-written futures and streams.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<GenerationEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = ready!(self.events.poll_recv(context)).unwrap_or_else(engine_gone);
        self.ended = is_terminal(&event);
        Poll::Ready(Some(event))
    }
}

impl futures_util::Stream for GenerationStream {
    type Item = GenerationEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<GenerationEvent>> {
        self.poll_recv(context)
    }
}

impl Drop for GenerationStream {
    fn drop(&mut self) {
        if !self.ended {
            // A dead engine has nothing to abort.
            let _ = self.commands.send(Command::Abort(self.id));
        }
    }
}

/// Whether nothing follows this event.
pub(super) fn is_terminal(event: &GenerationEvent) -> bool {
    matches!(event, GenerationEvent::Finished { .. } | GenerationEvent::Failed(_))
}

/// The thread ended without a word, for instance by a panic outside a step.
fn engine_gone() -> GenerationEvent {
    GenerationEvent::Failed(GenerationFailure { kind: FailureKind::EngineDead, detail: "the engine thread ended".to_owned() })
}

/// Most reports of how far a prompt is computed.
pub(super) const MOST_PREFILL_REPORTS: usize = 64;

/// Most events a sequence can cause, so that the engine never waits: the first step, each token, each chunk of prompt log-probabilities (one
/// token at least), reports of progress, and the end.
pub(super) fn event_capacity(request: &GenerationRequest) -> usize {
    let prompt_events = if request.prompt_logprobs.is_some() { request.prompt.len() } else { 0 };
    let reports = if request.reports_prefill { MOST_PREFILL_REPORTS } else { 0 };
    request.stop.max_tokens as usize + prompt_events + reports + 2
}
