//! Text to token ids.
//!
//! A text is cut at its special tokens first; each stretch between them goes through normalizer, pre-tokenizer and model by itself, as
//! the `tokenizers` crate does it, so that a Llama tokenizer begins every stretch with `▁`. Cutting here rather than there lets a
//! special token that a user typed stay text.

use super::special::Segment;
use super::{RenderedChat, Tokenizer, TokenizerError};
use crate::generation::TokenId;
use std::ops::Range;
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizer};

impl Tokenizer {
    /// Encodes a prompt: exactly one beginning-of-sequence token, also if the text begins with it or the tokenizer's own post-processor
    /// would add none. Special tokens written in the text are special tokens.
    ///
    /// # Errors
    /// When the library cannot encode the text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        Ok(self.with_one_bos(self.encode_stretches(text, &[])?))
    }

    /// Encodes a text: with special tokens added as [`Self::encode_prompt`] does, or the text alone.
    ///
    /// # Errors
    /// When the library cannot encode the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>, TokenizerError> {
        if add_special_tokens { self.encode_prompt(text) } else { self.encode_stretches(text, &[]) }
    }

    /// Encodes a rendered conversation: one beginning-of-sequence token, whether the template wrote it or not; special tokens where the
    /// template wrote them, and none from what was typed.
    ///
    /// # Errors
    /// When the library cannot encode the text.
    pub fn encode_chat(&self, rendered: &RenderedChat) -> Result<Vec<TokenId>, TokenizerError> {
        Ok(self.with_one_bos(self.encode_stretches(rendered.text(), rendered.typed())?))
    }

    /// Makes the leading run of beginning-of-sequence tokens exactly one long. A tokenizer without such a token adds none.
    fn with_one_bos(&self, mut ids: Vec<TokenId>) -> Vec<TokenId> {
        if let Some(bos) = self.bos {
            let leading = ids.iter().take_while(|&&id| id == bos).count();
            ids.splice(..leading, [bos]);
        }
        ids
    }

    fn encode_stretches(&self, text: &str, typed: &[Range<usize>]) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ids = Vec::new();
        for segment in self.special.split(text, typed) {
            match segment {
                Segment::Token(id) => ids.push(id),
                Segment::Text(range) => self.encode_text(text, range, &mut ids)?,
            }
        }
        Ok(ids)
    }

    /// Encodes a stretch without special tokens.
    fn encode_text(&self, text: &str, range: Range<usize>, ids: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        let failed = |error: tokenizers::Error| TokenizerError::Encode { detail: error.to_string() };
        let at_start = range.start == 0;
        let first = ids.len();
        let mut splits = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), &text[range]);
        let continuation = self.continuation_pre_tokenizer.as_ref().filter(|_| !at_start);
        if let Some(pre_tokenizer) = continuation.or(self.inner.get_pre_tokenizer()) {
            pre_tokenizer.pre_tokenize(&mut splits).map_err(failed)?;
        }
        self.inner.get_model().tokenize_in_pretokenized(&mut splits, None).map_err(failed)?;
        for (_, _, tokens) in splits.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            ids.extend(tokens.iter().flatten().map(|token| token.id));
        }
        // BPE reaches a special token only if the file has merges that spell it; other models look whole words up.
        match ids[first..].iter().find_map(|&id| self.is_special(id).then(|| self.special.control_token(id)).flatten()) {
            Some(token) => Err(TokenizerError::TextBecameControl { token: token.to_owned() }),
            None => Ok(()),
        }
    }
}
