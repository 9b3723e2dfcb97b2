//! Time of steps by operation: counters that are looked up once, since a step of a small model takes a tenth of a millisecond.

use prometheus::{Counter, CounterVec};
use std::time::Duration;

/// One counter per operation, in the order in which they were named.
#[derive(Debug)]
pub struct StepOperations(Vec<Counter>);

impl StepOperations {
    pub(super) fn new(family: &CounterVec, operations: &[&'static str]) -> Self {
        Self(operations.iter().map(|operation| family.with_label_values(&[*operation])).collect())
    }

    /// `times` that one step spent in the operations, in their order.
    pub fn add(&self, times: impl Iterator<Item = Duration>) {
        for (counter, time) in self.0.iter().zip(times) {
            counter.inc_by(time.as_secs_f64());
        }
    }
}
