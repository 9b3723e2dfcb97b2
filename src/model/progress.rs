//! How far loading is: counters that the loader moves and anybody may read meanwhile.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What the loader is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LoadStage {
    /// Files are opened and checked.
    Opening,
    /// The hash of all tensors is computed.
    Hashing,
    /// Packed weights of the cache are compared with their checksums.
    Verifying,
    /// Weights are rearranged for the backend.
    Packing,
    /// Steps of every size are computed, on a device with memory of its own; they are counted instead of bytes.
    FirstSteps,
}

const STAGES: [LoadStage; 5] = [LoadStage::Opening, LoadStage::Hashing, LoadStage::Verifying, LoadStage::Packing, LoadStage::FirstSteps];

impl LoadStage {
    /// What is being done, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Opening => "opening the model",
            Self::Hashing => "hashing weights",
            Self::Verifying => "verifying packed weights",
            Self::Packing => "packing weights",
            Self::FirstSteps => "computing first steps",
        }
    }
}

/// Progress of one load. The counters are read one by one: a reader sees the bytes of one stage beside the name of the next for a moment.
#[derive(Debug, Default)]
pub struct LoadProgress {
    stage: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
}

impl LoadProgress {
    /// Begins a stage of `total` bytes.
    pub(crate) fn begin(&self, stage: LoadStage, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Counts bytes that are done.
    pub(crate) fn add(&self, bytes: usize) {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The stage, its bytes that are done and those in all.
    pub fn now(&self) -> (LoadStage, u64, u64) {
        let stage = STAGES[usize::from(self.stage.load(Ordering::Relaxed)).min(STAGES.len() - 1)];
        (stage, self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_count_from_zero() {
        let progress = LoadProgress::default();
        assert_eq!(progress.now(), (LoadStage::Opening, 0, 0));
        for stage in STAGES {
            progress.begin(stage, 10);
            progress.add(3);
            progress.add(4);
            assert_eq!(progress.now(), (stage, 7, 10));
        }
    }
}
