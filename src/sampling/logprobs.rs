//! Log-probabilities: log-softmax of unmodified logits, rank, and the most likely alternatives.

use super::order::{Candidate, top_n};
use super::row;
use crate::generation::{TokenId, TokenLogprob, TokenLogprobs};

/// Log-probabilities of `target` and of the `top_n` most likely tokens under `logits`; `None` when a logit is NaN or infinite, or `target` lies
/// outside the row.
///
/// The logarithm of the sum is taken in f64; equal logits give equal bits, so a target that is the most likely token has exactly `top[0].logprob`.
pub fn score(logits: &[f32], target: TokenId, top_n: u8) -> Option<TokenLogprobs> {
    if row::first_non_finite(logits).is_some() || target as usize >= logits.len() {
        return None;
    }
    Some(token_logprobs(logits, target, top_n, &mut Vec::new()))
}

/// Log-probabilities of `target` and of the tokens in `listed`, best first.
pub(super) fn logprobs_of(logits: &[f32], target: TokenId, listed: &[TokenId]) -> TokenLogprobs {
    let mut logprobs = token_logprobs(logits, target, 0, &mut Vec::new());
    let normalizer = row::log_sum_exp(logits);
    let of = |&token: &TokenId| TokenLogprob { token, logprob: logprob(logits[token as usize], normalizer) };
    logprobs.top = listed.iter().map(of).collect();
    logprobs.top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob).then(a.token.cmp(&b.token)));
    logprobs
}

fn logprob(logit: f32, normalizer: f64) -> f32 {
    ((f64::from(logit) - normalizer) as f32).max(f32::MIN)
}

/// [`score`] for a row known to be finite and a target known to lie in it.
pub(super) fn token_logprobs(logits: &[f32], target: TokenId, count: u8, scratch: &mut Vec<Candidate>) -> TokenLogprobs {
    let normalizer = row::log_sum_exp(logits);
    let value = logits[target as usize];
    let rank = 1 + row::count_above(logits, value) + row::count_equal(&logits[..target as usize], value);
    top_n(logits, usize::from(count), scratch);
    TokenLogprobs {
        chosen: TokenLogprob { token: target, logprob: logprob(value, normalizer) },
        rank: rank as u32,
        top: scratch
            .iter()
            .map(|candidate| TokenLogprob { token: candidate.token, logprob: logprob(candidate.logit, normalizer) })
            .collect(),
    }
}
