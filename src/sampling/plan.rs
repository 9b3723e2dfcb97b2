//! What a request's parameters come down to for one token: numbers with which every device computes alike.

use super::SampleSpec;
use super::philox::{RandomKey, random};
use crate::generation::SamplingParams;

/// Temperatures below this are greedy, as in vLLM: dividing by them would only overflow.
const GREEDY_TEMPERATURE: f32 = 1e-5;

/// How one token is chosen from a row to which edits and masks were applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Only the most likely token can be chosen; all else does not matter.
    pub is_greedy: bool,
    /// What distances from the largest logit are multiplied with: 1 / temperature.
    pub scale: f32,
    /// Tokens whose weight, relative to the largest, is below this are not chosen.
    pub min_p: f32,
    /// So many of the most likely tokens are kept; 0 = all.
    pub top_k: u32,
    /// Share of the mass that tokens are kept for, in units of 2^-64; 0 = all of it.
    pub nucleus: u64,
    /// Place of the chosen token in the mass, in units of 2^-64 of it.
    pub random: u64,
}

impl Plan {
    /// What `spec` asks for.
    pub fn new(spec: &SampleSpec<'_>) -> Self {
        let params = spec.params;
        let key =
            RandomKey { seed: params.seed, prompt_index: spec.prompt_index, choice_index: spec.choice_index, position: spec.position };
        Self {
            is_greedy: is_greedy(params),
            scale: 1.0 / params.temperature,
            min_p: params.min_p,
            top_k: params.top_k,
            nucleus: nucleus(params.top_p),
            random: random(key),
        }
    }
}

/// Whether only the most likely token can be chosen.
fn is_greedy(params: &SamplingParams) -> bool {
    params.temperature < GREEDY_TEMPERATURE || params.top_k == 1 || params.top_p <= 0.0
}

/// `top_p` in units of 2^-64: exact from 2^-40 on, and at least one unit.
fn nucleus(top_p: f32) -> u64 {
    if top_p >= 1.0 { 0 } else { ((f64::from(top_p) * 18_446_744_073_709_551_616.0) as u64).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact() {
        assert_eq!([0.5, 0.75, 1.0, 1.5].map(nucleus), [1 << 63, 3 << 62, 0, 0]);
        assert_eq!(nucleus(f32::from_bits(1)), 1);
        assert_eq!(nucleus(1.0 - f32::EPSILON / 2.0), u64::MAX - (1 << 40) + 1);
    }
}
