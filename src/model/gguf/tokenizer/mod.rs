//! The tokenizer of a GGUF file as `tokenizer.json` and `tokenizer_config.json`, which the text side reads.
//!
//! Two kinds are served: `llama` (SentencePiece's BPE with scores) and `gpt2` (byte-level BPE with merges). A file that carries a whole
//! `tokenizer.json` under `tokenizer.huggingface.json` gives that one.

mod export;
mod gpt2;
mod llama;
mod vocabulary;

pub(super) use export::metadata_of_tokenizer;

use super::GgufError;
use super::file::Gguf;
use serde_json::{Value, json};
use vocabulary::Vocabulary;

/// A tokenizer as two JSON files.
#[derive(Debug)]
pub(crate) struct TokenizerJson {
    /// `tokenizer.json`.
    pub(crate) tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub(crate) config: Vec<u8>,
}

/// What replaces a tokenizer that is not served, for messages.
const REMEDY: &str = "(--tokenizer FILE|DIR names another tokenizer)";

/// Reads the tokenizer; `None` when the file has none.
///
/// # Errors
/// The first key that cannot be used.
pub(super) fn read(gguf: &Gguf<'_>) -> Result<Option<TokenizerJson>, GgufError> {
    let kind = match gguf.text("tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some(kind) => kind,
    };
    let vocabulary = Vocabulary::read(gguf)?;
    let (tokenizer, adds_bos) = match (kind, gguf.text("tokenizer.huggingface.json")?) {
        ("llama" | "gpt2", Some(whole)) => (whole.as_bytes().to_vec(), kind == "llama"),
        ("llama", None) => (to_bytes(&llama::tokenizer(gguf, &vocabulary)?), true),
        ("gpt2", None) => {
            let split = gpt2::Split::read(gguf)?;
            (to_bytes(&gpt2::tokenizer(gguf, &vocabulary, split)?), split.adds_bos())
        }
        _ => return Err(gguf.wrong("tokenizer.ggml.model", format!("\"llama\" or \"gpt2\" {REMEDY}"))),
    };
    let adds_bos = gguf.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
    let config = config(gguf, &vocabulary, adds_bos)?;
    Ok(Some(TokenizerJson { tokenizer, config: to_bytes(&config) }))
}

fn to_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// `tokenizer_config.json`. The text side puts the token that begins a sequence before every prompt, so a file that says not to names none.
fn config(gguf: &Gguf<'_>, vocabulary: &Vocabulary<'_>, adds_bos: bool) -> Result<Value, GgufError> {
    let named = |name: &str| vocabulary.named(gguf, &format!("tokenizer.ggml.{name}_token_id"));
    let (bos, eos, unknown) = (named("bos")?, named("eos")?, vocabulary.unknown(gguf)?);
    let text = |id: Option<u32>| id.map(|id| vocabulary.tokens[id as usize]);
    let mut config = json!({
        "bos_token": text(bos.filter(|_| adds_bos)),
        "eos_token": text(eos),
        "unk_token": text(unknown),
    });
    if let Some(template) = gguf.text("tokenizer.chat_template")? {
        config["chat_template"] = template.into();
    }
    Ok(config)
}

/// `tokenizer.json` around a model. Special tokens come as the library wants added tokens.
fn assemble(vocabulary: &Vocabulary<'_>, parts: Value, model: Value) -> Value {
    let mut tokenizer = json!({ "version": "1.0", "truncation": null, "padding": null });
    tokenizer["added_tokens"] = vocabulary.added().collect();
    for name in ["normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        tokenizer[name] = parts.get(name).cloned().unwrap_or(Value::Null);
    }
    tokenizer["model"] = model;
    tokenizer
}

/// A BPE model over the whole vocabulary, with what is particular to a kind in `options`.
fn bpe(vocabulary: &Vocabulary<'_>, merges: Vec<Value>, options: Value) -> Value {
    let mut model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
    });
    if let Value::Object(options) = options {
        options.into_iter().for_each(|(key, value)| model[key] = value);
    }
    model["vocab"] = vocabulary.tokens.iter().zip(0_u32..).map(|(token, id)| ((*token).to_owned(), Value::from(id))).collect();
    model["merges"] = merges.into();
    model
}
