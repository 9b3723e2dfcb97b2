//! How many tokens a step may compute so that it takes about as long as it should.
//!
//! Results do not depend on how prompts are cut into chunks, so the size is free to follow the machine: long steps delay the next token of every
//! running sequence, short ones waste the pass over the weights.

use std::time::Duration;

/// Before anything was measured.
const INITIAL_TOKENS: usize = 64;
/// Tokens of prefill that a step has room for beside the running sequences, however slow the machine.
const MIN_PREFILL_TOKENS: usize = 16;
/// Weight of the newest measurement.
const SMOOTHING: f64 = 0.3;

/// Learns the time per token from steps with prefill.
#[derive(Debug)]
pub(super) struct StepBudget {
    target_seconds: f64,
    max_tokens: usize,
    seconds_per_token: Option<f64>,
}

impl StepBudget {
    pub(super) fn new(target: Duration, max_tokens: usize) -> Self {
        Self { target_seconds: target.as_secs_f64(), max_tokens: max_tokens.max(1), seconds_per_token: None }
    }

    /// Tokens of the next step while `running` sequences run.
    pub(super) fn tokens(&self, running: usize) -> usize {
        (running + MIN_PREFILL_TOKENS).max(self.affordable()).min(self.max_tokens)
    }

    fn affordable(&self) -> usize {
        match self.seconds_per_token {
            Some(seconds) if seconds > 0.0 => (self.target_seconds / seconds).min(self.max_tokens as f64) as usize,
            Some(_) => self.max_tokens,
            None => INITIAL_TOKENS,
        }
    }

    /// Takes in a step of `tokens` tokens for `sequences` sequences.
    ///
    /// Steps without prefill say nothing: they are bound by the pass over the weights. Nor does a small remainder of a prompt, unless
    /// it took too long.
    pub(super) fn record(&mut self, tokens: usize, sequences: usize, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let is_representative = 2 * tokens >= self.affordable().min(self.max_tokens) || seconds > self.target_seconds;
        if tokens <= sequences || !is_representative {
            return;
        }
        let measured = seconds / tokens as f64;
        self.seconds_per_token = Some(match self.seconds_per_token {
            Some(known) => known + SMOOTHING * (measured - known),
            None => measured,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(budget: &mut StepBudget, seconds_per_token: f64, running: usize) -> usize {
        for _ in 0..50 {
            let tokens = budget.tokens(running);
            budget.record(tokens, running, Duration::from_secs_f64(seconds_per_token * tokens as f64));
        }
        budget.tokens(running)
    }

    #[test]
    fn settles_at_the_target_and_follows_changes() {
        let mut budget = StepBudget::new(Duration::from_millis(100), 4096);
        assert_eq!(budget.tokens(0), INITIAL_TOKENS);
        assert!((195..=205).contains(&settle(&mut budget, 0.000_5, 0)));
        assert!((980..=1020).contains(&settle(&mut budget, 0.000_1, 0)));
        assert!((38..=42).contains(&settle(&mut budget, 0.002_5, 4)));
    }

    #[test]
    fn keeps_its_bounds() {
        let mut budget = StepBudget::new(Duration::from_millis(100), 512);
        assert_eq!(settle(&mut budget, 1e-9, 0), 512);
        assert_eq!(settle(&mut budget, 0.0, 0), 512);
        let mut slow = StepBudget::new(Duration::from_millis(100), 512);
        assert_eq!(settle(&mut slow, 1.0, 0), MIN_PREFILL_TOKENS);
        assert_eq!(slow.tokens(64), 64 + MIN_PREFILL_TOKENS, "every running sequence has room beside the prefill");
        assert_eq!(StepBudget::new(Duration::from_millis(1), 4).tokens(64), 4);
    }

    #[test]
    fn ignores_decode_steps_and_small_remainders() {
        let mut budget = StepBudget::new(Duration::from_millis(100), 4096);
        settle(&mut budget, 0.000_5, 0);
        let before = budget.tokens(0);
        budget.record(16, 16, Duration::from_millis(90));
        budget.record(20, 16, Duration::from_millis(90));
        assert_eq!(budget.tokens(0), before);
        budget.record(20, 16, Duration::from_millis(500));
        assert!(budget.tokens(0) < before, "too long is too long, whatever the size");
    }
}
