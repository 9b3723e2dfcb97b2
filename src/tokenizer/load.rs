//! Reading tokenizer.json and tokenizer_config.json.

use super::decoder::{Decoder, RawToken};
use super::special::{SpecialToken, SpecialTokens};
use super::{Tokenizer, TokenizerError};
use crate::generation::TokenId;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

/// Ids at or above this are a mistake in the file; the largest vocabularies in use have a quarter of a million.
const ID_LIMIT: TokenId = 1 << 22;

impl Tokenizer {
    /// Reads a tokenizer from the bytes of its files.
    ///
    /// The beginning- and end-of-sequence tokens are the configuration's `bos_token` and `eos_token`; where it does not say, `<s>` and
    /// `</s>` if they are special tokens.
    ///
    /// # Errors
    /// When a file is not what it should be, names a token that is not there, or has a decoder that cannot run token by token.
    pub fn from_bytes(tokenizer_json: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let invalid = |error: tokenizers::Error| TokenizerError::InvalidTokenizer { detail: error.to_string() };
        let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer_json).map_err(invalid)?;
        check_added_tokens(tokenizer_json, &inner)?;
        inner.with_truncation(None).map_err(invalid)?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(true); // typed text must not match them; `SpecialTokens::split` finds the others
        settle_model(&mut inner);

        let config = tokenizer_config.map(parse_config).transpose()?.unwrap_or_default();
        let vocabulary = vocabulary(&inner)?;
        let named = NamedTokens::read(&config, &inner)?;
        let special = special_tokens(&inner, &named);
        let tokens = raw_tokens(&inner, vocabulary, &special);
        let longest = tokens.iter().flatten().map(|token| token.text.len()).max();
        let decoder = Decoder::new(tokens, inner.get_decoder())?;
        let id = |token: &Option<String>| token.as_deref().and_then(|token| inner.token_to_id(token));
        let (bos, eos) = (id(&named.bos), id(&named.eos));
        let special = SpecialTokens::new(special.into_values().collect(), named.bos, named.eos)?;
        Ok(Self {
            longest_token: longest.filter(|_| keeps_all_text(&inner)),
            continuation_pre_tokenizer: inner.get_pre_tokenizer().and_then(continuation_of),
            chat_template: chat_template(&config)?,
            inner,
            special,
            decoder,
            bos,
            eos,
        })
    }
}

/// The part of tokenizer.json in which tokens have explicit ids.
#[derive(Deserialize)]
struct AddedTokens {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: TokenId,
    content: String,
}

/// The library ignores the ids of added tokens and numbers them anew; a file in which that makes a difference would run a model with
/// wrong tokens.
fn check_added_tokens(tokenizer_json: &[u8], inner: &tokenizers::Tokenizer) -> Result<(), TokenizerError> {
    let file: AddedTokens =
        serde_json::from_slice(tokenizer_json).map_err(|error| TokenizerError::InvalidTokenizer { detail: error.to_string() })?;
    for AddedToken { id: found, content: token } in file.added_tokens {
        match inner.token_to_id(&token) {
            Some(expected) if expected != found => return Err(TokenizerError::AddedTokenId { token, found, expected }),
            _ => {}
        }
    }
    Ok(())
}

/// Turns off what makes encoding random (dropout), and a cache that does nothing but keep prompts in memory where the whole text is one
/// word.
fn settle_model(inner: &mut tokenizers::Tokenizer) {
    let one_word = inner.get_pre_tokenizer().is_none();
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && (one_word || bpe.dropout.is_some())
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        if one_word {
            bpe.resize_cache(0);
        }
        inner.with_model(bpe);
    }
}

/// The ids in use, checked.
fn vocabulary(inner: &tokenizers::Tokenizer) -> Result<Vec<TokenId>, TokenizerError> {
    let mut ids = Vec::new();
    for (token, id) in inner.get_vocab(true) {
        if id >= ID_LIMIT {
            return Err(TokenizerError::IdOutOfRange { token, id, limit: ID_LIMIT });
        }
        ids.push(id);
    }
    if ids.is_empty() { Err(TokenizerError::EmptyVocabulary) } else { Ok(ids) }
}

/// The special tokens by id: those tokenizer.json calls special, and those the configuration names.
fn special_tokens(inner: &tokenizers::Tokenizer, named: &NamedTokens) -> BTreeMap<TokenId, SpecialToken> {
    let is_unknown = |content: &str| named.unknown.as_deref().map_or(matches!(content, "<unk>" | "[UNK]"), |unknown| unknown == content);
    let mut tokens = BTreeMap::new();
    for (id, token) in inner.get_added_tokens_decoder() {
        if token.special && !token.content.is_empty() {
            let unknown = is_unknown(&token.content);
            let (single_word, lstrip, rstrip) = (token.single_word, token.lstrip, token.rstrip);
            tokens.insert(id, SpecialToken { content: token.content, id, unknown, single_word, lstrip, rstrip });
        }
    }
    for content in [&named.bos, &named.eos].into_iter().flatten() {
        if let Some(id) = inner.token_to_id(content) {
            tokens.entry(id).or_insert_with(|| SpecialToken {
                content: content.clone(),
                id,
                unknown: false,
                single_word: false,
                lstrip: false,
                rstrip: false,
            });
        }
    }
    tokens
}

