//! The model of the simulation: the next token is a function of the whole text before it.

use super::rng::mix;
use crate::generation::{FinishReason, StopCriteria, TokenId};

/// The state before the first token. It depends on the salt as keys and values would depend on an adapter, so that blocks shared across
/// salts are wrong content, not only a breach of privacy.
pub(super) fn root(salt: u64) -> u64 {
    mix(salt ^ 0x5eed)
}

/// The state after one more token.
pub(super) fn extend(state: u64, token: TokenId) -> u64 {
    mix(state.rotate_left(7) ^ u64::from(token).wrapping_add(0x9e37_79b9))
}

/// The token that follows a text.
pub(super) fn next_token(state: u64, vocab_size: u32) -> TokenId {
    (mix(state ^ 0x70cc) % u64::from(vocab_size)) as TokenId
}

/// What a sequence generates when nothing disturbs it.
#[derive(Clone, Debug)]
pub(super) struct SoloRun {
    pub(super) output: Vec<TokenId>,
    pub(super) reason: FinishReason,
}

pub(super) fn solo_run(mut state: u64, stop: &StopCriteria, vocab_size: u32) -> SoloRun {
    let mut output = Vec::new();
    for generated in 1..=stop.max_tokens {
        let token = next_token(state, vocab_size);
        output.push(token);
        if generated > stop.min_tokens && (stop.eos_token_ids.contains(&token) || stop.stop_token_ids.contains(&token)) {
            return SoloRun { output, reason: FinishReason::Stop };
        }
        state = extend(state, token);
    }
    SoloRun { output, reason: FinishReason::Length }
}
