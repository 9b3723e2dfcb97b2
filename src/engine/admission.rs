//! The bounded queue: counts what was accepted and not yet scheduled, and tells those it refuses when to come back.

use super::error::{QueueLimit, SubmitError};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Completions remembered for the rate.
const REMEMBERED_COMPLETIONS: usize = 64;
/// `Retry-After` before anything was completed.
const UNKNOWN_RATE_RETRY: Duration = Duration::from_secs(5);
const MIN_RETRY: f64 = 1.0;
const MAX_RETRY: f64 = 60.0;

/// What one request adds to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// Sequences.
    pub requests: usize,
    /// Prompt tokens of all of them.
    pub tokens: usize,
}

/// Counters of the queue.
#[derive(Debug)]
pub(super) struct Queue {
    limit: Demand,
    queued: Demand,
    /// Sequences that were scheduled and have not ended.
    running: usize,
    /// Ends of the last sequences, ascending. Time without any work is taken out: they are moved forward by it.
    completions: VecDeque<Instant>,
}

impl Queue {
    pub(super) fn new(limit: Demand) -> Self {
        Self { limit, queued: Demand { requests: 0, tokens: 0 }, running: 0, completions: VecDeque::with_capacity(REMEMBERED_COMPLETIONS) }
    }

    /// Takes a whole request or nothing. An empty queue takes any request, so that no limit makes a request impossible for ever.
    pub(super) fn admit(&mut self, demand: Demand, now: Instant) -> Result<(), SubmitError> {
        let after = Demand { requests: self.queued.requests + demand.requests, tokens: self.queued.tokens + demand.tokens };
        if self.queued.requests > 0 {
            let full = |reason| Err(SubmitError::QueueFull { retry_after: self.retry_after(now), reason });
            if after.requests > self.limit.requests {
                return full(QueueLimit::Requests);
            }
            if after.tokens > self.limit.tokens {
                return full(QueueLimit::Tokens);
            }
        }
        if self.queued.requests == 0 && self.running == 0 {
            self.forget_idle_time(now);
        }
        self.queued = after;
        Ok(())
    }

    /// A sequence was scheduled for the first time.
    pub(super) fn start(&mut self, tokens: usize) {
        self.leave(tokens);
        self.running += 1;
    }

    /// A sequence ended before it was scheduled.
    pub(super) fn abandon(&mut self, tokens: usize) {
        self.leave(tokens);
    }

    fn leave(&mut self, tokens: usize) {
        self.queued.requests -= 1;
        self.queued.tokens -= tokens;
    }

    /// A sequence that had been scheduled ended.
    pub(super) fn completed(&mut self, at: Instant) {
        self.running -= 1;
        if self.completions.len() == REMEMBERED_COMPLETIONS {
            self.completions.pop_front();
        }
        self.completions.push_back(at);
    }

    /// Work begins after a time without any: the rate goes on where it stood, as if that time had not been.
    fn forget_idle_time(&mut self, now: Instant) {
        let Some(last) = self.completions.back() else { return };
        let idle = now.saturating_duration_since(*last);
        for at in &mut self.completions {
            *at += idle;
        }
    }

    /// How long the queue takes at the rate of the last completions. The rate sinks while nothing completes.
    fn retry_after(&self, now: Instant) -> Duration {
        let Some(oldest) = self.completions.front() else { return UNKNOWN_RATE_RETRY };
        let per_completion = now.saturating_duration_since(*oldest).as_secs_f64() / self.completions.len() as f64;
        let seconds = (self.queued.requests as f64 * per_completion).ceil().clamp(MIN_RETRY, MAX_RETRY);
        Duration::from_secs_f64(seconds)
    }
}
