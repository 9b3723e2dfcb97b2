//! Steps that are recorded once and then sent whole: hundreds of launches in one call.
//!
//! Only where all memory stays what it is ([`Backend::keep_memory`](crate::ops::Backend::keep_memory)), and for steps of single rows: what differs
//! from one to the next is on the device, in the tables of the step.

use super::device::Device;
use std::collections::{HashMap, HashSet};

/// Steps that are the same launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StepKey {
    /// Rows, each of another sequence.
    pub(super) rows: usize,
    /// Whether contexts are cut into splits: then as many are launched as the longest could have.
    pub(super) is_split: bool,
}

/// What becomes of launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// They are sent.
    #[default]
    Send,
    /// They are recorded.
    Record(StepKey),
    /// They are in the recording that is sent in the end.
    Replay(StepKey),
}

/// Each takes some memory of the device; steps beyond are sent launch by launch.
pub(super) const MOST_RECORDINGS: usize = 160;

/// See the module.
pub(super) struct Recorder<D: Device> {
    /// Whether memory stays what it is.
    pub(super) is_on: bool,
    pub(super) mode: Mode,
    /// Steps that were sent once, so that their kernels are loaded.
    seen: HashSet<StepKey>,
    pub(super) kept: HashMap<StepKey, D::Recording>,
}

impl<D: Device> Default for Recorder<D> {
    fn default() -> Self {
        Self { is_on: false, mode: Mode::Send, seen: HashSet::new(), kept: HashMap::new() }
    }
}

impl<D: Device> Recorder<D> {
    /// Drops what was recorded: its memory is no longer there.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
        self.kept.clear();
    }

    /// Begins a step, with a key if it can be recorded.
    pub(super) fn begin(&mut self, key: Option<StepKey>) {
        self.mode = match key.filter(|_| self.is_on && D::RECORDS) {
            None => Mode::Send,
            Some(key) if self.kept.contains_key(&key) => Mode::Replay(key),
            Some(key) if self.seen.insert(key) || self.kept.len() == MOST_RECORDINGS => Mode::Send,
            Some(key) => Mode::Record(key),
        };
    }
}
