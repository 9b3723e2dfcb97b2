//! Text of a generated sequence, token by token.

use super::{DecodeState, Tokenizer};
use crate::generation::TokenId;
use std::sync::Arc;

/// Turns the tokens of one sequence into text as they come.
///
/// The deltas of [`Self::push`] and [`Self::finish`] together are byte for byte what decoding all ids at once gives. A delta is empty
/// while bytes wait for their neighbours: a newline that the tokenizer spells as a byte piece comes with the token after it.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    state: DecodeState,
    skip_special_tokens: bool,
}

impl Detokenizer {
    /// For a text of its own: the deltas together equal [`Tokenizer::decode`], which drops the space that encoding puts before a text.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> Self {
        let state = DecodeState::at_start(&tokenizer.decoder);
        Self { tokenizer, state, skip_special_tokens }
    }

    /// For a text that goes on after `prompt`, so that prompt and answer read as one text: a leading space is kept where the prompt
    /// ends in text, and dropped as in [`Self::new`] where it is empty or ends in a special token (text after one gets a space when it
    /// is encoded, and a model trained so generates it).
    pub fn after_prompt(tokenizer: Arc<Tokenizer>, prompt: &[TokenId], skip_special_tokens: bool) -> Self {
        match prompt.last() {
            Some(&last) if !tokenizer.is_special(last) => Self { tokenizer, state: DecodeState::in_text(), skip_special_tokens },
            _ => Self::new(tokenizer, skip_special_tokens),
        }
    }

    /// Takes the next token; returns the text that is certain now. Amortised constant work per byte of the token.
    pub fn push(&mut self, token: TokenId) -> String {
        let mut text = String::new();
        self.state.push(&self.tokenizer.decoder, token, self.skip_special_tokens, &mut text);
        text
    }

    /// The sequence is over: returns what was held back. An unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.state.finish(&self.tokenizer.decoder, &mut text);
        text
    }
}

impl std::fmt::Debug for Detokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Detokenizer").field("state", &self.state).finish_non_exhaustive()
    }
}
