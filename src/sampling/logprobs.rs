//! Log-probabilities: log-softmax of unmodified logits, rank, and the most likely alternatives.

use super::order::{Candidate, by_likelihood, top_n};
use super::row;
use crate::generation::{TokenId, TokenLogprob, TokenLogprobs};

/// Log-probabilities of `target` and of the `top_n` most likely tokens under `logits`; `None` when a logit is NaN or infinite, or `target` lies
/// outside the row.
///
/// The logarithm of the sum is taken in f64, the sum in units of 2^-40; equal logits give equal bits, so a target that is the most likely token has exactly `top[0].logprob`.
pub fn score(logits: &[f32], target: TokenId, top_n: u8) -> Option<TokenLogprobs> {
    if row::first_non_finite(logits).is_some() || target as usize >= logits.len() {
        return None;
    }
    Some(token_logprobs(logits, target, top_n, &mut Vec::new()))
}

/// Log-probabilities of `target` and of the tokens in `listed`, best first.
pub(super) fn logprobs_of(logits: &[f32], target: TokenId, listed: &[TokenId]) -> TokenLogprobs {
    let candidates: Vec<_> = listed.iter().map(|&token| Candidate { token, logit: logits[token as usize] }).collect();
    facts(logits, target).logprobs(&candidates)
}

/// What log-probabilities of a row are made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowFacts {
    /// The token they are about, and its logit.
    pub target: Candidate,
    /// 1 for the most likely token of all.
    pub rank: u32,
    /// The largest logit.
    pub max: f32,
    /// Sum of `exp(logit - max)`, in units of 2^-40.
    pub mass: u64,
}

impl RowFacts {
    /// With these alternatives, best first.
    pub fn logprobs(&self, alternatives: &[Candidate]) -> TokenLogprobs {
        let normalizer = row::log_sum_exp(self.max, self.mass);
        let of = |candidate: &Candidate| TokenLogprob { token: candidate.token, logprob: logprob(candidate.logit, normalizer) };
        let mut best = alternatives.to_vec();
        best.sort_unstable_by(by_likelihood);
        TokenLogprobs { chosen: of(&self.target), rank: self.rank, top: best.iter().map(of).collect() }
    }
}

fn facts(logits: &[f32], target: TokenId) -> RowFacts {
    let logit = logits[target as usize];
    let max = row::max(logits);
    RowFacts {
        target: Candidate { token: target, logit },
        rank: (1 + row::count_above(logits, logit) + row::count_equal(&logits[..target as usize], logit)) as u32,
        max,
        mass: row::mass_of_exp(logits, max),
    }
}

fn logprob(logit: f32, normalizer: f64) -> f32 {
    ((f64::from(logit) - normalizer) as f32).max(f32::MIN)
}

/// [`score`] for a row known to be finite and a target known to lie in it.
pub(super) fn token_logprobs(logits: &[f32], target: TokenId, count: u8, scratch: &mut Vec<Candidate>) -> TokenLogprobs {
    top_n(logits, usize::from(count), scratch);
    facts(logits, target).logprobs(scratch)
}
