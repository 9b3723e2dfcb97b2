//! What is known of a request when it is over, for its one log line.

use super::error::ApiError;
use crate::api::common::{FinishReason, Usage};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Collects what happens to a request. The middleware creates it, the routes fill it, and the middleware logs it when the last byte of the
/// answer was sent or the client is gone. It never holds text of a prompt or an answer.
#[derive(Debug)]
pub struct RequestRecord {
    /// The id the client knows (`x-request-id`).
    pub id: Arc<str>,
    /// When the request's head was read.
    pub started: Instant,
    notes: Mutex<Notes>,
}

/// The notes of a record.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Tokens, once known.
    pub usage: Option<Usage>,
    /// How long the sequence waited that was computed first.
    pub queue_time: Option<Duration>,
    /// From the start to the first token.
    pub first_token: Option<Duration>,
    /// The reasons of the choices that finished, each once.
    pub finish: Vec<FinishReason>,
    /// The error that ended it.
    pub error: Option<ApiError>,
}

impl RequestRecord {
    /// A record of a request that begins now.
    pub fn new(id: Arc<str>) -> Self {
        Self { id, started: Instant::now(), notes: Mutex::default() }
    }

    /// What was noted.
    pub fn notes(&self) -> Notes {
        self.lock().clone()
    }

    /// A sequence is computed for the first time.
    pub fn scheduled(&self, queue_time: Duration) {
        self.lock().queue_time.get_or_insert(queue_time);
    }

    /// A token arrived.
    pub fn token(&self) {
        let elapsed = self.started.elapsed();
        self.lock().first_token.get_or_insert(elapsed);
    }

    /// A choice finished.
    pub fn finished(&self, reason: FinishReason) {
        let mut notes = self.lock();
        if !notes.finish.contains(&reason) {
            notes.finish.push(reason);
        }
    }

    /// An error ended the request.
    pub fn failed(&self, error: &ApiError) {
        self.lock().error.get_or_insert_with(|| error.clone());
    }

    /// The tokens so far.
    pub fn set_usage(&self, usage: Usage) {
        self.lock().usage = Some(usage);
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        // Every change is a single assignment, so that what a panicking thread left behind is whole.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
