//! Why the engine does not start and why it does not accept work.

use crate::scheduler::AdmissionError;
use std::time::Duration;

/// The engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A limit is zero, so that nothing could ever run.
    #[error("{limit} is 0")]
    ZeroLimit {
        /// Which one.
        limit: &'static str,
    },
    /// The operating system gives no thread.
    #[error("engine thread could not be started: {0}")]
    Spawn(#[source] std::io::Error),
}

/// A request is not accepted; none of its sequences is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too much waits already.
    #[error("queue is full ({reason}); retry after {} s", retry_after.as_secs())]
    QueueFull {
        /// How long the queue takes at the present rate, whole seconds in `1..=60`.
        retry_after: Duration,
        /// Which limit was met.
        reason: QueueLimit,
    },
    /// The server is shutting down.
    #[error("engine is draining")]
    Draining,
    /// The sequence could never run.
    #[error(transparent)]
    TooLarge(#[from] AdmissionError),
    /// The engine computes nothing any more.
    #[error("engine is dead: {reason}")]
    Dead {
        /// Why, for the operator.
        reason: String,
    },
}

/// The limits of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    /// `max_num_queued_reqs`.
    Requests,
    /// `max_num_queued_tokens`.
    Tokens,
}

impl std::fmt::Display for QueueLimit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        })
    }
}
