//! The machine's limits, one round before each measured round.

use super::report::Limits;
use super::statistics::Summary;
use crate::ops::cpu::limits::{LEAST_BYTES_PER_THREAD, LimitProbe, LimitRound};
use anyhow::Context as _;

/// Largest buffer that a model asks for: no cache holds more, whatever the size of the weights.
const MOST_BYTES_FOR_WEIGHTS: u64 = 1 << 30;

/// Bytes of the buffer that `threads` threads read beside weights of `weight_bytes`.
pub(super) fn buffer_bytes(threads: usize, weight_bytes: u64) -> u64 {
    (LEAST_BYTES_PER_THREAD as u64).saturating_mul(threads as u64).max(weight_bytes.min(MOST_BYTES_FOR_WEIGHTS))
}

/// Measures limits and keeps all rounds.
pub(super) struct Meter {
    probe: LimitProbe,
    rounds: Vec<LimitRound>,
}

impl Meter {
    /// Measures with `threads` threads, and reads a buffer of [`buffer_bytes`].
    pub(super) fn new(threads: usize, weight_bytes: u64) -> anyhow::Result<Self> {
        let bytes = buffer_bytes(threads, weight_bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_is_as_large_as_was_said() {
        let least = LEAST_BYTES_PER_THREAD as u64;
        for (threads, weight_bytes, expected) in
            [(1, 0, least), (2, least, 2 * least), (1, least + 4096, least + 4096), (1, 1 << 40, 1 << 30), (32, 1 << 40, 2 << 30)]
        {
            assert_eq!(buffer_bytes(threads, weight_bytes), expected);
            // The large ones would only cost time.
            if expected < 3 * least {
                let meter = Meter::new(threads, weight_bytes).expect("measured");
                assert_eq!(meter.probe.buffer_bytes() as u64, expected);
            }
        }
    }
}
