//! How single tokens are written in log-probabilities.

use crate::generation::TokenId;
use crate::tokenizer::Tokenizer;
use std::fmt::Write;
use std::sync::Arc;

/// Writes tokens, as their text or as `token_id:7`.
#[derive(Clone, Debug)]
pub struct TokenText {
    tokenizer: Option<Arc<Tokenizer>>,
    as_ids: bool,
}

impl TokenText {
    /// Writes texts if there is a tokenizer and ids were not asked for.
    pub fn new(tokenizer: Option<Arc<Tokenizer>>, as_ids: bool) -> Self {
        Self { as_ids: as_ids || tokenizer.is_none(), tokenizer }
    }

    /// The tokenizer, where texts are written.
    fn texts(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_deref().filter(|_| !self.as_ids)
    }

    /// The bytes the token stands for; none without a tokenizer.
    pub fn bytes(&self, token: TokenId) -> Vec<u8> {
        self.tokenizer.as_ref().map(|tokenizer| tokenizer.token_bytes(token)).unwrap_or_default()
    }

    /// For chat: what is not UTF-8 by itself appears as U+FFFD (the bytes stand beside it).
    pub fn lossy(&self, token: TokenId) -> String {
        match self.texts() {
            Some(tokenizer) => tokenizer.token_text(token),
            None => format!("token_id:{token}"),
        }
    }

    /// For completions, where token texts are keys: what is not UTF-8 by itself is spelled as `bytes:\xe2\x82`.
    pub fn unambiguous(&self, token: TokenId) -> String {
        let Some(tokenizer) = self.texts() else { return format!("token_id:{token}") };
        String::from_utf8(tokenizer.token_bytes(token)).unwrap_or_else(|error| {
            let mut text = "bytes:".to_owned();
            for byte in error.as_bytes() {
                let _ = write!(text, "\\x{byte:02x}"); // writing to a String cannot fail
            }
            text
        })
    }
}