/// Every token's text by id. A special token is its plain text, also where the file has it normalized.
fn raw_tokens(inner: &tokenizers::Tokenizer, ids: Vec<TokenId>, special: &BTreeMap<TokenId, SpecialToken>) -> Vec<Option<RawToken>> {
    let len = ids.iter().max().map_or(0, |&id| id as usize + 1);
    let mut tokens: Vec<Option<RawToken>> = std::iter::repeat_with(|| None).take(len).collect();
    for id in ids {
        let text = special.get(&id).map(|token| token.content.clone()).or_else(|| inner.id_to_token(id));
        tokens[id as usize] = text.map(|text| RawToken { text, special: special.contains_key(&id) });
    }
    tokens
}

/// The pre-tokenizer for text behind a special token: Metaspace puts its mark only before a text that stands first, if so told.
fn continuation_of(pre_tokenizer: &PreTokenizerWrapper) -> Option<PreTokenizerWrapper> {
    match pre_tokenizer {
        PreTokenizerWrapper::Metaspace(metaspace) if metaspace.prepend_scheme == PrependScheme::First => {
            let mut metaspace = metaspace.clone();
            metaspace.set_prepend_scheme(PrependScheme::Never);
            Some(PreTokenizerWrapper::Metaspace(metaspace))
        }
        PreTokenizerWrapper::Sequence(sequence) => {
            let mut sequence = sequence.clone();
            let mut changed = false;
            for part in sequence.as_mut() {
                if let Some(continuation) = continuation_of(part) {
                    (*part, changed) = (continuation, true);
                }
            }
            changed.then_some(PreTokenizerWrapper::Sequence(sequence))
        }
        _ => None,
    }
}

/// Whether every byte of a text ends up in some token: then no token stands for more bytes than the vocabulary writes it with (a space
/// is one byte in a text and three there).
fn keeps_all_text(inner: &tokenizers::Tokenizer) -> bool {
    let keeps = |normalizer: &NormalizerWrapper| match normalizer {
        NormalizerWrapper::Prepend(_) => true,
        // A literal space becomes something longer: as JSON, since the library tells no other way.
        NormalizerWrapper::Replace(replace) => {
            serde_json::to_value(replace).is_ok_and(|json| json["pattern"]["String"] == " " && !replace.content.is_empty())
        }
        _ => false,
    };
    let normalizer_keeps = match inner.get_normalizer() {
        None => true,
        Some(NormalizerWrapper::Sequence(sequence)) => sequence.as_ref().iter().all(keeps),
        Some(single) => keeps(single),
    };
    let bytes_fall_back = matches!(inner.get_model(), ModelWrapper::BPE(bpe) if bpe.byte_fallback && bpe.unk_token.is_some())
        && (0..=255_u8).all(|byte| inner.token_to_id(&format!("<0x{byte:02X}>")).is_some());
    let added_keep = inner.get_added_tokens_decoder().values().all(|token| !token.lstrip && !token.rstrip);
    normalizer_keeps && bytes_fall_back && added_keep && inner.get_pre_tokenizer().is_none()
}

fn parse_config(bytes: &[u8]) -> Result<Map<String, Value>, TokenizerError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(config)) => Ok(config),
        Ok(other) => Err(TokenizerError::InvalidConfig { detail: format!("it is {}", kind_of(&other)) }),
        Err(error) => Err(TokenizerError::InvalidConfig { detail: error.to_string() }),
    }
}

/// Tokens with a role.
struct NamedTokens {
    bos: Option<String>,
    eos: Option<String>,
    unknown: Option<String>,
}

impl NamedTokens {
    fn read(config: &Map<String, Value>, inner: &tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        let known = |key: &'static str, usual: &str| match config.get(key) {
            None => {
                let added = inner.get_added_vocabulary();
                Ok(added.is_special_token(usual).then(|| usual.to_owned()))
            }
            Some(value) => match token_name(key, value)? {
                Some(token) if inner.token_to_id(&token).is_none() => Err(TokenizerError::UnknownToken { key, token }),
                token => Ok(token),
            },
        };
        let unknown = config.get("unk_token").map(|value| token_name("unk_token", value)).transpose()?.flatten();
        Ok(Self { bos: known("bos_token", "<s>")?, eos: known("eos_token", "</s>")?, unknown })
    }
}

/// A token is named by its text, or by an object that holds it as `content`.
fn token_name(key: &'static str, value: &Value) -> Result<Option<String>, TokenizerError> {
    let content = if let Value::Object(token) = value { token.get("content").unwrap_or(value) } else { value };
    match content {
        Value::Null => Ok(None),
        Value::String(token) => Ok(Some(token.clone())),
        other => Err(TokenizerError::InvalidConfigKey {
            key,
            found: kind_of(other),
            expected: "a token's text, an object with its text as `content`, or null",
        }),
    }
}

/// A template, or a list of named ones of which `default` counts.
fn chat_template(config: &Map<String, Value>) -> Result<Option<String>, TokenizerError> {
    let wrong = |found: String| TokenizerError::InvalidConfigKey {
        key: "chat_template",
        found,
        expected: "a template, or a list of {name, template} with one named \"default\"",
    };
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(templates)) => {
            let named = |wanted: &str| templates.iter().find(|template| template.get("name").and_then(Value::as_str) == Some(wanted));
            let template = named("default").and_then(|template| template.get("template")).and_then(Value::as_str);
            template.map(|template| Some(template.to_owned())).ok_or_else(|| {
                let names: Vec<&str> = templates.iter().filter_map(|template| template.get("name")?.as_str()).collect();
                wrong(format!("a list with the names {names:?}"))
            })
        }
        Some(other) => Err(wrong(kind_of(other))),
    }
}

/// A value as an error names it: scalars as they are, others by their kind.
fn kind_of(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object without it".to_owned(),
        scalar => scalar.to_string(),
    }
}
