//! How single tokens are written in log-probabilities.

use crate::generation::TokenId;
use crate::tokenizer::Tokenizer;
use std::fmt::Write;
use std::sync::Arc;

/// Writes tokens. Without a tokenizer a token is written as `token_id:7`.
#[derive(Clone, Debug)]
pub struct TokenText(pub Option<Arc<Tokenizer>>);

impl TokenText {
    /// The bytes the token stands for; none without a tokenizer.
    pub fn bytes(&self, token: TokenId) -> Vec<u8> {
        self.0.as_ref().map(|tokenizer| tokenizer.token_bytes(token)).unwrap_or_default()
    }

    /// For chat: what is not UTF-8 by itself appears as U+FFFD (the bytes stand beside it).
    pub fn lossy(&self, token: TokenId) -> String {
        match &self.0 {
            Some(tokenizer) => tokenizer.token_text(token),
            None => format!("token_id:{token}"),
        }
    }

    /// For completions, where token texts are keys: what is not UTF-8 by itself is spelled as `bytes:\xe2\x82`.
    pub fn unambiguous(&self, token: TokenId) -> String {
        let Some(tokenizer) = &self.0 else { return format!("token_id:{token}") };
        String::from_utf8(tokenizer.token_bytes(token)).unwrap_or_else(|error| {
            let mut text = "bytes:".to_owned();
            for byte in error.as_bytes() {
                let _ = write!(text, "\\x{byte:02x}"); // writing to a String cannot fail
            }
            text
        })
    }
}
