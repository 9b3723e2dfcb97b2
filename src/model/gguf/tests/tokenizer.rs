//! Tokenizers from keys beside the `tokenizer.json` that the keys were made of.

use super::{Draft, MetaValue, open_bytes, refused, text, texts, tiny};
use crate::model::gguf::metadata_of;
use crate::model::openelm::OpenElmConfig;
use crate::model::{Document, ModelFiles, ModelSource, TokenizerSource};
use crate::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;

fn document(bytes: Vec<u8>) -> Document {
    Document { name: "tokenizer.json".to_owned(), bytes: Cow::Owned(bytes) }
}

/// A draft whose model has as many rows as the tokenizer needs, with the tokenizer's keys.
fn draft(vocab_size: usize, json: &Document, config: Option<&Document>) -> Draft {
    let model = OpenElmConfig { vocab_size, eos_token_ids: Vec::new(), ..tiny(true) };
    let mut draft = Draft::of(&model);
    draft.metadata = metadata_of(&model, "test", (Some(json), config)).unwrap();
    draft
}

fn tokenizer(draft: &Draft) -> Tokenizer {
    let json = open_bytes(draft.bytes()).unwrap().tokenizer.expect("a tokenizer");
    Tokenizer::from_bytes(&json.tokenizer, Some(&json.config)).unwrap()
}

/// Some hundred texts: words and lines of documents, and what is odd.
fn samples() -> Vec<String> {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/README.md")).unwrap();
    let sources = concat!(include_str!("../../../tokenizer/encode.rs"), include_str!("../../../tokenizer/decoder.rs"));
    let mut samples: Vec<String> = document.lines().chain(sources.lines()).map(str::to_owned).collect();
    let odd = [
        "",
        " ",
        "  two  spaces ",
        "\n\n\ttabs",
        "Zürich naïve café",
        "日本語のテキスト",
        "🙂 emoji 👩‍👩‍👧",
        "</s> <s>",
        "a\u{0}b",
        "1234567 3.14",
        "I'm DON'T we'LL",
    ];
    samples.extend(odd.iter().map(|text| (*text).to_owned()));
    assert!(samples.len() > 400);
    samples
}

#[test]
fn the_file_that_was_written_comes_back_byte_for_byte() {
    let demo = ModelFiles::open(&ModelSource::Embedded, TokenizerSource::Model).unwrap();
    let (json, config) = (demo.tokenizer.as_ref().unwrap(), demo.tokenizer_config.as_ref());
    let draft = draft(3072, json, config);
    let model = open_bytes(draft.bytes()).unwrap();
    assert_eq!(model.tokenizer.as_ref().unwrap().tokenizer, json.bytes.as_ref());
    let (ours, theirs) = (tokenizer(&draft), Tokenizer::from_bytes(&json.bytes, config.map(|c| c.bytes.as_ref())).unwrap());
    assert_eq!((ours.bos_token(), ours.eos_token()), (theirs.bos_token(), theirs.eos_token()));
    assert_eq!(ours.chat_template_source(), theirs.chat_template_source());
}

/// Encodings by the keys alone and by the file they were made of: (equal, all).
fn agreement(json: &Document, config: Option<&Document>, vocab_size: usize) -> (usize, usize) {
    let mut draft = draft(vocab_size, json, config);
    draft.remove("tokenizer.huggingface.json");
    let (ours, theirs) = (tokenizer(&draft), Tokenizer::from_bytes(&json.bytes, config.map(|c| c.bytes.as_ref())).unwrap());
    assert_eq!((ours.bos_token(), ours.eos_token(), ours.vocab_size()), (theirs.bos_token(), theirs.eos_token(), theirs.vocab_size()));
    let mut equal = 0;
    let samples = samples();
    for sample in &samples {
        let (a, b) = (ours.encode_prompt(sample).unwrap(), theirs.encode_prompt(sample).unwrap());
        assert_eq!(ours.decode(&a, true), theirs.decode(&b, true));
        if a == b { equal += 1 } else { println!("{sample:?}: {a:?} {b:?}") }
    }
    (equal, samples.len())
}

#[test]
fn scores_give_the_encodings_of_llamas_merges() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures/llama-tokenizer");
    let read = |name| document(std::fs::read(folder.join(name)).expect("run `node tests/tools/llama_tokenizer.mjs` to make it"));
    let (equal, all) = agreement(&read("tokenizer.json"), Some(&read("tokenizer_config.json")), 32_000);
    assert_eq!(equal, all);
}

#[test]
fn scores_give_the_encodings_of_the_demo_model() {
    let demo = ModelFiles::open(&ModelSource::Embedded, TokenizerSource::Model).unwrap();
    let (equal, all) = agreement(demo.tokenizer.as_ref().unwrap(), demo.tokenizer_config.as_ref(), 3072);
    assert_eq!(equal, all);
}

/// A byte-level tokenizer of single characters and some words, cut by `pre`.
fn byte_level(pre: &str) -> Draft {
    let mut draft = Draft::of(&OpenElmConfig { vocab_size: 110, ..tiny(true) });
    let mut tokens: Vec<String> = (b'!'..=b'~').map(|byte| char::from(byte).to_string()).collect();
    tokens.extend(["Ġ", "Ċ", "12", "123", "1234", "ab", "Ġab", "<|end|>"].map(str::to_owned));
    let types = tokens.iter().map(|token| if token == "<|end|>" { 3 } else { 1 }).collect();
    draft.set("tokenizer.ggml.model", text("gpt2")).set("tokenizer.ggml.pre", text(pre));
    draft.set("tokenizer.ggml.bos_token_id", MetaValue::U32(101)).set("tokenizer.ggml.eos_token_id", MetaValue::U32(101));
    draft.set("tokenizer.ggml.tokens", MetaValue::Texts(tokens)).set("tokenizer.ggml.token_type", MetaValue::I32s(types));
    draft.set("tokenizer.ggml.merges", texts(&["1 2", "12 3", "123 4", "a b", "Ġ ab"]));
    draft
}

