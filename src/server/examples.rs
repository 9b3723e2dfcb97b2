//! What the OpenAPI document has beside routes and wire types: examples of requests, answers and errors, and headers.
//!
//! Errors and their headers are made by [`ApiError`] itself. A test holds the rest against the wire types.

use super::error::{ApiError, Deadline};
use axum::http::header::RETRY_AFTER;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::time::Duration;
use utoipa::Modify;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Content, ObjectBuilder, OpenApi, RefOr, Required, Response};

/// Adds them to the document.
pub(super) struct Examples;

impl Modify for Examples {
    fn modify(&self, openapi: &mut OpenApi) {
        for item in openapi.paths.paths.values_mut() {
            [&mut item.get, &mut item.post].into_iter().flatten().for_each(describe);
        }
    }
}

fn describe(operation: &mut Operation) {
    let id = operation.operation_id.clone().unwrap_or_default();
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.content.values_mut().for_each(|content| add_examples(content, requests(&id)));
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        match (status.as_str(), is_probe(&id)) {
            ("200", _) => response.content.iter_mut().for_each(|(kind, content)| set_example(content, answer(&id, kind))),
            (_, true) => response.content.values_mut().for_each(|content| set_example(content, Some(json!({"status": "draining"})))),
            (status, false) => describe_error(response, error(&id, status)),
        }
    }
    if generates(&id) {
        operation.parameters.get_or_insert_default().extend(headers());
    }
}

fn generates(id: &str) -> bool {
    matches!(id, "createCompletion" | "createChatCompletion")
}

fn is_probe(id: &str) -> bool {
    matches!(id, "health" | "livez" | "readyz" | "startupz")
}

fn add_examples(content: &mut RefOr<Content>, examples: Vec<(&str, &str, Value)>) {
    let RefOr::T(content) = content else { return };
    for (name, summary, value) in examples {
        let example = ExampleBuilder::new().summary(summary).value(Some(value)).build();
        content.examples.insert(name.to_owned(), RefOr::T(example));
    }
}

fn set_example(content: &mut RefOr<Content>, example: Option<Value>) {
    if let RefOr::T(content) = content {
        content.example = example;
    }
}

/// An example of an error, and the headers that the error has.
fn describe_error(response: &mut Response, error: Option<ApiError>) {
    let Some(error) = error else { return };
    let example = serde_json::to_value(error.body()).ok();
    response.content.values_mut().for_each(|content| set_example(content, example.clone()));
    let sent = error.into_response();
    let header = |schema: ObjectBuilder, description: &str| {
        let schema: utoipa::openapi::Schema = schema.build().into();
        HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
    };
    if sent.headers().contains_key("x-should-retry") {
        let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["false"]));
        let described = header(schema, "The same request would fail again: the SDKs of OpenAI do not send it again.");
        response.headers.insert("x-should-retry".to_owned(), RefOr::T(described));
    }
    if sent.headers().contains_key(RETRY_AFTER) {
        let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(60));
        response.headers.insert("Retry-After".to_owned(), RefOr::T(header(schema, "Seconds after which to try again.")));
    }
}

/// An error of that status.
fn error(id: &str, status: &str) -> Option<ApiError> {
    Some(match status {
        "400" if id == "tokenizerInfo" => ApiError::unsupported("tokenizer", "it runs without a tokenizer"),
        "400" if id.contains("Completion") => ApiError::invalid("temperature", "must be between 0 and 2, got 3"),
        "400" => ApiError::Unknown { param: "modle".to_owned(), nearest: Some("model") },
        "401" => ApiError::Unauthorized { given: false },
        "404" => ApiError::ModelNotFound { model: "gpt-4o".to_owned(), served: vec![MODEL.to_owned()] },
        "408" => ApiError::BodyTimeout { limit: Duration::from_secs(30) },
        "413" => ApiError::BodyTooLarge { limit: 4 << 20 },
        "415" => ApiError::UnsupportedMediaType {
            header: "Content-Type",
            found: Some("text/plain".to_owned()),
            expected: "send application/json",
        },
        "500" => ApiError::Internal { detail: String::new() },
        "503" => ApiError::Overloaded { what: "requests", retry_after: Duration::from_secs(2) },
        "504" => ApiError::DeadlineExceeded { deadline: Deadline { limit: Duration::from_millis(500), param: Some("timeout_ms") } },
        _ => return None,
    })
}

