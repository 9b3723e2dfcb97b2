//! A `tokenizer.json` as the keys that llama.cpp reads, and whole beside them.
//!
//! The keys say less than the file: scores order merges by the token they give, where the file orders pairs. So the file goes in as well,
//! under the key that the format has for it, and is what is read back here.

use super::gpt2::Split;
use crate::model::Document;
use crate::model::gguf::GgufError;
use crate::model::gguf::write::{MetaValue, Metadata};
use crate::model::openelm::OpenElmConfig;
use serde_json::{Map, Value};
use std::collections::HashMap;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

fn refuse<T>(reason: impl Into<String>) -> Result<T, GgufError> {
    Err(GgufError::NotWritable { reason: reason.into() })
}

/// A tokenizer's files, parsed.
struct Source {
    json: Value,
    config: Value,
    /// By id, as many as the model has rows.
    tokens: Vec<String>,
    types: Vec<i32>,
    ids: HashMap<String, u32>,
}

/// The keys `tokenizer.*` of a model.
///
/// # Errors
/// [`GgufError::NotWritable`] for a tokenizer that GGUF has no keys for.
pub(crate) fn metadata_of_tokenizer(
    config: &OpenElmConfig,
    (tokenizer, tokenizer_config): (Option<&Document>, Option<&Document>),
) -> Result<Metadata, GgufError> {
    let mut metadata = Vec::new();
    let mut add = |key: &str, value| metadata.push((format!("tokenizer.{key}"), value));
    let ids = match tokenizer {
        None => {
            add("ggml.model", MetaValue::Text("none".to_owned()));
            (config.bos_token_id, config.eos_token_ids.clone())
        }
        Some(document) => {
            let source = Source::read(document, tokenizer_config, config.vocab_size)?;
            source.add_model(&mut add)?;
            let bos = source.named("bos_token", "<s>");
            add("ggml.add_bos_token", MetaValue::Bool(bos.is_some()));
            add("ggml.add_eos_token", MetaValue::Bool(false));
            if let Some(template) = source.config.get("chat_template").and_then(Value::as_str) {
                add("chat_template", MetaValue::Text(template.to_owned()));
            }
            let text = String::from_utf8(document.bytes.to_vec()).or_else(|_| refuse(format!("{} is not UTF-8", document.name)))?;
            add("huggingface.json", MetaValue::Text(text));
            let eos = if config.eos_token_ids.is_empty() {
                source.named("eos_token", "</s>").into_iter().collect()
            } else {
                config.eos_token_ids.clone()
            };
            (bos.or(config.bos_token_id), eos)
        }
    };
    if ids.1.len() > 3 {
        return refuse(format!("{} tokens end a text, and the format names at most 3", ids.1.len()));
    }
    let ends = ["eos", "eot", "eom"].into_iter().zip(ids.1);
    for (name, id) in ids.0.map(|id| ("bos", id)).into_iter().chain(ends) {
        add(&format!("ggml.{name}_token_id"), MetaValue::U32(id));
    }
    Ok(metadata)
}

