//! Medians and extremes over rounds, percentiles over requests.

use serde::{Deserialize, Serialize};

/// One figure over all rounds of a measurement. The unit stands in the name of the field that holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle one; of an even number of rounds the mean of the two middle ones.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The figure of every round, in the order of measuring.
    pub rounds: Vec<f64>,
}

impl Summary {
    /// Of `rounds`; `None` without any.
    pub(super) fn of(rounds: Vec<f64>) -> Option<Self> {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: percentile(&sorted, 0.5)?, min, max, rounds })
    }

    /// Of `figure` of every round.
    pub(super) fn over<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Option<Self> {
        Self::of(rounds.iter().map(figure).collect())
    }
}

/// The value below which the share `share` of `sorted` lies, linear between neighbours; `None` without values.
pub(super) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = sorted.len().checked_sub(1)? as f64 * share;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_keep_the_order_and_know_the_middle() {
        let odd = Summary::of(vec![3.0, 1.0, 2.0]).expect("rounds");
        assert_eq!((odd.median, odd.min, odd.max, odd.rounds), (2.0, 1.0, 3.0, vec![3.0, 1.0, 2.0]));
        assert_eq!(Summary::of(vec![4.0, 1.0, 2.0, 3.0]).map(|even| even.median), Some(2.5));
        assert_eq!(Summary::over(&[2u8], |n| f64::from(*n) * 2.0).map(|one| (one.median, one.min)), Some((4.0, 4.0)));
        assert_eq!(Summary::of(Vec::new()), None);
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| percentile(&sorted, share)), [0.0, 50.0, 99.0, 100.0].map(Some));
        assert_eq!(percentile(&[1.0, 2.0], 0.25), Some(1.25));
        assert_eq!((percentile(&[7.0], 0.99), percentile(&[], 0.5)), (Some(7.0), None));
    }
}
