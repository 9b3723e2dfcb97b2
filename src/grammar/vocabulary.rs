//! What the tokens spell, as `llguidance` wants to know it.

use super::calls::CallSyntax;
use crate::generation::TokenId;
use crate::tokenizer::Tokenizer;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use std::sync::Arc;

/// The tokens of a model with `vocab_size` logits; `eos` end a text, the first of them by its own.
///
/// Special tokens spell nothing, so that no form leads to one, but for those that mark calls of tools in some vocabularies.
pub(super) fn environment(tokenizer: &Tokenizer, eos: &[TokenId], vocab_size: usize) -> Option<TokEnv> {
    let first = *eos.first()?;
    let words: Vec<Vec<u8>> = (0..vocab_size as TokenId).map(|id| spelling(tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(vocab_size as u32, first), &words).with_eos_tokens(eos);
    Some(Arc::new(ApproximateTokEnv::new(trie)))
}

fn spelling(tokenizer: &Tokenizer, id: TokenId) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    if tokenizer.is_special(id) && !CallSyntax::is_marker(&bytes) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], &bytes[..]].concat();
    }
    bytes
}
