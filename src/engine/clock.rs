//! The clock of the engine, passed in so that tests own the time.

use std::time::Instant;

/// Tells the time to handles and to the engine thread alike.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now; never earlier than any answer before.
    fn now(&self) -> Instant;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}
