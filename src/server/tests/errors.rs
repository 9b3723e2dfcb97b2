//! Every refusal: status, class, code, parameter.

use super::support::{Setup, TestServer};
use crate::api::chat::ChatRequest;
use crate::api::completion::CompletionRequest;
use crate::server::extract::decode::field_names;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A valid request with `changes` in it.
fn with(path: &str, changes: &Value) -> Value {
    let mut body = if path == CHAT { json!({"messages": [{"role": "user", "content": "Hi"}]}) } else { json!({"prompt": "Hi"}) };
    body.as_object_mut().unwrap().insert("max_tokens".into(), json!(2));
    for (key, value) in changes.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

async fn check(server: &TestServer, path: &str, changes: &Value, expected: (u16, &str, &str)) {
    let answer = server.post(path, &with(path, changes)).await;
    let (status, code, param) = expected;
    let error = answer.error();
    assert_eq!(answer.status, status, "{path} {changes}: {error}");
    assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some(code), Some(param)), "{path} {changes}: {error}");
    assert_eq!(error["type"], "invalid_request_error");
    assert_eq!(answer.headers["x-should-retry"], "false");
    let leaf = param.rsplit(['.', '[']).next().unwrap().trim_end_matches(']');
    let names_it = error["message"].as_str().unwrap().contains(leaf) || code == "context_length_exceeded";
    assert!(names_it || code == "model_not_found", "{error}");
}

