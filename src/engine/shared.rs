//! State that handles, streams and the engine thread share.
//!
//! **Architecture invariant:** both locks are held for a few instructions, never across a step, an await or a callback; `phase` may be held when
//! `queue` is taken, never the other way round.

use super::admission::{Demand, Queue};
use super::clock::Clock;
use super::config::{EngineLimits, EngineStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Status and the next id: what must be consistent with the order of commands in the channel.
#[derive(Debug)]
pub(super) struct Phase {
    pub status: EngineStatus,
    /// Ids ascend in the order of submission.
    pub next_id: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    phase: Mutex<Phase>,
    queue: Mutex<Queue>,
    /// Sequences accepted and not ended.
    in_flight: watch::Sender<usize>,
    /// Last sign of life of the engine thread, in nanoseconds since `origin`.
    heartbeat: AtomicU64,
    /// Time zero of the scheduler's durations.
    pub origin: Instant,
    pub clock: Arc<dyn Clock>,
    pub limits: EngineLimits,
}

impl Shared {
    pub(super) fn new(limits: EngineLimits, queue_limit: Demand, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            phase: Mutex::new(Phase { status: EngineStatus::Ready, next_id: 0 }),
            queue: Mutex::new(Queue::new(queue_limit)),
            in_flight: watch::Sender::new(0),
            heartbeat: AtomicU64::new(0),
            origin: clock.now(),
            clock,
            limits,
        })
    }

    // Nothing that panics runs under either lock, so a poisoned one holds a consistent value.
    pub(super) fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn in_flight(&self) -> watch::Receiver<usize> {
        self.in_flight.subscribe()
    }

    /// `at` as the scheduler counts time.
    pub(super) fn since_origin(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.origin)
    }

    pub(super) fn beat(&self) {
        let nanos = self.since_origin(self.clock.now()).as_nanos() as u64;
        self.heartbeat.store(nanos, Ordering::Relaxed);
    }

    pub(super) fn heartbeat_age(&self) -> Duration {
        let last = Duration::from_nanos(self.heartbeat.load(Ordering::Relaxed));
        self.since_origin(self.clock.now()).saturating_sub(last)
    }

    /// Moves to `status`, unless the engine has failed or stopped already: those are final.
    pub(super) fn advance(&self, status: EngineStatus) {
        let mut phase = self.phase();
        if matches!(phase.status, EngineStatus::Ready | EngineStatus::Draining) {
            phase.status = status;
        }
    }
}

/// One accepted sequence's place in the counters; dropping it, wherever the sequence ends, gives it back.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Arc<Shared>,
    /// Prompt tokens counted in the queue; `None` once the sequence was scheduled.
    queued_tokens: Option<usize>,
}

impl Ticket {
    /// For a sequence that [`Queue::admit`] has counted.
    pub(super) fn new(shared: &Arc<Shared>, queued_tokens: usize) -> Self {
        shared.in_flight.send_modify(|count| *count += 1);
        Self { shared: Arc::clone(shared), queued_tokens: Some(queued_tokens) }
    }

    /// The sequence was scheduled for the first time.
    pub(super) fn leave_queue(&mut self) {
        if let Some(tokens) = self.queued_tokens.take() {
            self.shared.queue().start(tokens);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match self.queued_tokens.take() {
            Some(tokens) => self.shared.queue().abandon(tokens),
            None => self.shared.queue().completed(self.shared.clock.now()),
        }
        self.shared.in_flight.send_modify(|count| *count -= 1);
    }
}