/// The headers of requests that generate.
fn headers() -> impl Iterator<Item = RefOr<utoipa::openapi::path::Parameter>> {
    let timeout = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(86_400_000));
    let described = [
        ("Request-Timeout-Ms", timeout, "Milliseconds after which the request ends with an error, as `timeout_ms`; the shorter counts."),
        (
            "X-Request-Id",
            ObjectBuilder::new().schema_type(Type::String),
            "The id of the request in the answer's header and in the log: up to 128 printable ASCII characters without spaces. Another \
             one, or none, is replaced by a new one.",
        ),
    ];
    described.into_iter().map(|(name, schema, description)| {
        let schema: utoipa::openapi::Schema = schema.build().into();
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).required(Required::False);
        RefOr::T(parameter.schema(Some(schema)).description(Some(description)).build())
    })
}

const MODEL: &str = "openelm-demo";

/// Examples of requests: name, summary and body.
fn requests(id: &str) -> Vec<(&'static str, &'static str, Value)> {
    let prompt = "Once upon a time";
    let messages = json!([{"role": "user", "content": "What is the weather in Rome?"}]);
    let stream = json!({"include_usage": true});
    match id {
        "createCompletion" => vec![
            ("text", "A text", json!({"prompt": prompt, "max_tokens": 32, "temperature": 0.7})),
            ("stream", "A stream", json!({"prompt": prompt, "max_tokens": 32, "stream": true, "stream_options": stream})),
            ("form", "One of two texts", json!({"prompt": "The sky is", "structured_outputs": {"choice": ["red", "blue"]}})),
        ],
        "createChatCompletion" => vec![
            ("conversation", "A conversation", json!({"messages": messages, "max_tokens": 64})),
            ("stream", "A stream", json!({"messages": messages, "max_tokens": 64, "stream": true, "stream_options": stream})),
            ("tools", "A function to call", json!({"messages": messages, "tools": [weather()], "tool_choice": "auto"})),
            ("form", "JSON of a schema", json!({"messages": messages, "response_format": form()})),
        ],
        "renderCompletion" => vec![("text", "A text", json!({"prompt": prompt}))],
        "renderChatCompletion" => vec![("conversation", "A conversation", json!({"messages": messages}))],
        "tokenize" => {
            vec![("text", "A text", json!({"prompt": prompt})), ("conversation", "A conversation", json!({"messages": messages}))]
        }
        "detokenize" => vec![("tokens", "Some tokens", json!({"tokens": [1, 403, 501]}))],
        _ => Vec::new(),
    }
}

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 30}}, "required": ["city"]});
    json!({"type": "function", "function": {"name": "weather", "description": "The weather in a city", "parameters": parameters}})
}

fn form() -> Value {
    let schema = json!({"type": "object", "properties": {"rain": {"type": "boolean"}}, "required": ["rain"]});
    json!({"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}})
}

/// The main answer of an operation.
fn answer(id: &str, content_type: &str) -> Option<Value> {
    let sampling = json!({
        "n": 1, "max_tokens": 16, "min_tokens": 0, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "repetition_penalty": 1.0, "seed": 1_234_567_890,
    });
    let tokens = [1, 403, 501];
    let prompt =
        |id: &str, text: &str| json!({"request_id": id, "model": MODEL, "token_ids": tokens, "prompt": text, "sampling_params": sampling});
    let model = json!({
        "id": MODEL, "object": "model", "created": CREATED, "owned_by": MODEL, "root": MODEL, "parent": null, "max_model_len": 512,
        "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}", "system_fingerprint": FINGERPRINT,
    });
    Some(match (id, content_type) {
        ("createCompletion" | "createChatCompletion", _) => generated(id, content_type == "text/event-stream"),
        ("renderCompletion", _) => json!([prompt("cmpl-7d1f", "<s>Once upon")]),
        ("renderChatCompletion", _) => prompt("chatcmpl-7d1f", "<s>Hello"),
        ("tokenize", _) => json!({"count": 3, "max_model_len": 512, "tokens": tokens, "token_strs": null}),
        ("detokenize", _) => json!({"prompt": "<s>Once upon"}),
        ("tokenizerInfo", _) => json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "vocab_size": 3072, "model_max_length": 512,
            "bos_token": "<s>", "eos_token": "</s>", "chat_template": null,
        }),
        ("listModels", _) => json!({"object": "list", "data": [model]}),
        ("retrieveModel", _) => model,
        ("metrics", _) => json!("vllm:num_requests_running{model_name=\"openelm-demo\"} 0\n"),
        ("version", _) => json!({"version": env!("CARGO_PKG_VERSION")}),
        (id, _) if is_probe(id) => json!({"status": "ok"}),
        _ => return None,
    })
}

