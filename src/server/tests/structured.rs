//! `response_format` and `structured_outputs`.

use super::support::{Setup, TestServer};
use serde_json::{Value, json};

const MESSAGES: &str = "messages";

fn user() -> Value {
    json!([{"role": "user", "content": "Q"}])
}

/// The text of a chat completion whose model says anything, but must have a form; and why it ended.
async fn chat(server: &TestServer, format: Value, more: Value) -> (String, Value) {
    let mut body = json!({MESSAGES: user(), "temperature": 1, "seed": 5, "max_tokens": 200, "response_format": format});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let json = server.chat(&body).await.json();
    let choice = &json["choices"][0];
    (choice["message"]["content"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned(), choice["finish_reason"].clone())
}

fn schema(schema: Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "it", "schema": schema}})
}

#[tokio::test]
async fn an_answer_has_the_schema_that_was_asked_for() {
    let server = Setup::new().start();
    let format = schema(json!({
        "type": "object", "additionalProperties": false, "required": ["kind", "size"],
        "properties": {"kind": {"enum": ["cat", "dog"]}, "size": {"type": "integer", "minimum": 10, "maximum": 99}},
    }));
    for seed in 0..10 {
        let (text, finish) = chat(&server, format.clone(), json!({"seed": seed})).await;
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(["cat", "dog"].contains(&value["kind"].as_str().unwrap()), "{text}");
        assert!((10..100).contains(&value["size"].as_i64().unwrap()), "{text}");
        assert_eq!(finish, "stop");
    }
    assert!(server.all_free().await);
}

/// The form is complete with its last brace: no step is spent on a token that ends the text, and `ignore_eos` does not matter.
#[tokio::test]
async fn an_answer_ends_with_its_form() {
    let server = Setup::new().start();
    for more in [json!({}), json!({"ignore_eos": true}), json!({"min_tokens": 150})] {
        let (text, finish) = chat(&server, schema(json!({"const": {"a": [1]}})), more).await;
        assert!(text.starts_with("{\"a\":") && text.ends_with("[1]}"), "{text}");
        assert_eq!(finish, "stop");
    }
    // Nothing but the end of the text may follow, though more of it could.
    let body =
        json!({"prompt": "Q", "max_tokens": 50, "structured_outputs": {"regex": "(ab)*"}, "ignore_eos": true, "logit_bias": {"2": 100}});
    let json = server.complete(&body).await.json();
    assert_eq!(json["choices"][0]["finish_reason"], "stop", "{json}");
}

#[tokio::test]
async fn a_form_that_is_cut_says_so() {
    let server = Setup::new().start();
    let (text, finish) = chat(&server, schema(json!({"type": "object", "required": ["kind"]})), json!({"max_tokens": 3})).await;
    assert!(text.starts_with('{') && finish == "length", "{text} {finish}");
}

