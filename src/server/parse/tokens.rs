//! Parameters that name tokens.

use super::Bounds;
use crate::generation::{TokenId, TokenMask};
use crate::server::error::ApiError;
use std::sync::Arc;

/// Most tokens that end a choice: each is looked for after every token.
const MAX_STOP_TOKENS: usize = 1024;
/// Most tokens whose log-probabilities are listed.
const MAX_LOGPROB_TOKENS: usize = 128;
/// Most words that are not generated, and their bytes together: they are looked for before every token, and encoded on the spot.
const MAX_BAD_WORDS: usize = 64;
const MAX_BAD_WORD_BYTES: usize = 4096;

/// `ids` as ids of tokens.
///
/// # Errors
/// 400, naming `param`, if one is not in the vocabulary.
pub fn ids(param: impl Into<String>, ids: &[i64], vocab_size: usize) -> Result<Vec<TokenId>, ApiError> {
    let id = |&id: &i64| TokenId::try_from(id).ok().filter(|&id| (id as usize) < vocab_size).ok_or(id);
    ids.iter()
        .map(id)
        .collect::<Result<_, _>>()
        .map_err(|id| ApiError::invalid(param, format!("must have token ids between 0 and {}, got {id}", vocab_size.saturating_sub(1))))
}

/// `stop_token_ids`.
pub(super) fn stop_tokens(tokens: Option<&[i64]>, bounds: &Bounds<'_>) -> Result<Arc<[TokenId]>, ApiError> {
    distinct("stop_token_ids", tokens, MAX_STOP_TOKENS, bounds)
}

/// `logprob_token_ids`.
pub(super) fn logprob_tokens(tokens: Option<&[i64]>, bounds: &Bounds<'_>) -> Result<Arc<[TokenId]>, ApiError> {
    distinct("logprob_token_ids", tokens, MAX_LOGPROB_TOKENS, bounds)
}

/// The tokens of a list, each once, ascending.
fn distinct(param: &str, tokens: Option<&[i64]>, most: usize, bounds: &Bounds<'_>) -> Result<Arc<[TokenId]>, ApiError> {
    let mut tokens = ids(param, tokens.unwrap_or_default(), bounds.vocab_size)?;
    tokens.sort_unstable();
    tokens.dedup();
    if tokens.len() > most {
        return Err(ApiError::invalid(param, format!("must have at most {most} tokens, got {}", tokens.len())));
    }
    Ok(tokens.into())
}

/// `allowed_token_ids`.
pub(super) fn allowed_tokens(tokens: Option<&[i64]>, bounds: &Bounds<'_>) -> Result<Option<Arc<TokenMask>>, ApiError> {
    let Some(tokens) = tokens else { return Ok(None) };
    if tokens.is_empty() {
        return Err(ApiError::invalid("allowed_token_ids", "must not be empty: nothing could be generated"));
    }
    let tokens = ids("allowed_token_ids", tokens, bounds.vocab_size)?;
    Ok(Some(Arc::new(TokenMask::of(&tokens, bounds.vocab_size))))
}

/// `bad_words`, to be encoded.
pub(super) fn bad_words(words: Option<Vec<String>>, has_tokenizer: bool) -> Result<Vec<String>, ApiError> {
    let words = words.unwrap_or_default();
    let invalid = |problem: String| Err(ApiError::invalid("bad_words", problem));
    if words.len() > MAX_BAD_WORDS {
        return invalid(format!("must have at most {MAX_BAD_WORDS} words, got {}", words.len()));
    }
    let bytes: usize = words.iter().map(String::len).sum();
    if bytes > MAX_BAD_WORD_BYTES {
        return invalid(format!("must have at most {MAX_BAD_WORD_BYTES} bytes together, got {bytes}"));
    }
    if let Some(index) = words.iter().position(|word| word.trim().is_empty()) {
        return invalid(format!("must not have empty words; word {index} is empty"));
    }
    if !words.is_empty() && !has_tokenizer {
        return Err(ApiError::unsupported("bad_words", "it runs without a tokenizer"));
    }
    Ok(words)
}
