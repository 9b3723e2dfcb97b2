//! The tokens of a file and what each is for.

use crate::model::gguf::GgufError;
use crate::model::gguf::error::show;
use crate::model::gguf::file::Gguf;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

const TOKENS: &str = "tokenizer.ggml.tokens";

/// What a token is for, by the numbers of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    Unknown,
    Control,
    /// Found in a text before anything else.
    UserDefined,
    Unused,
    /// Stands for one byte.
    Byte,
}

/// All tokens.
pub(super) struct Vocabulary<'a> {
    /// By id.
    pub(super) tokens: Vec<&'a str>,
    pub(super) kinds: Vec<TokenKind>,
    pub(super) ids: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    /// Reads tokens and their types.
    pub(super) fn read(gguf: &Gguf<'a>) -> Result<Self, GgufError> {
        let tokens = gguf.texts(TOKENS)?.filter(|tokens| !tokens.is_empty());
        let tokens = tokens.ok_or_else(|| gguf.wrong(TOKENS, "an array of strings"))?;
        let mut ids = HashMap::new();
        for (token, id) in tokens.iter().zip(0_u32..) {
            match ids.entry(*token) {
                Entry::Vacant(entry) => _ = entry.insert(id),
                Entry::Occupied(entry) => {
                    let (key, found) = (format!("{TOKENS}[{id}]"), format!("\"{}\"", show(token)));
                    return Err(GgufError::Key { key, found, wanted: format!("another text than that of token {}", entry.get()) });
                }
            }
        }
        let kinds = kinds(gguf, tokens.len())?;
        let mut vocabulary = Self { tokens, kinds, ids };
        if !gguf.metadata.contains_key("tokenizer.ggml.token_type") {
            for name in ["bos", "eos"] {
                if let Some(id) = vocabulary.named(gguf, &format!("tokenizer.ggml.{name}_token_id"))? {
                    vocabulary.kinds[id as usize] = TokenKind::Control;
                }
            }
        }
        Ok(vocabulary)
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The token whose id `key` holds.
    pub(super) fn named(&self, gguf: &Gguf<'_>, key: &str) -> Result<Option<u32>, GgufError> {
        match gguf.token_id(key)? {
            Some(id) if id as usize >= self.len() => Err(gguf.wrong(key, format!("the id of one of the {} tokens", self.len()))),
            id => Ok(id),
        }
    }

    /// The token that text becomes where no other fits.
    pub(super) fn unknown(&self, gguf: &Gguf<'_>) -> Result<Option<u32>, GgufError> {
        let of_kind = || self.kinds.iter().position(|kind| *kind == TokenKind::Unknown).map(|id| id as u32);
        Ok(self.named(gguf, "tokenizer.ggml.unknown_token_id")?.or_else(of_kind))
    }

    /// Entries of `added_tokens`: what is found in a text before it is taken apart.
    pub(super) fn added(&self) -> impl Iterator<Item = Value> {
        let tokens = self.tokens.iter().zip(&self.kinds).zip(0_u32..).filter(|((token, _), _)| !token.is_empty());
        tokens.filter_map(|((token, kind), id)| {
            let special = match kind {
                TokenKind::Control | TokenKind::Unknown => true,
                TokenKind::UserDefined => false,
                TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => return None,
            };
            Some(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special,
            }))
        })
    }
}

fn kinds(gguf: &Gguf<'_>, count: usize) -> Result<Vec<TokenKind>, GgufError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(array) = gguf.array(KEY)? else { return Ok(vec![TokenKind::Normal; count]) };
    if array.len() != count {
        return Err(gguf.wrong(KEY, format!("an array of {count}, one for each token")));
    }
    let kind = |(index, value): (usize, crate::model::gguf::value::Value<'_>)| match value.as_u64() {
        Some(0 | 1) => Ok(TokenKind::Normal), // 0: undefined
        Some(2) => Ok(TokenKind::Unknown),
        Some(3) => Ok(TokenKind::Control),
        Some(4) => Ok(TokenKind::UserDefined),
        Some(5) => Ok(TokenKind::Unused),
        Some(6) => Ok(TokenKind::Byte),
        _ => Err(GgufError::Key { key: format!("{KEY}[{index}]"), found: value.describe(), wanted: "a type from 1 to 6".into() }),
    };
    array.iter().enumerate().map(kind).collect()
}