#[tokio::test]
async fn choices_streams_and_log_probabilities_have_the_form_too() {
    let server = Setup::new().start();
    let body = json!({"prompt": ["Q", "R"], "n": 3, "max_tokens": 20, "temperature": 2, "logprobs": 1, "structured_outputs": {"choice": ["yes", "no"]}});
    let json = server.complete(&body).await.json();
    let texts: Vec<&str> = json["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert!(texts.len() == 6 && texts.iter().all(|text| ["yes", "no"].contains(text)), "{texts:?}");
    let mut streamed = body.clone();
    streamed.as_object_mut().unwrap().extend([("stream".to_owned(), json!(true)), ("seed".to_owned(), json!(9))]);
    let mut whole = streamed.clone();
    whole["stream"] = json!(false);
    let mut texts = vec![String::new(); 6];
    for chunk in server.complete(&streamed).await.chunks() {
        let choice = &chunk["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize].push_str(choice["text"].as_str().unwrap());
    }
    let json = server.complete(&whole).await.json();
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(json["choices"][index]["text"], json!(text));
    }
}

#[tokio::test]
async fn forms_of_vllm() {
    let server = Setup::new().start();
    let text = async |outputs: Value| {
        let body = json!({"prompt": "Q", "max_tokens": 60, "seed": 1, "structured_outputs": outputs});
        let json = server.complete(&body).await.json();
        json["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned()
    };
    let digits = text(json!({"regex": r"^\d{3}$"})).await;
    assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}");
    assert_eq!(text(json!({"grammar": "start: \"a\" \"b\""})).await, "ab");
    assert_eq!(text(json!({"json": {"const": 7}})).await, "7");
    assert_eq!(text(json!({"json": "{\"const\": 7}", "regex": null})).await, "7");
    assert!(text(json!({"json_object": true})).await.starts_with('{'));
}

/// Issue of many servers (complaint 8 of their users): a schema that is wrong brings the server down, or is not followed.
#[tokio::test]
async fn complaint_8_a_schema_that_cannot_be_enforced_is_refused_with_its_path() {
    let server = Setup::new().start();
    let root = "response_format.json_schema.schema";
    for (format, param) in [
        (json!({}), "response_format.type".to_owned()),
        (json!({"type": "yaml"}), "response_format.type".to_owned()),
        (json!({"type": "json_schema"}), "response_format.json_schema".to_owned()),
        (json!({"type": "text", "json_schema": {"name": "a", "schema": {}}}), "response_format.json_schema".to_owned()),
        (json!({"type": "json_schema", "json_schema": {"schema": {}}}), "response_format.json_schema.name".to_owned()),
        (json!({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}), "response_format.json_schema.name".to_owned()),
        (json!({"type": "json_schema", "json_schema": {"name": "a"}}), root.to_owned()),
        (schema(json!({"type": "notatype"})), format!("{root}.type")),
        (schema(json!({"properties": {"a": {"not": {}}}})), format!("{root}.properties.a.not")),
        (schema(json!({"anyOf": [{"type": "string"}, {"type": "string", "pattern": "(?=a)"}]})), format!("{root}.anyOf[1].pattern")),
        (schema(json!([])), root.to_owned()),
        (schema(json!({"description": "x".repeat(70_000)})), root.to_owned()),
    ] {
        let answer = server.chat(&json!({MESSAGES: user(), "response_format": format})).await;
        let error = answer.error();
        assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!(param)), "{error}");
    }
    for (outputs, param) in [
        (json!({}), "structured_outputs"),
        (json!({"regex": "a", "choice": ["a"]}), "structured_outputs"),
        (json!({"json_object": false}), "structured_outputs"),
        (json!({"regex": "("}), "structured_outputs.regex"),
        (json!({"regex": 5}), "structured_outputs.regex"),
        (json!({"choice": []}), "structured_outputs.choice"),
        (json!({"grammar": "root ::= \"a\""}), "structured_outputs.grammar"),
        (json!({"json": "{"}), "structured_outputs.json"),
        (json!({"json": {"minimun": 1}}), "structured_outputs.json.minimun"),
        (json!({"structural_tag": {}}), "structured_outputs.structural_tag"),
        (json!({"backend": "outlines"}), "structured_outputs.backend"),
    ] {
        let answer = server.complete(&json!({"prompt": "Q", "structured_outputs": outputs})).await;
        let error = answer.error();
        assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!(param)), "{error}");
    }
    let both = json!({"prompt": "Q", "structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}});
    assert_eq!(server.complete(&both).await.error()["param"], "structured_outputs");
    let without_text = Setup { with_tokenizer: false, ..Setup::new() }.start();
    let answer = without_text.complete(&json!({"prompt": [5], "structured_outputs": {"regex": "a"}})).await;
    assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (400, &json!("unsupported_parameter")));
}

/// Complaint 9: under a grammar of JSON a weak model goes on with blanks for ever.
#[tokio::test]
async fn complaint_9_a_model_cannot_loop_in_white_space() {
    let server = Setup::new().start();
    let blanks: serde_json::Map<String, Value> = [" ", "\n", "\t", "  "]
        .iter()
        .flat_map(|blank| super::support::tokenizer().encode(blank, false).unwrap())
        .map(|token| (token.to_string(), json!(100)))
        .collect();
    let format = schema(
        json!({"type": "object", "required": ["a"], "additionalProperties": false, "properties": {"a": {"type": "array", "items": {"const": 1}, "maxItems": 3}}}),
    );
    let (text, finish) = chat(&server, format, json!({"logit_bias": blanks})).await;
    assert_eq!(finish, "stop");
    assert!(!text.contains("  ") && serde_json::from_str::<Value>(&text).is_ok(), "{text}");
}
