//! Events per second over a sliding window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Events are counted in slots of this length.
const SLOT: Duration = Duration::from_millis(500);
/// Slots that make the window.
const SLOTS: u64 = 20;

/// Counts events of the last ten seconds; at most [`SLOTS`] numbers.
#[derive(Debug)]
pub(super) struct SlidingRate {
    origin: Instant,
    /// (index of the slot since the origin, events in it), ascending, none empty.
    slots: VecDeque<(u64, u64)>,
}

impl SlidingRate {
    pub(super) fn new(origin: Instant) -> Self {
        Self { origin, slots: VecDeque::with_capacity(SLOTS as usize + 1) }
    }

    /// Counts `events` at `at`; times of one caller ascend, an earlier one counts into the newest slot.
    pub(super) fn add(&mut self, events: u64, at: Instant) {
        let slot = self.slot(at);
        self.expire(slot);
        match self.slots.back_mut() {
            Some((newest, count)) if *newest >= slot => *count += events,
            _ => self.slots.push_back((slot, events)),
        }
    }

    /// Events per second at `now`: over the window, or since the oldest event in it where that is later (one second at least).
    pub(super) fn per_second(&mut self, now: Instant) -> f64 {
        self.expire(self.slot(now));
        let Some(&(oldest, _)) = self.slots.front() else { return 0.0 };
        let since = self.origin + SLOT * oldest.min(u64::from(u32::MAX)) as u32;
        let span = now.saturating_duration_since(since).clamp(Duration::from_secs(1), SLOT * SLOTS as u32);
        self.slots.iter().map(|(_, count)| *count).sum::<u64>() as f64 / span.as_secs_f64()
    }

    fn slot(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.origin).as_millis() / SLOT.as_millis()) as u64
    }

    fn expire(&mut self, slot: u64) {
        while self.slots.front().is_some_and(|(oldest, _)| oldest + SLOTS <= slot) {
            self.slots.pop_front();
        }
    }
}
