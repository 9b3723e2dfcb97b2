//! Where the time of a step goes, by operation. Always on: an operation costs one reading of the clock, about 30 ns of a step that takes
//! milliseconds.

use std::time::{Duration, Instant};

/// The parts of a step, in the order in which a layer runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepOp {
    /// Embedding of the tokens.
    Embed,
    /// RMSNorm, with the rounding and arranging of its result for the product that follows.
    RmsNorm,
    /// Projection to queries, keys and values.
    QkvProj,
    /// RMSNorm of queries and keys, rotation, write to the pages.
    QkNormRopeStore,
    /// Attention over the pages.
    Attention,
    /// Projection of what attention found, with the residual addition.
    OutProj,
    /// First feed-forward projection, with the activation.
    Proj1,
    /// Second feed-forward projection, with the residual addition.
    Proj2,
    /// Logits.
    Head,
    /// Penalties, filters, choice of tokens, log-probabilities.
    Sampling,
}

impl StepOp {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Embed,
        Self::RmsNorm,
        Self::QkvProj,
        Self::QkNormRopeStore,
        Self::Attention,
        Self::OutProj,
        Self::Proj1,
        Self::Proj2,
        Self::Head,
        Self::Sampling,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embedding",
            Self::RmsNorm => "RMSNorm",
            Self::QkvProj => "product qkv_proj",
            Self::QkNormRopeStore => "q/k norm, RoPE, store",
            Self::Attention => "attention",
            Self::OutProj => "product out_proj",
            Self::Proj1 => "product proj_1 + SwiGLU",
            Self::Proj2 => "product proj_2",
            Self::Head => "product head",
            Self::Sampling => "sampling",
        }
    }

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::RmsNorm => "rms_norm",
            Self::QkvProj => "qkv_proj",
            Self::QkNormRopeStore => "qk_norm_rope_store",
            Self::Attention => "attention",
            Self::OutProj => "out_proj",
            Self::Proj1 => "proj_1",
            Self::Proj2 => "proj_2",
            Self::Head => "head",
            Self::Sampling => "sampling",
        }
    }
}

/// Time by operation since it was made or reset.
#[derive(Clone, Debug, Default)]
pub struct StepProfile {
    times: [Duration; StepOp::ALL.len()],
    last: Option<Instant>,
}

impl StepProfile {
    /// Starts the clock: what follows counts for the next [`Self::lap`].
    pub fn start(&mut self) {
        self.last = Some(Instant::now());
    }

    /// Counts the time since the last call for `op`.
    pub fn lap(&mut self, op: StepOp) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.times[op as usize] += now - last;
        }
    }

    /// Time spent in `op`.
    pub fn time(&self, op: StepOp) -> Duration {
        self.times[op as usize]
    }

    /// Time spent in all of them.
    pub fn total(&self) -> Duration {
        self.times.iter().sum()
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_count_for_their_operation_from_the_start_on() {
        let mut profile = StepProfile::default();
        profile.lap(StepOp::Head);
        assert_eq!(profile.total(), Duration::ZERO, "nothing was started");
        profile.start();
        std::thread::sleep(Duration::from_millis(2));
        profile.lap(StepOp::Attention);
        profile.lap(StepOp::Head);
        assert!(profile.time(StepOp::Attention) >= Duration::from_millis(2));
        assert!(profile.total() >= profile.time(StepOp::Attention) && profile.time(StepOp::RmsNorm).is_zero());
        profile.reset();
        assert_eq!(profile.total(), Duration::ZERO);
    }

    #[test]
    fn labels_are_distinct_and_such_as_metrics_have() {
        let labels: std::collections::BTreeSet<&str> = StepOp::ALL.map(StepOp::label).into();
        assert_eq!(labels.len(), StepOp::ALL.len());
        assert!(labels.iter().all(|label| label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')), "{labels:?}");
    }

    #[test]
    fn every_operation_has_its_place() {
        assert!(StepOp::ALL.iter().enumerate().all(|(i, &op)| op as usize == i));
    }
}
