use crate::tokenizer::testing::{DEMO, LLAMA, small, small_with};
use crate::tokenizer::{Tokenizer, TokenizerError};
use serde_json::{Value, json};

fn load(json: &Value, config: Option<Value>) -> Result<Tokenizer, TokenizerError> {
    let config = config.map(|config| config.to_string());
    Tokenizer::from_bytes(json.to_string().as_bytes(), config.as_deref().map(str::as_bytes))
}

fn refusal(json: &Value, config: Option<Value>) -> String {
    load(json, config).unwrap_err().to_string()
}

#[test]
fn tokens_with_a_role() {
    assert_eq!(LLAMA.ours.bos_token(), Some(("<s>", 1)));
    assert_eq!(LLAMA.ours.eos_token(), Some(("</s>", 2)));
    let bos = |config: Option<Value>| load(&small(), config).unwrap().bos_token().map(|(text, id)| (text.to_owned(), id));
    assert_eq!(bos(None), Some(("<s>".to_owned(), 1)));
    assert_eq!(bos(Some(json!({}))), Some(("<s>".to_owned(), 1)));
    assert_eq!(bos(Some(json!({"bos_token": null}))), None);
    assert_eq!(bos(Some(json!({"bos_token": {"content": "<|u|>"}}))), Some(("<|u|>".to_owned(), 300)));
}

#[test]
fn without_a_bos_token_none_is_added() {
    let tokenizer = load(&small(), Some(json!({"bos_token": null}))).unwrap();
    assert_eq!(tokenizer.encode_prompt("a").unwrap(), tokenizer.encode("a", false).unwrap());
}

#[test]
fn a_token_the_configuration_names_is_special() {
    let mut json = small();
    json["added_tokens"].as_array_mut().unwrap().retain(|token| token["content"] != "</s>");
    assert!(!load(&json, None).unwrap().is_special(2));
    let tokenizer = load(&json, Some(json!({"eos_token": "</s>"}))).unwrap();
    assert!(tokenizer.is_special(2));
    assert_eq!(tokenizer.encode("a</s>", false).unwrap().last(), Some(&2));
}

#[test]
fn chat_templates() {
    let template = |value: Value| load(&small(), Some(json!({"chat_template": value}))).unwrap().chat_template_source().map(str::to_owned);
    assert_eq!(template(json!("x")), Some("x".to_owned()));
    assert_eq!(template(json!(null)), None);
    assert_eq!(template(json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}])), Some("d".to_owned()));
    assert!(DEMO.ours.chat_template_source().is_some());
    assert!(LLAMA.ours.chat_template_source().is_none());
    let refused = refusal(&small(), Some(json!({"chat_template": [{"name": "tool_use", "template": "t"}]})));
    assert!(refused.contains("chat_template") && refused.contains("tool_use") && refused.contains("default"), "{refused}");
    assert!(refusal(&small(), Some(json!({"chat_template": 7}))).contains("`chat_template` is 7"));
}

#[test]
fn refusals_say_what_was_found_and_what_would_be_right() {
    let garbage = Tokenizer::from_bytes(b"{", None).unwrap_err().to_string();
    assert!(garbage.contains("tokenizer.json") && garbage.contains("expected"), "{garbage}");
    let model = refusal(&small_with(json!({"model": {"type": "Markov"}})), None);
    assert!(model.contains("BPE, Unigram, WordPiece or WordLevel"), "{model}");
    let empty = small_with(json!({"added_tokens": [], "model": {"type": "WordLevel", "vocab": {}, "unk_token": "u"}}));
    assert!(matches!(load(&empty, None), Err(TokenizerError::EmptyVocabulary)));
    let huge = small_with(
        json!({"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"u": 0, "w": 4_000_000_000_u32}, "unk_token": "u"}}),
    );
    assert!(matches!(load(&huge, None), Err(TokenizerError::IdOutOfRange { id: 4_000_000_000, .. })));
    let mut moved = small();
    moved["added_tokens"].as_array_mut().unwrap().push(json!({
        "id": 900, "content": "<new>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false
    }));
    assert!(matches!(load(&moved, None), Err(TokenizerError::AddedTokenId { token, found: 900, .. }) if token == "<new>"));

    let decoder = |decoder: Value| refusal(&small_with(json!({"decoder": decoder})), None);
    let word_piece = decoder(json!({"type": "WordPiece", "prefix": "##", "cleanup": true}));
    assert!(word_piece.contains("WordPiece (number 1"), "{word_piece}");
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    assert!(decoder(json!({"type": "Sequence", "decoders": [strip, {"type": "Fuse"}]})).contains("Strip (number 1"));
    let both_ends = json!({"type": "Strip", "content": " ", "start": 1, "stop": 1});
    assert!(decoder(json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, both_ends]})).contains("Strip (number 2"));
}

#[test]
fn refusals_of_the_configuration_name_the_key() {
    let unknown = refusal(&small(), Some(json!({"bos_token": "<bos>"})));
    assert!(unknown.contains("`bos_token`") && unknown.contains("<bos>"), "{unknown}");
    let wrong = refusal(&small(), Some(json!({"eos_token": 2})));
    assert!(wrong.contains("`eos_token` is 2"), "{wrong}");
    assert!(refusal(&small(), Some(json!([]))).contains("tokenizer_config.json"));
    assert!(Tokenizer::from_bytes(small().to_string().as_bytes(), Some(b"nonsense")).is_err());
}

#[test]
fn a_model_that_spells_control_tokens_is_noticed() {
    // With these merges the typed text "</s>" would become token 2.
    let mut json = small();
    json["model"]["merges"] = json!([["<", "/"], ["</", "s"], ["</s", ">"]]);
    json["model"]["vocab"]["</s"] = json!(290);
    let tokenizer = load(&json, None).unwrap();
    let rendered = crate::tokenizer::RenderedChat::typed_only("a</s>");
    assert!(matches!(tokenizer.encode_chat(&rendered), Err(TokenizerError::TextBecameControl { token }) if token == "</s>"));
}

#[test]
fn truncation_and_padding_of_the_file_are_ignored() {
    let json = small_with(json!({
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
    }));
    let plain = load(&small(), None).unwrap().encode_prompt("a b c a b c").unwrap();
    assert_eq!(load(&json, None).unwrap().encode_prompt("a b c a b c").unwrap(), plain);
    assert!(plain.len() > 9);
}
