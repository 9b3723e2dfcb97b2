//! Wire shapes against JSON as clients write it.

use super::chat::ChatRequest;
use super::completion::CompletionRequest;
use super::input::{MessageContent, Prompt, Stop};
use serde_json::{Value, json};

fn completion(value: Value) -> Result<CompletionRequest, String> {
    serde_json::from_value(value).map_err(|e| e.to_string())
}

#[test]
fn integers_may_be_written_with_a_zero_fraction() {
    let request = completion(json!({"max_tokens": 16.0, "seed": -3, "temperature": 1})).unwrap();
    assert_eq!((request.max_tokens, request.seed, request.temperature), (Some(16), Some(-3), Some(1.0)));
    assert!(completion(json!({"max_tokens": 16.5})).unwrap_err().contains("an integer"));
    assert!(completion(json!({"max_tokens": "16"})).unwrap_err().contains("expected an integer"));
    assert!(completion(json!({"seed": u64::MAX})).unwrap_err().contains("too large"));
    assert!(completion(json!({"temperature": true})).unwrap_err().contains("expected a number"));
}

#[test]
fn null_is_absent_in_every_field() {
    let fields = serde_json::from_str::<CompletionRequest>("{\"?\":1}").unwrap_err().to_string();
    let names: Vec<&str> = fields.split('`').skip(3).step_by(2).collect();
    assert!(names.len() > 25, "{fields}");
    let nulls: serde_json::Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    assert_eq!(completion(Value::Object(nulls)).unwrap(), CompletionRequest::default());
}

#[test]
fn every_form_of_prompt() {
    let prompt = |v: Value| completion(json!({"prompt": v})).map(|r| r.prompt.unwrap());
    assert_eq!(prompt(json!("a")).unwrap(), Prompt::Text("a".into()));
    assert_eq!(prompt(json!(["a", "b"])).unwrap(), Prompt::Texts(vec!["a".into(), "b".into()]));
    assert_eq!(prompt(json!([1, 2.0])).unwrap(), Prompt::Tokens(vec![1, 2]));
    assert_eq!(prompt(json!([[1], [2, -3]])).unwrap(), Prompt::TokenLists(vec![vec![1], vec![2, -3]]));
    assert_eq!(prompt(json!([])).unwrap(), Prompt::Tokens(vec![]));
    for (bad, words) in [
        (json!(5), "got an integer"),
        (json!({"a": 1}), "got an object"),
        (json!(["a", 1]), "element 1 is an integer"),
        (json!([1, "a"]), "element 1 is a string"),
        (json!([[1], [true]]), "element 1, token 0 is a boolean"),
        (json!([1.5]), "element 0 is a number with a fraction"),
        (json!([null]), "first element is null"),
    ] {
        assert!(prompt(bad.clone()).unwrap_err().contains(words), "{bad}: {:?}", prompt(bad.clone()));
    }
}

#[test]
fn stop_is_a_string_or_strings() {
    let stop = |v: Value| completion(json!({"stop": v})).map(|r| r.stop.unwrap());
    assert_eq!(stop(json!("x")).unwrap(), Stop::One("x".into()));
    assert_eq!(stop(json!(["x", "y"])).unwrap().into_vec(), ["x", "y"]);
    assert!(stop(json!(5)).unwrap_err().contains("got an integer"));
    assert!(stop(json!(["x", 5])).unwrap_err().contains("element 1 is an integer"));
}

#[test]
fn content_is_a_text_or_parts() {
    let request: ChatRequest = serde_json::from_value(json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "x"}}], "refusal": null},
    ]}))
    .unwrap();
    let messages = request.messages.unwrap();
    assert_eq!(messages[0].content, Some(MessageContent::Text("a".into())));
    let Some(MessageContent::Parts(parts)) = &messages[1].content else { panic!("{messages:?}") };
    assert_eq!((parts[0].text.as_deref(), parts[1].kind.as_deref()), (Some("b"), Some("image_url")));
    assert!(parts[1].other.contains_key("image_url"));
}
