//! How much time the steps of one sequence may take: the engine waits for them, and with it all other sequences.

use std::time::Duration;

/// A step that takes longer is slow.
pub(super) const SLOW: Duration = Duration::from_millis(50);
/// Most slow steps of a sequence.
const MOST_SLOW_STEPS: u32 = 8;
/// What all steps of a sequence may take together: so much, and so much more for each token.
const AT_FIRST: Duration = Duration::from_millis(500);
const FOR_EACH_TOKEN: Duration = Duration::from_millis(5);

/// What the steps of a sequence took so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    slow_steps: u32,
    spent: Duration,
    tokens: u32,
}

impl Pace {
    /// Notes a step that took so long and came to so many tokens; whether the sequence may go on.
    pub(super) fn note(&mut self, took: Duration, tokens: usize) -> bool {
        self.slow_steps += u32::from(took > SLOW);
        self.spent = self.spent.saturating_add(took);
        self.tokens = self.tokens.saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
        self.slow_steps <= MOST_SLOW_STEPS && self.spent <= AT_FIRST.saturating_add(FOR_EACH_TOKEN.saturating_mul(self.tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a mask and a token, until the sequence must end.
    fn steps(took: Duration, most: usize) -> usize {
        let mut pace = Pace::default();
        (0..most).take_while(|_| pace.note(took, 0) && pace.note(Duration::ZERO, 1)).count()
    }

    #[test]
    fn a_sequence_may_go_on_for_ever_at_five_milliseconds_a_token() {
        assert_eq!(steps(Duration::from_millis(5), 100_000), 100_000);
    }

    /// Masks of some 40 ms held up all other sequences for seconds: none of them was slow by itself.
    #[test]
    fn steps_that_are_not_slow_by_themselves_are_bounded_together() {
        assert_eq!(steps(Duration::from_millis(40), 100_000), 14);
        assert_eq!(steps(Duration::from_millis(10), 100_000), 99);
    }

    #[test]
    fn a_few_slow_steps_are_let_through() {
        assert_eq!(steps(Duration::from_millis(51), 100_000), 8);
        let mut pace = Pace::default();
        assert!(pace.note(Duration::from_millis(400), 0) && pace.note(Duration::ZERO, 50), "the first steps find out the most");
        assert!(pace.note(Duration::from_millis(300), 0) && !pace.note(Duration::from_millis(60), 0));
    }
}