#[test]
fn byte_level_tokenizers_cut_words_as_the_file_says() {
    let pieces = |pre: &str, sample: &str| {
        let tokenizer = tokenizer(&byte_level(pre));
        let ids = tokenizer.encode(sample, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), sample);
        ids.iter().map(|&id| tokenizer.token_text(id)).collect::<Vec<_>>().join("|")
    };
    for pre in ["default", "gpt-2"] {
        assert_eq!(pieces(pre, "ab ab 1234<|end|>"), "ab| ab| |1234|<|end|>");
    }
    assert_eq!(pieces("smollm", "ab ab 1234"), "ab| ab| |1|2|3|4");
    assert_eq!(pieces("llama-bpe", "ab ab 1234"), "ab| ab| |123|4");
    assert_eq!(pieces("qwen2", "ab ab 1234"), "ab| ab| |1|2|3|4");
    refused(byte_level("deepseek-llm").open(), &["`tokenizer.ggml.pre`", "deepseek-llm", "smollm", "--tokenizer"]);
}

#[test]
fn the_first_token_is_added_where_the_file_or_its_kind_says_so() {
    let first = |draft: &Draft| tokenizer(draft).encode_prompt("a").unwrap().len() == 2;
    assert!(!first(&byte_level("smollm")));
    assert!(first(&byte_level("llama-bpe")));
    assert!(first(byte_level("smollm").set("tokenizer.ggml.add_bos_token", MetaValue::Bool(true))));
    assert!(!first(byte_level("llama-bpe").set("tokenizer.ggml.add_bos_token", MetaValue::Bool(false))));
}

#[test]
fn byte_level_tokenizers_are_written_with_the_name_of_their_rule() {
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2"] {
        let first = byte_level(pre);
        let json = open_bytes(first.bytes()).unwrap().tokenizer.unwrap();
        let second = draft(110, &document(json.tokenizer), Some(&document(json.config)));
        for key in ["ggml.model", "ggml.pre", "ggml.merges", "ggml.eos_token_id"] {
            let of =
                |draft: &Draft| draft.metadata.iter().find(|(name, _)| *name == format!("tokenizer.{key}")).map(|(_, value)| value.clone());
            assert_eq!(of(&second), of(&first), "{pre} {key}");
        }
    }
    let json = open_bytes(byte_level("gpt-2").bytes()).unwrap().tokenizer.unwrap();
    let mut changed: Value = serde_json::from_slice(&json.tokenizer).unwrap();
    changed["pre_tokenizer"] = json!({ "type": "Whitespace" });
    let model = OpenElmConfig { vocab_size: 110, ..tiny(true) };
    let refusal = metadata_of(&model, "x", (Some(&document(changed.to_string().into_bytes())), None)).unwrap_err().to_string();
    assert!(refusal.contains("cuts words"), "{refusal}");
}

#[test]
fn vocabularies_that_contradict_themselves_are_refused() {
    let llama = || {
        let mut draft = Draft::tiny();
        draft.set("tokenizer.ggml.model", text("llama")).set("tokenizer.ggml.tokens", texts(&["<unk>", "<s>", "</s>", "a"]));
        draft.set("tokenizer.ggml.scores", MetaValue::F32s(vec![0.0; 4]));
        draft
    };
    assert!(llama().open().is_ok());
    let with = |key: &str, value| {
        let mut draft = llama();
        draft.set(&format!("tokenizer.ggml.{key}"), value);
        draft.open()
    };
    refused(with("tokens", texts(&["a", "b", "b", "c"])), &["tokens[2]", "\"b\"", "token 1"]);
    refused(with("tokens", MetaValue::I32s(vec![1])), &["tokens", "an array of strings"]);
    refused(with("scores", MetaValue::F32s(vec![0.0; 3])), &["scores", "an array of 4"]);
    refused(with("scores", MetaValue::F32s(vec![f32::NAN; 4])), &["scores", "an array of 4"]);
    refused(with("token_type", MetaValue::I32s(vec![1, 1, 1, 9])), &["token_type[3]", "9", "1 to 6"]);
    refused(with("eos_token_id", MetaValue::U32(7)), &["eos_token_id", "one of the 4 tokens"]);
    refused(with("tokens", texts(&["a", "b", "c", &"d".repeat(600)])), &["tokens[3]", "600 bytes long"]);
    let mut merges = byte_level("gpt-2");
    merges.set("tokenizer.ggml.merges", texts(&["1 2", "12"]));
    refused(merges.open(), &["merges[1]", "\"12\"", "two tokens"]);
    merges.set("tokenizer.ggml.merges", texts(&["1 ü"]));
    refused(merges.open(), &["merges[0]"]);
}

#[test]
fn pieces_that_hold_each_other_take_no_more_room_than_the_file_allows() {
    let chains = ('a'..='h').flat_map(|c| (1..=400).map(move |n| c.to_string().repeat(n)));
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>"].into_iter().map(str::to_owned).chain(chains).collect();
    let mut draft = Draft::tiny();
    draft.set("tokenizer.ggml.model", text("llama")).set("tokenizer.ggml.scores", MetaValue::F32s(vec![0.0; tokens.len()]));
    draft.set("tokenizer.ggml.tokens", MetaValue::Texts(tokens));
    refused(draft.open(), &["tokenizer.ggml.tokens", "bytes of ways"]);
}
