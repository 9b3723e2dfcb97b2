//! Sums over the scored positions.

use crate::generation::TokenId;

/// A mean and its standard error, which takes the values for independent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error; 0 of fewer than two values.
    pub standard_error: f64,
}

/// Sums of values and of their squares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
    }

    fn mean(&self) -> Mean {
        let count = self.count.max(1) as f64;
        let mean = self.sum / count;
        let variance = (self.squares - self.sum * mean).max(0.0) / (count - 1.0).max(1.0);
        Mean { mean, standard_error: (variance / count).sqrt() }
    }
}

/// How well a model foretells a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity(Sums);

impl Perplexity {
    pub(super) fn add(&mut self, q: &Distribution<'_>, token: TokenId) {
        self.0.add(-q.ln_probability(token as usize));
    }

    /// Scored positions.
    pub fn positions(&self) -> u64 {
        self.0.count
    }

    /// `exp` of the mean negative log-likelihood.
    pub fn value(&self) -> f64 {
        self.0.mean().mean.exp()
    }
}

/// How well a candidate foretells a text, and how far it is from the reference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    perplexity: Perplexity,
    /// Of the candidate's negative log-likelihood minus the reference's.
    nll_difference: Sums,
    divergence: Sums,
    /// Of each position, for quantiles.
    divergences: Vec<f32>,
    /// Positions at which the likeliest token is the reference's.
    agreed: u64,
}

impl Score {
    /// Adds a position: the reference's distribution, the candidate's, their [`divergence`], and the token that follows.
    pub(super) fn add(&mut self, (p, q, divergence): (&Distribution<'_>, &Distribution<'_>, f64), token: TokenId) {
        self.perplexity.add(q, token);
        self.nll_difference.add(p.ln_probability(token as usize) - q.ln_probability(token as usize));
        self.divergence.add(divergence);
        self.divergences.push(divergence as f32);
        self.agreed += u64::from(p.likeliest == q.likeliest);
    }

    /// The candidate's own.
    pub fn perplexity(&self) -> Perplexity {
        self.perplexity
    }

    /// How much larger the perplexity is than the reference's, as a share: 0.01 is 1%. The error is that of the paired difference.
    pub fn perplexity_increase(&self) -> Mean {
        let Mean { mean, standard_error } = self.nll_difference.mean();
        Mean { mean: mean.exp_m1(), standard_error: standard_error * mean.exp() }
    }

    /// The mean divergence from the reference in nats.
    pub fn divergence(&self) -> Mean {
        self.divergence.mean()
    }

    /// The divergence that `share` of the positions do not exceed.
    pub fn divergence_quantile(&self, share: f64) -> f32 {
        let mut sorted = self.divergences.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
    }

    /// The share of positions at which the likeliest token is the reference's.
    pub fn top_1_agreement(&self) -> f64 {
        self.agreed as f64 / self.perplexity.positions().max(1) as f64
    }
}

/// The distribution of the token that follows.
pub(super) struct Distribution<'a> {
    logits: &'a [f32],
    /// `ln sum exp`.
    log_sum: f64,
    /// The first of the largest.
    likeliest: usize,
}

impl<'a> Distribution<'a> {
    /// `None` when a logit is not finite.
    pub(super) fn new(logits: &'a [f32]) -> Option<Self> {
        let (mut likeliest, mut largest) = (0, f32::NEG_INFINITY);
        for (token, &logit) in logits.iter().enumerate() {
            if !logit.is_finite() {
                return None;
            }
            if logit > largest {
                (likeliest, largest) = (token, logit);
            }
        }
        let largest = f64::from(largest);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        Some(Self { logits, log_sum: largest + sum.ln(), likeliest })
    }

    /// Those of all tokens.
    pub(super) fn probabilities(&self) -> Vec<f64> {
        (0..self.logits.len()).map(|token| self.ln_probability(token).exp()).collect()
    }

    fn ln_probability(&self, token: usize) -> f64 {
        f64::from(self.logits[token]) - self.log_sum
    }
}

/// `sum_i p_i (ln p_i - ln q_i)`: the mean difference of the logits, and that of `ln sum exp`. `probabilities` are those of `p`.
pub(super) fn divergence(p: &Distribution<'_>, probabilities: &[f64], q: &Distribution<'_>) -> f64 {
    let terms = probabilities.iter().zip(p.logits.iter().zip(q.logits)).map(|(p, (&a, &b))| p * (f64::from(a) - f64::from(b)));
    terms.sum::<f64>() + (q.log_sum - p.log_sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_of_two_coins_is_the_one_of_the_books() {
        let row = |p: f64| [p.ln() as f32, (1.0 - p).ln() as f32];
        let (p, q) = (row(0.5), row(0.25));
        let mut score = Score::default();
        let (p, q) = (Distribution::new(&p).expect("finite"), Distribution::new(&q).expect("finite"));
        score.add((&p, &q, divergence(&p, &p.probabilities(), &q)), 1);
        let expected = 0.5 * (0.5_f64 / 0.25).ln() + 0.5 * (0.5_f64 / 0.75).ln();
        assert!((score.divergence().mean - expected).abs() < 1e-7);
        assert!((score.perplexity().value() - 1.0 / 0.75).abs() < 1e-6);
        assert!((score.perplexity_increase().mean - (0.5 / 0.75 - 1.0)).abs() < 1e-6);
        assert_eq!((score.perplexity().positions(), score.top_1_agreement()), (1, 0.0), "the first of equals is the likeliest");
    }

    #[test]
    fn a_model_is_not_far_from_itself() {
        let mut score = Score::default();
        for seed in 0..4 {
            let row: Vec<f32> = (0..10).map(|i| ((i * 37 + seed) % 11) as f32 - 5.0).collect();
            let p = Distribution::new(&row).expect("finite");
            score.add((&p, &p, divergence(&p, &p.probabilities(), &p)), seed);
        }
        assert_eq!((score.divergence(), score.perplexity_increase()), (Sums::default().mean(), Sums::default().mean()));
        assert_eq!((score.top_1_agreement(), score.divergence_quantile(0.99)), (1.0, 0.0));
    }

    #[test]
    fn errors_shrink_with_the_root_of_the_count() {
        let mean = |values: &[f64]| {
            let mut sums = Sums::default();
            values.iter().for_each(|&value| sums.add(value));
            sums.mean()
        };
        assert_eq!(mean(&[1.0, 3.0]), Mean { mean: 2.0, standard_error: 1.0 });
        let Mean { mean: of_many, standard_error } = mean(&[1.0, 3.0].repeat(50));
        assert!(of_many == 2.0 && (standard_error - 1.0 / 99.0_f64.sqrt()).abs() < 1e-9, "{standard_error}");
    }

    #[test]
    fn what_is_no_number_has_no_distribution() {
        assert!(Distribution::new(&[f32::NAN, 0.0]).is_none() && Distribution::new(&[0.0, f32::INFINITY]).is_none());
    }
}
