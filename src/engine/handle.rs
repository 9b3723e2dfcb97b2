//! What the server holds of the engine.

use super::admission::Demand;
use super::command::{Command, Submission};
use super::config::{EngineLimits, EngineStatus};
use super::error::{QueueLimit, SubmitError};
use super::shared::{Phase, Shared, Ticket};
use super::stream::{GenerationStream, event_capacity};
use crate::generation::GenerationRequest;
use crate::scheduler::{Scheduler, SeqId};
use crate::telemetry::metrics::{Metrics, Rejection};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Submits work to the engine thread and asks for its state; cheap to clone. When the last handle and stream are gone the thread ends.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Sender<Command>,
    pub(super) metrics: Arc<Metrics>,
    /// Holds no sequence; asked only whether one could ever run.
    pub(super) admission: Arc<Scheduler>,
}

impl EngineHandle {
    /// Hands in all sequences of one request, all or none. Never blocks. Past `deadline` they fail with
    /// [`DeadlineExceeded`](crate::generation::FailureKind::DeadlineExceeded).
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing of the request was accepted.
    pub fn submit(&self, requests: Vec<GenerationRequest>, deadline: Option<Instant>) -> Result<Vec<GenerationStream>, SubmitError> {
        for request in &requests {
            self.admission.check(request.prompt.len(), request.stop.max_tokens as usize)?;
        }
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let arrival = self.shared.clock.now();
        // Held until the command is sent: ids ascend in the order of the channel, and nothing enters it after a change of status.
        let mut phase = self.shared.phase();
        check_accepting(&phase.status)?;
        self.admit(&requests, arrival)?;
        let mut streams = Vec::with_capacity(requests.len());
        let mut submissions = Vec::with_capacity(requests.len());
        for request in requests {
            let (submission, stream) = self.open(request, &mut phase, (arrival, deadline));
            submissions.push(submission);
            streams.push(stream);
        }
        match self.commands.send(Command::Submit(submissions)) {
            Ok(()) => Ok(streams),
            Err(_) => Err(SubmitError::Dead { reason: "the engine thread ended".to_owned() }),
        }
    }

    fn admit(&self, requests: &[GenerationRequest], now: Instant) -> Result<(), SubmitError> {
        let tokens = requests.iter().map(|request| request.prompt.len()).sum();
        let admitted = self.shared.queue().admit(Demand { requests: requests.len(), tokens }, now);
        if let Err(SubmitError::QueueFull { reason, .. }) = &admitted {
            self.metrics.rejected(match reason {
                QueueLimit::Requests => Rejection::Requests,
                QueueLimit::Tokens => Rejection::Tokens,
            });
        }
        admitted
    }

    fn open(&self, request: GenerationRequest, phase: &mut Phase, times: (Instant, Option<Instant>)) -> (Submission, GenerationStream) {
        let id = SeqId(phase.next_id);
        phase.next_id += 1;
        let (events, receiver) = mpsc::channel(event_capacity(&request));
        let ticket = Ticket::new(&self.shared, request.prompt.len());
        let stream = GenerationStream::new(id, receiver, self.commands.clone());
        (Submission { id, request, arrival: times.0, deadline: times.1, events, ticket }, stream)
    }

    /// State of the engine.
    pub fn status(&self) -> EngineStatus {
        self.shared.phase().status.clone()
    }

    /// Time since the engine thread last showed life. It does between steps and, when idle, twice a second.
    pub fn heartbeat_age(&self) -> Duration {
        self.shared.heartbeat_age()
    }

    /// What the engine can hold.
    pub fn limits(&self) -> EngineLimits {
        self.shared.limits
    }

    /// Refuses new work from now on; what was accepted is finished.
    pub fn begin_drain(&self) {
        self.shared.advance(EngineStatus::Draining);
    }

    /// Resolves when nothing runs or waits.
    pub async fn drained(&self) {
        // The sender lives in `shared`, which this handle keeps.
        let _ = self.shared.in_flight().wait_for(|count| *count == 0).await;
    }

    /// Refuses new work and fails every sequence with [`ShuttingDown`](crate::generation::FailureKind::ShuttingDown).
    pub fn abort_all(&self) {
        self.begin_drain();
        let _ = self.commands.send(Command::AbortAll);
    }

    /// [`Self::abort_all`], then ends the engine thread: the status becomes [`EngineStatus::Stopped`].
    pub fn stop(&self) {
        self.begin_drain();
        let _ = self.commands.send(Command::Stop);
    }
}

fn check_accepting(status: &EngineStatus) -> Result<(), SubmitError> {
    match status {
        EngineStatus::Ready => Ok(()),
        EngineStatus::Draining => Err(SubmitError::Draining),
        EngineStatus::Failed { reason } => Err(SubmitError::Dead { reason: reason.clone() }),
        EngineStatus::Stopped => Err(SubmitError::Dead { reason: "stopped".to_owned() }),
    }
}
