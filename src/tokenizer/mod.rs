//! Text on both sides of the model: prompts and conversations to token ids, generated ids back to text.
//!
//! Called by `server` (and the command line) on its own threads; the engine never sees a string. The parts in the order of a request:
//! [`ChatTemplate`] renders a conversation, [`Tokenizer`] encodes it, [`Detokenizer`] turns each generated id into text as it comes,
//! [`StopMatcher`] finds stop strings in that text.
//!
//! **Architecture invariant:** no I/O and no clock; files come as bytes, the time as a value.
//!
//! **Architecture invariant:** there is one decoder. [`Tokenizer::decode`] runs the incremental one, so a streamed answer and a whole
//! one cannot differ; tests hold it against the `tokenizers` crate's own.
//!
//! **Architecture invariant:** a control token (a token the tokenizer calls special) enters a conversation only where the template
//! itself wrote it, never through the text of a message.
//!
//! It does not choose the template or the tokenizer (that is `config`'s and `model`'s), and knows no HTTP.

mod chat;
mod decoder;
mod detokenizer;
mod encode;
mod error;
mod load;
mod special;
mod stop;

pub use chat::{ChatInput, ChatMessage, ChatTemplate, RenderedChat};
pub use detokenizer::Detokenizer;
pub use error::{TemplateError, TokenizerError};
pub use special::SpecialTokens;
pub use stop::{StopMatcher, StopOutcome, StopStrings};

use crate::generation::TokenId;
use decoder::{DecodeState, Decoder};
use tokenizers::PreTokenizerWrapper;

#[cfg(test)]
mod testing;

/// A tokenizer.json with its tokenizer_config.json, ready to encode and decode. Immutable; share it in an `Arc`.
pub struct Tokenizer {
    /// Normalizer, pre-tokenizer, model and the vocabulary of added tokens. Special tokens are not matched by it.
    inner: tokenizers::Tokenizer,
    /// The pre-tokenizer of text that does not stand at the beginning, where that is another one.
    continuation_pre_tokenizer: Option<PreTokenizerWrapper>,
    special: SpecialTokens,
    decoder: Decoder,
    longest_token: Option<usize>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    chat_template: Option<String>,
}

impl Tokenizer {
    /// One more than the largest token id. Ids below it need not all exist.
    pub fn vocab_size(&self) -> usize {
        self.decoder.len()
    }

    /// A number of tokens that [`Self::encode`] makes at least of a text of `bytes` bytes, without special tokens added: so a text that
    /// is far too long can be refused without encoding it. 0 where the tokenizer may drop text.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        self.longest_token.filter(|&longest| longest > 0).map_or(0, |longest| bytes.div_ceil(longest))
    }

    /// The beginning-of-sequence token, its text and id.
    pub fn bos_token(&self) -> Option<(&str, TokenId)> {
        Some((self.special.bos_token()?, self.bos?))
    }

    /// The end-of-sequence token, its text and id.
    pub fn eos_token(&self) -> Option<(&str, TokenId)> {
        Some((self.special.eos_token()?, self.eos?))
    }

    /// The special tokens, which [`ChatInput`] needs.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The id of a token by its text as the vocabulary has it (`▁the`, `<0x0A>`, `</s>`).
    pub fn token_id(&self, token: &str) -> Option<TokenId> {
        self.inner.token_to_id(token)
    }

    /// The token's text as the vocabulary has it, if the id exists.
    pub fn token_piece(&self, id: TokenId) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether the token is special: one that decoding skips and that message text never becomes.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.decoder.is_special(id)
    }

    /// The chat template of tokenizer_config.json; of several named ones, the one named `default`.
    pub fn chat_template_source(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The text of `ids`. Ids that do not exist are left out, as are special tokens when they are to be skipped.
    pub fn decode(&self, ids: &[TokenId], skip_special_tokens: bool) -> String {
        let mut state = DecodeState::at_start(&self.decoder);
        let mut text = String::new();
        for &id in ids {
            state.push(&self.decoder, id, skip_special_tokens, &mut text);
        }
        state.finish(&self.decoder, &mut text);
        text
    }

    /// The bytes one token stands for, whatever surrounds it: a byte-fallback piece gives its byte, `▁` a space, a special token its
    /// text. Empty for an id that does not exist.
    pub fn token_bytes(&self, id: TokenId) -> Vec<u8> {
        self.decoder.bytes(id).to_vec()
    }

    /// [`Self::token_bytes`] as text; what is not UTF-8 by itself becomes U+FFFD.
    pub fn token_text(&self, id: TokenId) -> String {
        String::from_utf8_lossy(self.decoder.bytes(id)).into_owned()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos_token())
            .field("eos", &self.eos_token())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