const CREATED: u64 = 1_760_000_000;
const FINGERPRINT: &str = "fp_0123456789ab";

/// An answer of a generating operation, or a chunk of it.
fn generated(id: &str, is_chunk: bool) -> Value {
    let is_chat = id == "createChatCompletion";
    let (prefix, object, choice) = match (is_chat, is_chunk) {
        (false, _) => {
            let finish = if is_chunk { Value::Null } else { json!("length") };
            ("cmpl", "text_completion", json!({"text": ", there was", "index": 0, "logprobs": null, "finish_reason": finish}))
        }
        (true, false) => {
            let message = json!({"role": "assistant", "content": "It is sunny.", "refusal": null});
            ("chatcmpl", "chat.completion", json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}))
        }
        (true, true) => {
            let delta = json!({"content": "It is"});
            ("chatcmpl", "chat.completion.chunk", json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}))
        }
    };
    let mut answer = json!({
        "id": format!("{prefix}-7d1f0b4ce6a24f7f9f0e1c2b3a495867"), "object": object, "created": CREATED, "model": MODEL,
        "system_fingerprint": FINGERPRINT, "choices": [choice],
    });
    if !is_chunk {
        answer["usage"] = json!({
            "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 0},
        });
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::chat::{ChatChunk, ChatRequest, ChatResponse};
    use crate::api::completion::{CompletionChunk, CompletionRequest, CompletionResponse};
    use crate::api::models::{Model, ModelList, ProbeStatus, Version};
    use crate::api::render::RenderedPrompt;
    use crate::api::tokens::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse, TokenizerInfo};
    use crate::server::extract::decode::{WireRequest, decode};
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    fn requests_are<T: WireRequest>(id: &str) {
        let examples = requests(id);
        assert!(!examples.is_empty(), "{id}");
        for (name, _, value) in examples {
            let Value::Object(fields) = value else { panic!("{id} {name}") };
            assert!(decode::<T>(fields).is_ok(), "{id} {name}");
        }
    }

    fn answer_is<T: DeserializeOwned + Serialize>(id: &str, content_type: &str) {
        let example = answer(id, content_type).unwrap();
        let read: T = serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(serde_json::to_value(read).unwrap(), example, "{id}");
    }

    #[test]
    fn examples_are_what_they_are_examples_of() {
        requests_are::<CompletionRequest>("createCompletion");
        requests_are::<ChatRequest>("createChatCompletion");
        requests_are::<CompletionRequest>("renderCompletion");
        requests_are::<ChatRequest>("renderChatCompletion");
        requests_are::<TokenizeRequest>("tokenize");
        requests_are::<DetokenizeRequest>("detokenize");
        answer_is::<CompletionResponse>("createCompletion", "application/json");
        answer_is::<CompletionChunk>("createCompletion", "text/event-stream");
        answer_is::<ChatResponse>("createChatCompletion", "application/json");
        answer_is::<ChatChunk>("createChatCompletion", "text/event-stream");
        answer_is::<Vec<RenderedPrompt>>("renderCompletion", "");
        answer_is::<RenderedPrompt>("renderChatCompletion", "");
        answer_is::<TokenizeResponse>("tokenize", "");
        answer_is::<DetokenizeResponse>("detokenize", "");
        answer_is::<TokenizerInfo>("tokenizerInfo", "");
        answer_is::<ModelList>("listModels", "");
        answer_is::<Model>("retrieveModel", "");
        answer_is::<Version>("version", "");
        answer_is::<ProbeStatus>("health", "");
    }

    #[test]
    fn every_answer_has_an_example_and_errors_their_headers() {
        let document = serde_json::to_value(crate::server::openapi::document()).unwrap();
        let operations = document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
        for operation in operations.filter(|operation| operation["operationId"] != "openapi") {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let id = &operation["operationId"];
                for content in response["content"].as_object().unwrap().values() {
                    assert!(content.get("example").is_some(), "{id} {status}");
                }
            }
        }
        let generating = &document["paths"]["/v1/completions"]["post"];
        let responses = &generating["responses"];
        assert!(responses["400"]["headers"]["x-should-retry"].is_object() && responses["503"]["headers"]["Retry-After"].is_object());
        assert!(responses["503"]["headers"].get("x-should-retry").is_none() && responses["408"].get("headers").is_none());
        let names: Vec<&Value> = generating["parameters"].as_array().unwrap().iter().map(|parameter| &parameter["name"]).collect();
        assert_eq!(names, ["Request-Timeout-Ms", "X-Request-Id"]);
    }
}
