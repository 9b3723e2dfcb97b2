//! The machine's limits, one round before each measured round.

use super::report::Limits;
use super::statistics::Summary;
use crate::ops::cpu::limits::{LimitProbe, LimitRound};
use anyhow::Context as _;

/// Measures limits and keeps all rounds.
pub(super) struct Meter {
    probe: LimitProbe,
    rounds: Vec<LimitRound>,
}

impl Meter {
    /// Measures with `threads` threads, and reads a buffer of at least `bytes`.
    pub(super) fn new(threads: usize, bytes: u64) -> anyhow::Result<Self> {
        let bytes = usize::try_from(bytes).context("the weights are more than this machine can address")?;
        let probe = LimitProbe::new(threads, bytes).context("cannot measure the limits of this machine; --threads sets the threads")?;
        // Clocks rise under load; the first round would be below what the machine gives.
        probe.round();
        Ok(Self { probe, rounds: Vec::new() })
    }

    /// One round.
    pub(super) fn round(&mut self) -> LimitRound {
        let round = self.probe.round();
        self.rounds.push(round);
        round
    }

    /// All rounds; `None` before the first.
    pub(super) fn limits(&self) -> Option<Limits> {
        let giga = |figure: fn(&LimitRound) -> Option<f64>| Summary::of(self.rounds.iter().filter_map(figure).map(|v| v / 1e9).collect());
        Some(Limits {
            buffer_bytes: self.probe.buffer_bytes() as u64,
            read_gb_per_s: giga(|round| Some(round.read_bytes_per_s))?,
            f32_fma_gflops: giga(|round| Some(round.f32_fma_flops))?,
            bf16_dot_gflops: giga(|round| round.bf16_dot_flops),
            int8_dot_gops: giga(|round| round.int8_dot_ops),
        })
    }
}