impl Source {
    fn read(tokenizer: &Document, config: Option<&Document>, vocab_size: usize) -> Result<Self, GgufError> {
        let parse = |document: &Document| {
            serde_json::from_slice::<Value>(&document.bytes).or_else(|error| refuse(format!("{}: not valid JSON: {error}", document.name)))
        };
        let json = parse(tokenizer)?;
        let config = config.map(parse).transpose()?.unwrap_or_else(|| Value::Object(Map::new()));
        let mut tokens = vec![None; vocab_size];
        let mut put = |id: Option<u64>, text: Option<&str>, kind: i32| {
            let place = id.zip(text).and_then(|(id, text)| Some((tokens.get_mut(usize::try_from(id).ok()?)?, text)));
            let Some((place, text)) = place else { return refuse(format!("{}: a token has no row in the model", tokenizer.name)) };
            *place = Some((text.to_owned(), kind));
            Ok(())
        };
        let Some(vocabulary) = json["model"]["vocab"].as_object() else {
            return refuse(format!("{}: it has no vocabulary", tokenizer.name));
        };
        for (text, id) in vocabulary {
            let is_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            put(id.as_u64(), Some(text), if is_byte { BYTE } else { NORMAL })?;
        }
        let unknown = json["model"]["unk_token"].as_str().unwrap_or("<unk>");
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let kind = match added["content"].as_str() {
                Some(text) if text == unknown => UNKNOWN,
                _ if added["special"] == true => CONTROL,
                _ => USER_DEFINED,
            };
            put(added["id"].as_u64(), added["content"].as_str(), kind)?;
        }
        // Readers want a token for every row.
        let (tokens, types): (Vec<_>, _) =
            tokens.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED))).unzip();
        let ids = tokens.iter().cloned().zip(0..).collect();
        Ok(Self { json, config, tokens, types, ids })
    }

    /// The token that the configuration names under `key`, else `usual`, if there is such a token.
    fn named(&self, key: &str, usual: &str) -> Option<u32> {
        let text = match self.config.get(key) {
            None => Some(usual),
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
            Some(value) => value.as_str(),
        };
        self.ids.get(text?).copied()
    }

    /// The merges as pairs; both forms of the file are read.
    fn merges(&self) -> Result<Vec<(&str, &str)>, GgufError> {
        let merges = self.json["model"]["merges"].as_array().into_iter().flatten();
        let pairs = merges.map(|merge| match merge {
            Value::String(text) => text.split_once(' '),
            _ => Some((merge.get(0)?.as_str()?, merge.get(1)?.as_str()?)),
        });
        pairs.collect::<Option<_>>().map_or_else(|| refuse("its tokenizer has a merge that is no pair"), Ok)
    }

    fn add_model(&self, add: &mut impl FnMut(&str, MetaValue)) -> Result<(), GgufError> {
        let model = &self.json["model"];
        if model["type"].as_str().is_some_and(|kind| kind != "BPE") {
            return refuse(format!("its tokenizer is {}, and only BPE is written", model["type"]));
        }
        if model["byte_fallback"] == true {
            self.add_pieces(add)?;
        } else {
            let split = Split::of(&self.json["pre_tokenizer"]);
            let Some(split) = split else { return refuse("its tokenizer cuts words in a way that GGUF has no name for") };
            add("ggml.model", MetaValue::Text("gpt2".to_owned()));
            add("ggml.pre", MetaValue::Text(split.name().to_owned()));
            add("ggml.merges", MetaValue::Texts(self.merges()?.into_iter().map(|(left, right)| format!("{left} {right}")).collect()));
        }
        add("ggml.tokens", MetaValue::Texts(self.tokens.clone()));
        add("ggml.token_type", MetaValue::I32s(self.types.clone()));
        if let Some(unknown) = model["unk_token"].as_str().and_then(|text| self.ids.get(text)) {
            add("ggml.unknown_token_id", MetaValue::U32(*unknown));
        }
        Ok(())
    }

    /// As SentencePiece's: the earlier a piece is merged, the higher its score.
    fn add_pieces(&self, add: &mut impl FnMut(&str, MetaValue)) -> Result<(), GgufError> {
        let merges = self.merges()?;
        let never = -(merges.len() as f32);
        let mut scores: Vec<f32> = self.types.iter().map(|kind| if *kind == NORMAL { never } else { 0.0 }).collect();
        for (rank, (left, right)) in merges.iter().enumerate().rev() {
            if let Some(&id) = self.ids.get(&format!("{left}{right}")) {
                scores[id as usize] = -(rank as f32);
            }
        }
        let has_prefix = self.json["normalizer"].to_string().contains("\"Prepend\"") || self.json["pre_tokenizer"]["type"] == "Metaspace";
        add("ggml.model", MetaValue::Text("llama".to_owned()));
        add("ggml.pre", MetaValue::Text("default".to_owned()));
        add("ggml.scores", MetaValue::F32s(scores));
        add("ggml.add_space_prefix", MetaValue::Bool(has_prefix));
        Ok(())
    }
}