#[tokio::test]
async fn both_apis_refuse_bad_values_by_name() {
    let server = Setup::new().start();
    let many_stops: Vec<String> = (0..65).map(|i| i.to_string()).collect();
    let rows = [
        (json!({"model": "gpt-9"}), 404, "model_not_found", "model"),
        (json!({"model": ""}), 404, "model_not_found", "model"),
        (json!({"model": 7}), 400, "invalid_type", "model"),
        (json!({"temperature": "hot"}), 400, "invalid_type", "temperature"),
        (json!({"temperature": -1}), 400, "invalid_value", "temperature"),
        (json!({"temperature": 3}), 400, "invalid_value", "temperature"),
        (json!({"temperature": 1e300}), 400, "invalid_value", "temperature"),
        (json!({"top_p": 1.5}), 400, "invalid_value", "top_p"),
        (json!({"top_p": -0.1}), 400, "invalid_value", "top_p"),
        (json!({"top_k": -2}), 400, "invalid_value", "top_k"),
        (json!({"top_k": 1.5}), 400, "invalid_type", "top_k"),
        (json!({"min_p": 2}), 400, "invalid_value", "min_p"),
        (json!({"n": 0}), 400, "invalid_value", "n"),
        (json!({"n": 129}), 400, "invalid_value", "n"),
        (json!({"n": true}), 400, "invalid_type", "n"),
        (json!({"max_tokens": -1}), 400, "invalid_value", "max_tokens"),
        (json!({"max_tokens": 0}), 400, "invalid_value", "max_tokens"),
        (json!({"max_tokens": 5000}), 400, "context_length_exceeded", "max_tokens"),
        (json!({"max_tokens": i64::MAX}), 400, "context_length_exceeded", "max_tokens"),
        (json!({"presence_penalty": 3}), 400, "invalid_value", "presence_penalty"),
        (json!({"frequency_penalty": -2.1}), 400, "invalid_value", "frequency_penalty"),
        (json!({"repetition_penalty": 0}), 400, "invalid_value", "repetition_penalty"),
        (json!({"logit_bias": {"x": 1}}), 400, "invalid_value", "logit_bias"),
        (json!({"logit_bias": {"+5": 1}}), 400, "invalid_value", "logit_bias"),
        (json!({"logit_bias": {"3072": 1}}), 400, "invalid_value", "logit_bias"),
        (json!({"logit_bias": {"5": 101}}), 400, "invalid_value", "logit_bias"),
        (json!({"logit_bias": {"5": 1, "05": 1}}), 400, "invalid_value", "logit_bias"),
        (json!({"logit_bias": [1]}), 400, "invalid_type", "logit_bias"),
        (json!({"stop": 5}), 400, "invalid_type", "stop"),
        (json!({"stop": ""}), 400, "invalid_value", "stop"),
        (json!({"stop": ["a", ""]}), 400, "invalid_value", "stop"),
        (json!({"stop": many_stops}), 400, "invalid_value", "stop"),
        (json!({"stop": "x".repeat(5000)}), 400, "invalid_value", "stop"),
        (json!({"seed": 1.5}), 400, "invalid_type", "seed"),
        (json!({"seed": 1e30}), 400, "invalid_type", "seed"),
        (json!({"min_tokens": 3}), 400, "invalid_value", "min_tokens"),
        (json!({"min_tokens": -1}), 400, "invalid_value", "min_tokens"),
        (json!({"ignore_eos": 1}), 400, "invalid_type", "ignore_eos"),
        (json!({"stream": "yes"}), 400, "invalid_type", "stream"),
        (json!({"stream_options": {"include_usage": true}}), 400, "invalid_value", "stream_options"),
        (json!({"stream_options": {}, "stream": null}), 400, "invalid_value", "stream_options"),
        (json!({"stream_options": {"usage": true}, "stream": true}), 400, "unknown_parameter", "stream_options.usage"),
        (json!({"service_tier": "flex"}), 400, "invalid_value", "service_tier"),
        (json!({"stream_options": [null, null, null], "stream": true}), 400, "invalid_type", "stream_options"),
        (json!({"response_format": ["json_object", null]}), 400, "invalid_type", "response_format"),
        (json!({"structured_outputs": [null, "a"]}), 400, "invalid_type", "structured_outputs"),
        (json!({"response_format": {"type": "yaml"}}), 400, "invalid_value", "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), 400, "missing_required_parameter", "response_format.json_schema"),
        (json!({"structured_outputs": {"regex": "("}}), 400, "invalid_value", "structured_outputs.regex"),
        (json!({"logprob_token_ids": [5]}), 400, "invalid_value", "logprob_token_ids"),
        (json!({"frobnicate": 1}), 400, "unknown_parameter", "frobnicate"),
        (json!({"temperatur": 1}), 400, "unknown_parameter", "temperatur"),
    ];
    for (changes, status, code, param) in rows {
        for path in [COMPLETIONS, CHAT] {
            check(&server, path, &changes, (status, code, param)).await;
        }
    }
    assert!(server.all_free().await);
}

/// What is wrong for any parameter, as it stands in a body, and the codes there are for it.
const WRONG: [(&str, &[&str]); 4] = [
    ("NaN", &["invalid_json"]),
    ("1e999", &["invalid_json"]),
    // No parameter is a list of lists of lists.
    ("[[[{}]]]", &["invalid_type", "invalid_value", "unsupported_parameter"]),
    ("1e300", &["invalid_type", "invalid_value", "unsupported_parameter"]),
];

#[tokio::test]
async fn every_parameter_is_named_for_every_kind_of_bad_value() {
    let server = Setup::new().start();
    for (path, names) in [(COMPLETIONS, field_names::<CompletionRequest>()), (CHAT, field_names::<ChatRequest>())] {
        assert!(names.len() > 30, "{names:?}");
        for &name in names {
            let mut valid = with(path, &json!({}));
            valid.as_object_mut().unwrap().remove(name);
            let valid = valid.to_string();
            let rest = valid.strip_suffix('}').unwrap();
            let post = async |value: &str| {
                let body = format!("{rest},{value}}}");
                let request = Request::post(path).header("content-type", "application/json").body(Body::from(body)).unwrap();
                server.send(request).await
            };
            let twice = format!("\"{name}\":null,\"{name}\":null");
            let wrong = WRONG.map(|(value, codes)| (format!("\"{name}\":{value}"), codes));
            for (value, codes) in wrong.into_iter().chain([(twice, &["invalid_json"][..])]) {
                let answer = post(&value).await;
                let error = answer.error();
                let (code, param) = (error["code"].as_str().unwrap(), error["param"].as_str().unwrap_or_default());
                assert!(answer.status == 400 && codes.contains(&code), "{path} {value}: {error}");
                assert_eq!(param.split(['.', '[']).next(), Some(name), "{path} {value}: {error}");
                assert_eq!((&error["type"], error["message"].is_string()), (&json!("invalid_request_error"), true));
            }
            // Null is as if it were not there.
            let answer = post(&format!("\"{name}\":null")).await;
            let is_missing = answer.status == 400 && answer.error()["code"] == "missing_required_parameter";
            assert!(answer.status == 200 || (is_missing && ["prompt", "messages"].contains(&name)), "{path} {name}: {}", answer.text());
        }
    }
    assert!(server.all_free().await);
}

#[tokio::test]
async fn completions_refuse_bad_values_by_name() {
    let server = Setup::new().start();
    let long: Vec<u32> = vec![5; 256];
    let rows = [
        (json!({"prompt": null}), "missing_required_parameter", "prompt"),
        (json!({"prompt": 5}), "invalid_type", "prompt"),
        (json!({"prompt": ""}), "invalid_value", "prompt"),
        (json!({"prompt": []}), "invalid_value", "prompt"),
        (json!({"prompt": [[]]}), "invalid_value", "prompt"),
        (json!({"prompt": ["a", ""]}), "invalid_value", "prompt[1]"),
        (json!({"prompt": [3072]}), "invalid_value", "prompt"),
        (json!({"prompt": [[1], [-1]]}), "invalid_value", "prompt[1]"),
        (json!({"prompt": [1, "a"]}), "invalid_type", "prompt"),
        (json!({"prompt": long}), "context_length_exceeded", "prompt"),
        (json!({"prompt": long, "max_tokens": null}), "context_length_exceeded", "prompt"),
        (json!({"prompt": "long ".repeat(300)}), "context_length_exceeded", "prompt"),
        (json!({"prompt": "long ".repeat(200_000)}), "context_length_exceeded", "prompt"),
        (json!({"prompt": [5, 6], "max_tokens": 255}), "context_length_exceeded", "max_tokens"),
        (json!({"prompt": vec!["a"; 65], "n": 2}), "invalid_value", "n"),
        (json!({"prompt": vec!["a"; 129]}), "invalid_value", "prompt"),
        (json!({"logprobs": 5000}), "invalid_value", "logprobs"),
        (json!({"logprobs": -1}), "invalid_value", "logprobs"),
        (json!({"logprobs": true}), "invalid_type", "logprobs"),
        (json!({"best_of": 2, "stream": true}), "invalid_value", "best_of"),
        (json!({"best_of": 1, "n": 2}), "invalid_value", "best_of"),
        (json!({"best_of": 0}), "invalid_value", "best_of"),
        (json!({"suffix": "x"}), "unsupported_parameter", "suffix"),
        (json!({"echo": "yes"}), "invalid_type", "echo"),
        (json!({"messages": []}), "unknown_parameter", "messages"),
    ];
    for (changes, code, param) in rows {
        check(&server, COMPLETIONS, &changes, (400, code, param)).await;
    }
}

#[tokio::test]
async fn chat_refuses_bad_values_by_name() {
    let server = Setup::new().start();
    let message = |m: Value| json!({"messages": [{"role": "user", "content": "a"}, m]});
    let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    let rows = [
        (json!({"messages": null}), "missing_required_parameter", "messages"),
        (json!({"messages": []}), "invalid_value", "messages"),
        (json!({"messages": "hi"}), "invalid_type", "messages"),
        (json!({"messages": ["hi"]}), "invalid_type", "messages[0]"),
        (json!({"messages": [["user", "hi", null]]}), "invalid_type", "messages[0]"),
        (json!({"tools": [["function", ["f", null, null, null]]]}), "invalid_type", "tools[0]"),
        (message(json!({"role": "user", "content": [{"text": "a"}]})), "missing_required_parameter", "messages[1].content[0].type"),
        (message(json!({"role": "user", "content": [{"type": 5}]})), "invalid_type", "messages[1].content[0].type"),
        (message(json!({"role": "user", "content": ["a"]})), "invalid_type", "messages[1].content[0]"),
        (json!({"tool_choice": {}}), "missing_required_parameter", "tool_choice.type"),
        (json!({"tool_choice": {"type": "function"}}), "missing_required_parameter", "tool_choice.function"),
        (json!({"tool_choice": {"type": "function", "function": {}}}), "missing_required_parameter", "tool_choice.function.name"),
        (json!({"tool_choice": {"type": "function", "name": "f"}}), "unknown_parameter", "tool_choice.name"),
        (json!({"tool_choice": {"type": "function", "function": {"name": 5}}}), "invalid_type", "tool_choice.function.name"),
        (message(json!({"role": 7, "content": "a"})), "invalid_type", "messages[1].role"),
        (message(json!({"role": "robot", "content": "a"})), "invalid_value", "messages[1].role"),
        (message(json!({"role": "tool", "content": "a"})), "missing_required_parameter", "messages[1].tool_call_id"),
        (message(json!({"content": "a"})), "missing_required_parameter", "messages[1].role"),
        (message(json!({"role": "user"})), "missing_required_parameter", "messages[1].content"),
        (message(json!({"role": "user", "content": 5})), "invalid_type", "messages[1].content"),
        (message(json!({"role": "user", "content": []})), "invalid_value", "messages[1].content"),
        (message(json!({"role": "user", "content": image})), "unsupported_parameter", "messages[1].content[0].image_url"),
        (message(json!({"role": "user", "content": [{"type": "text"}]})), "missing_required_parameter", "messages[1].content[0].text"),
        (message(json!({"role": "user", "content": [{"type": "x"}]})), "invalid_value", "messages[1].content[0].type"),
        (
            message(json!({"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]})),
            "unknown_parameter",
            "messages[1].content[0].x",
        ),
        (message(json!({"role": "user", "content": "a", "x": 1})), "unknown_parameter", "messages[1].x"),
        (
            message(json!({"role": "assistant", "content": "a", "tool_calls": [{}]})),
            "missing_required_parameter",
            "messages[1].tool_calls[0].id",
        ),
        (json!({"top_logprobs": 3}), "invalid_value", "top_logprobs"),
        (json!({"top_logprobs": 21, "logprobs": true}), "invalid_value", "top_logprobs"),
        (json!({"logprobs": 5}), "invalid_type", "logprobs"),
        (json!({"max_completion_tokens": 0}), "invalid_value", "max_completion_tokens"),
        (json!({"max_completion_tokens": 5000}), "context_length_exceeded", "max_completion_tokens"),
        (json!({"messages": [{"role": "user", "content": "long ".repeat(300)}]}), "context_length_exceeded", "messages"),
        (json!({"messages": [{"role": "user", "content": "long ".repeat(200_000)}]}), "context_length_exceeded", "messages"),
        (json!({"tools": [{}]}), "missing_required_parameter", "tools[0].type"),
        (json!({"tool_choice": "auto"}), "invalid_value", "tool_choice"),
        (json!({"functions": [{}]}), "unsupported_parameter", "functions"),
        (json!({"prompt": "x"}), "unknown_parameter", "prompt"),
    ];
    for (changes, code, param) in rows {
        check(&server, CHAT, &changes, (400, code, param)).await;
    }
}

#[tokio::test]
async fn the_context_error_has_the_words_and_the_numbers() {
    let server = Setup::new().start();
    let answer = server.complete(&json!({"prompt": [5, 6, 7], "max_tokens": 300})).await;
    let message = answer.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("maximum context length is 256 tokens"), "{message}");
    assert!(message.contains("303") && message.contains("(3 in the prompt, 300 for the completion)"), "{message}");
}

/// Numbers above 32 bits were told as 4294967295, and a request for nothing as one for a token.
#[tokio::test]
async fn the_context_error_tells_what_was_asked_for() {
    let server = Setup::new().start();
    let message = async |body: Value| server.complete(&body).await.error()["message"].as_str().unwrap().to_owned();
    let huge = message(json!({"prompt": [5], "max_tokens": i64::MAX})).await;
    assert!(huge.contains("9223372036854775807 for the completion"), "{huge}");
    let nothing = message(json!({"prompt": vec![5; 300], "max_tokens": 0, "echo": true})).await;
    assert!(nothing.contains("(300 in the prompt, 0 for the completion)"), "{nothing}");
    let long = message(json!({"prompt": "long ".repeat(200_000), "max_tokens": 0, "echo": true})).await;
    assert!(long.contains("tokens in the prompt alone") && !long.contains("for the completion"), "{long}");
    assert_eq!(message(json!({"prompt": [5], "max_tokens": -1})).await, "'max_tokens' must be at least 1, got -1");
    assert_eq!(message(json!({"prompt": [5], "max_tokens": -1, "echo": true})).await, "'max_tokens' must be at least 0, got -1");
}

#[tokio::test]
async fn a_message_names_value_and_range() {
    let server = Setup::new().start();
    let message = |changes: Value| {
        let server = &server;
        async move { server.complete(&with(COMPLETIONS, &changes)).await.error()["message"].as_str().unwrap().to_owned() }
    };
    assert_eq!(message(json!({"temperature": 3})).await, "'temperature' must be between 0 and 2, got 3");
    assert_eq!(message(json!({"top_k": -7})).await, "'top_k' must be at least -1, got -7");
    assert_eq!(message(json!({"temperatur": 1})).await, "unknown parameter 'temperatur': did you mean 'temperature'?");
    assert!(message(json!({"temperature": "hot"})).await.contains("expected a number"));
    assert!(message(json!({"n": "x".repeat(100_000)})).await.len() < 1000);
    let hint = message(json!({"max_completion_tokens": 5})).await;
    assert_eq!(hint, "unknown parameter 'max_completion_tokens': did you mean 'max_tokens'?");
    let no_json = message(json!({"structured_outputs": {"json": "nope"}})).await;
    assert!(no_json.contains("the string is not valid JSON") && !no_json.contains("body"), "{no_json}");
    assert!(message(json!({"structured_outputs": {"json": "[]"}})).await.contains("the string holds an array"));
    let long = server.complete(&with(COMPLETIONS, &json!({"k".repeat(1_000_000): 1}))).await;
    assert!(long.error()["param"].as_str().unwrap().starts_with("kkk") && long.body.len() < 2_000, "{}", long.body.len());
}

#[tokio::test]
async fn bodies_that_are_no_json_object() {
    let server = Setup::new().start();
    let rows = [
        ("{\"prompt\":", "application/json", 400, Some("invalid_json"), None),
        ("[]", "application/json", 400, Some("invalid_type"), Some("body")),
        ("{\"prompt\":\"a\",\"prompt\":\"b\"}", "application/json", 400, Some("invalid_json"), Some("prompt")),
        ("{\"prompt\":\"a\"}", "text/plain", 415, Some("unsupported_media_type"), None),
        ("", "application/json", 400, Some("invalid_json"), None),
    ];
    for (body, content_type, status, code, param) in rows {
        let request = Request::post(COMPLETIONS).header("content-type", content_type).body(Body::from(body)).unwrap();
        let answer = server.send(request).await;
        let error = answer.error();
        assert_eq!((answer.status.as_u16(), error["code"].as_str(), error["param"].as_str()), (status, code, param), "{body}: {error}");
    }
    let answer = server.send(Request::post(COMPLETIONS).body(Body::from("{}")).unwrap()).await;
    let error = answer.error();
    assert_eq!((answer.status.as_u16(), error["message"].as_str().unwrap().contains("Content-Type is missing")), (415, true), "{error}");
    let deep = format!("{{\"prompt\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let request = Request::post(COMPLETIONS).header("content-type", "application/json").body(Body::from(deep)).unwrap();
    assert_eq!(server.send(request).await.status, 400);
}

#[tokio::test]
async fn text_needs_a_tokenizer() {
    let server = Setup { with_tokenizer: false, ..Setup::new() }.start();
    check(&server, COMPLETIONS, &json!({}), (400, "invalid_value", "prompt")).await;
    check(&server, COMPLETIONS, &json!({"prompt": [5], "stop": "x"}), (400, "unsupported_parameter", "stop")).await;
    check(&server, CHAT, &json!({}), (400, "unsupported_parameter", "messages")).await;
}

#[tokio::test]
async fn a_failed_sequence_fails_the_request_but_not_the_next() {
    let server = Setup::new().poison(7).start();
    let answer = server.complete(&json!({"prompt": [[5], [7]], "max_tokens": 3, "ignore_eos": true})).await;
    assert_eq!((answer.status.as_u16(), answer.error()["code"].as_str()), (500, Some("non_finite_logits")));
    assert!(!answer.headers.contains_key("x-should-retry"));
    server.control.fail_next(crate::runner::fake::Fault::Panic);
    let answer = server.complete(&json!({"prompt": [5], "max_tokens": 3})).await;
    assert_eq!((answer.status.as_u16(), answer.error()["code"].as_str()), (500, Some("internal_error")));
    assert!(!answer.text().contains("injected"), "internals stay inside");
    assert_eq!(server.complete(&json!({"prompt": [5], "max_tokens": 3})).await.status, 200);
    assert!(server.all_free().await);
}

#[tokio::test]
async fn an_error_before_the_first_output_of_a_stream_is_a_status() {
    let server = Setup::new().poison(7).start();
    let answer = server.complete(&json!({"prompt": [7], "max_tokens": 3, "stream": true})).await;
    assert_eq!((answer.status.as_u16(), answer.error()["code"].as_str()), (500, Some("non_finite_logits")));
    assert!(server.all_free().await);
}

#[tokio::test]
async fn an_error_inside_a_stream_is_an_event_and_the_end() {
    let server = Setup::new().start();
    server.control.pass_next();
    server.control.fail_next(crate::runner::fake::Fault::Step);
    let body = json!({"prompt": [5], "max_tokens": 3, "ignore_eos": true, "stream": true, "return_token_ids": true});
    let chunks = server.complete(&body).await.chunks();
    assert_eq!(chunks.len(), 2, "{chunks:?}");
    assert_eq!(chunks[0]["choices"][0]["token_ids"].as_array().unwrap().len(), 1);
    assert_eq!(chunks[1]["error"]["code"], "internal_error");
    assert_eq!(chunks[1]["error"].as_object().unwrap().len(), 4);
    assert!(server.all_free().await);
}
