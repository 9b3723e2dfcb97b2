//! Tokenizers for the tests of this module.

use super::Tokenizer;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// A tokenizer under test and the bytes it was made from, for the `tokenizers` crate as the oracle.
pub(super) struct Sample {
    pub(super) ours: Arc<Tokenizer>,
    pub(super) oracle: tokenizers::Tokenizer,
}

impl Sample {
    pub(super) fn new(json: &[u8], config: Option<&[u8]>) -> Self {
        let ours = Arc::new(Tokenizer::from_bytes(json, config).unwrap());
        Self { ours, oracle: tokenizers::Tokenizer::from_bytes(json).unwrap() }
    }

    pub(super) fn of_value(json: &Value) -> Self {
        Self::new(json.to_string().as_bytes(), None)
    }
}

/// The tokenizer of the demo model.
pub(super) static DEMO: LazyLock<Sample> = LazyLock::new(|| read("models/demo", "they are part of the repository"));

/// A tokenizer like Llama 2's, which a script makes since it cannot be in the repository.
pub(super) static LLAMA: LazyLock<Sample> =
    LazyLock::new(|| read("target/fixtures/llama-tokenizer", "run `node tests/tools/llama_tokenizer.mjs` to make them"));

fn read(folder: &str, hint: &str) -> Sample {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; {hint}", path.display()))
    };
    Sample::new(&file("tokenizer.json"), Some(&file("tokenizer_config.json")))
}

/// A small tokenizer of the Llama kind, with what the big ones have only here and there: ids that do not exist, a piece of two spaces, a
/// word that is an added token, special tokens that take white space with them.
pub(super) static SMALL: LazyLock<Sample> = LazyLock::new(|| Sample::of_value(&small()));

/// The JSON of [`SMALL`].
pub(super) fn small() -> Value {
    let mut vocab = serde_json::Map::new();
    let mut add = |piece: String| {
        let id = vocab.len() + usize::from(vocab.len() > 262) * 3; // ids 263 to 265 do not exist
        vocab.insert(piece, json!(id));
    };
    ["<unk>", "<s>", "</s>"].iter().for_each(|piece| add((*piece).to_owned()));
    (0..=255_u8).for_each(|byte| add(format!("<0x{byte:02X}>")));
    let pieces = ["▁", "▁▁", "a", "b", "c", "é", "x▁y", "ab", "▁a", "▁ab", "<", ">", "/", "s", "|", "u", "▁<", "</"];
    pieces.iter().for_each(|piece| add((*piece).to_owned()));
    // Added tokens that the model does not have would get ids of the library's own choice.
    [("<|u|>", 300), ("<sp>", 301), ("word", 302)].iter().for_each(|(piece, id)| {
        vocab.insert((*piece).to_owned(), json!(id));
    });
    let added = |id: u32, content: &str, special: bool, strips: bool| json!({"id": id, "content": content, "special": special, "normalized": false, "single_word": false, "lstrip": strips, "rstrip": strips});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [
            added(0, "<unk>", true, false), added(1, "<s>", true, false), added(2, "</s>", true, false),
            added(300, "<|u|>", true, false), added(301, "<sp>", true, true), added(302, "word", false, false),
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": vocab,
            "merges": [["▁", "▁"], ["a", "b"], ["▁", "a"], ["▁a", "b"], ["▁", "<"], ["<", "/"]],
        },
    })
}

/// [`small`] with some keys replaced.
pub(super) fn small_with(changes: Value) -> Value {
    let mut json = small();
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    json
}
