//! Calls of tools, by a model that says what a script says.

use super::support::{Setup, TestServer, text_tokens};
use crate::generation::TokenId;
use serde_json::{Value, json};

fn tools() -> Value {
    let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    json!([{"type": "function", "function": {"name": "add", "parameters": parameters}}, {"type": "function", "function": {"name": "now"}}])
}

fn body(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Q"}], "tools": tools(), "temperature": 0, "max_tokens": 150});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The definitions of tools take some room.
fn roomy() -> Setup {
    Setup { max_model_len: 1000, ..Setup::new() }
}

/// The prompt that the model reads.
async fn prompt(server: &TestServer, body: &Value) -> Vec<TokenId> {
    let mut asked = body.clone();
    asked.as_object_mut().unwrap().extend([
        ("return_token_ids".to_owned(), json!(true)),
        ("max_tokens".to_owned(), json!(1)),
        ("stream".to_owned(), json!(false)),
    ]);
    let json = server.chat(&asked).await.json();
    serde_json::from_value(json["prompt_token_ids"].clone()).unwrap_or_else(|_| panic!("{json}"))
}

/// A server whose model answers this body with this text, where it may.
async fn says(body: &Value, text: &str) -> TestServer {
    let prompt = prompt(&roomy().start(), body).await;
    roomy().script_tokens(&prompt, &text_tokens(text)).start()
}

const CALL: &str = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 7}}\n</tool_call>";

#[tokio::test]
async fn a_call_that_the_model_decides_on() {
    let body = body(json!({}));
    let server = says(&body, &format!(" I add.\n{CALL}")).await;
    let json = server.chat(&body).await.json();
    let choice = &json["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{json}");
    assert_eq!(choice["message"]["content"], "I add.\n");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]), (&json!("function"), &json!({"name": "add", "arguments": "{\"a\": 7}"})));
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!(choice["message"]["refusal"], Value::Null);
}

#[tokio::test]
async fn text_without_the_marker_stays_text() {
    let body = body(json!({"tool_choice": "auto"}));
    let server = says(&body, " Just <tool_text>, {\"name\": 1}").await;
    let json = server.chat(&body).await.json();
    assert_eq!(json["choices"][0]["message"]["content"], "Just <tool_text>, {\"name\": 1}");
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    assert!(json["choices"][0]["message"].get("tool_calls").is_none());
}

#[tokio::test]
async fn behind_the_marker_the_grammar_holds() {
    let body = body(json!({}));
    // The model would write something else behind the marker, and a name that is no tool's.
    for text in [" <tool_call> add 7", " <tool_call>\n{\"name\": \"sub\", \"arguments\": {\"a\": \"x\"}}\n</tool_call>"] {
        let server = says(&body, text).await;
        let json = server.chat(&body).await.json();
        let message = &json["choices"][0]["message"];
        let function = &message["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap_or_else(|| panic!("{json}"))).unwrap_or_default();
        match function["name"].as_str().unwrap() {
            "add" => assert!(arguments["a"].is_i64() || json["choices"][0]["finish_reason"] == "length", "{json}"),
            name => assert_eq!((name, arguments), ("now", json!({}))),
        }
    }
}

#[tokio::test]
async fn calls_that_must_come_do_whatever_the_model_says() {
    for (choice, names) in [
        (json!("required"), &["add", "now"][..]),
        (json!({"type": "function", "function": {"name": "now"}}), &["now"]),
        (json!({"type": "function", "function": {"name": "add"}}), &["add"]),
    ] {
        let body = body(json!({"tool_choice": choice, "parallel_tool_calls": false, "max_tokens": 120, "temperature": 1, "seed": 3}));
        let server = says(&body, " I will not call anything.").await;
        let json = server.chat(&body).await.json();
        let choice = &json["choices"][0];
        let calls = choice["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{json}"));
        assert!(calls.len() == 1 && names.contains(&calls[0]["function"]["name"].as_str().unwrap()), "{json}");
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&Value::Null, &json!("tool_calls")), "{json}");
    }
}

#[tokio::test]
async fn no_call_where_none_may_be() {
    let body = body(json!({"tool_choice": "none"}));
    let server = says(&body, &format!(" {CALL}")).await;
    let json = server.chat(&body).await.json();
    assert_eq!(json["choices"][0]["message"]["content"], CALL);
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    let plain = prompt(&server, &json!({"messages": [{"role": "user", "content": "Q"}]})).await;
    assert_eq!(prompt(&server, &body).await, plain, "the model does not hear of the tools");
}

#[tokio::test]
async fn a_stream_brings_names_first_and_arguments_in_pieces() {
    let body = body(json!({"stream": true}));
    let server = says(&body, &format!(" I add.\n{CALL}\n{CALL}")).await;
    let chunks = server.chat(&body).await.chunks();
    let (mut content, mut calls): (String, Vec<(Value, String)>) = Default::default();
    for chunk in &chunks {
        let delta = &chunk["choices"][0]["delta"];
        content.push_str(delta["content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            let arguments = call["function"]["arguments"].as_str().unwrap();
            if index == calls.len() {
                assert_eq!((&call["type"], &call["function"]["name"], arguments), (&json!("function"), &json!("add"), ""));
                calls.push((call["id"].clone(), String::new()));
            } else {
                assert!(call.get("id").is_none() && call.get("type").is_none() && call["function"].get("name").is_none(), "{call}");
                calls[index].1.push_str(arguments);
            }
        }
    }
    assert_eq!(content, "I add.\n");
    assert!(calls.len() == 2 && calls[0].0 != calls[1].0 && calls.iter().all(|(_, arguments)| arguments == "{\"a\": 7}"), "{calls:?}");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    assert!(chunks.iter().filter(|chunk| !chunk["choices"][0]["finish_reason"].is_null()).count() == 1);
}

#[tokio::test]
async fn calls_that_are_cut() {
    let body = body(json!({}));
    let server = says(&body, &format!(" {CALL}")).await;
    for max_tokens in 1..30 {
        let mut cut = body.clone();
        cut["max_tokens"] = json!(max_tokens);
        let json = server.chat(&cut).await.json();
        let choice = &json["choices"][0];
        if choice["finish_reason"] == "tool_calls" {
            assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"a\": 7}");
        } else {
            assert_eq!(choice["finish_reason"], "length");
        }
    }
}

#[tokio::test]
async fn calls_and_results_in_the_conversation() {
    let server = roomy().start();
    let conversation = json!([
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": null, "refusal": null, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 7}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "8"}]},
    ]);
    let answer = server.chat(&json!({"messages": conversation, "max_tokens": 2})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let tokens = prompt(&server, &json!({"messages": conversation})).await;
    let text = super::support::tokenizer().decode(&tokens, false);
    assert!(text.contains("<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\":7}}\n</tool_call>"), "{text}");
    assert!(text.contains("<tool_response>\n8\n</tool_response>"), "{text}");
}

#[tokio::test]
async fn what_is_wrong_with_tools_is_named() {
    let server = roomy().start();
    let tool = |function: Value| json!([{"type": "function", "function": function}]);
    let many: Vec<Value> = (0..129).map(|i| json!({"type": "function", "function": {"name": format!("f{i}")}})).collect();
    for (more, param) in [
        (json!({"tools": [{}]}), "tools[0].type"),
        (json!({"tools": [{"type": "web"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": tool(json!({}))}), "tools[0].function.name"),
        (json!({"tools": tool(json!({"name": "a b"}))}), "tools[0].function.name"),
        (json!({"tools": tool(json!({"name": "a", "parameters": []}))}), "tools[0].function.parameters"),
        (json!({"tools": tool(json!({"name": "a", "parameters": {"type": "array"}}))}), "tools[0].function.parameters.type"),
        (
            json!({"tools": tool(json!({"name": "a", "parameters": {"properties": {"x": {"not": {}}}}}))}),
            "tools[0].function.parameters.properties.x.not",
        ),
        (json!({"tools": tool(json!({"name": "a", "extra": 1}))}), "tools[0].function.extra"),
        (json!({"tools": [tools()[0], tools()[0]]}), "tools[1].function.name"),
        (json!({"tools": many}), "tools"),
        (json!({"tools": null, "tool_choice": "auto"}), "tool_choice"),
        (json!({"tools": [], "tool_choice": {"type": "function", "function": {"name": "add"}}}), "tool_choice"),
        (json!({"tool_choice": "any"}), "tool_choice"),
        (json!({"tool_choice": 5}), "tool_choice"),
        (json!({"tool_choice": {"type": "allowed_tools", "function": {"name": "add"}}}), "tool_choice.type"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "sub"}}}), "tool_choice.function.name"),
        (json!({"structured_outputs": {"regex": "a"}}), "structured_outputs.regex"),
        (json!({"chat_template_kwargs": {"messages": 1}}), "chat_template_kwargs.messages"),
        (json!({"functions": [{"name": "a"}]}), "functions"),
        (json!({"function_call": "auto"}), "function_call"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_call_id"),
        (json!({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}), "messages[0].tool_call_id"),
        (json!({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}), "messages[0].tool_calls"),
        (json!({"messages": [{"role": "assistant", "tool_calls": [{}]}]}), "messages[0].tool_calls[0].id"),
        (json!({"messages": [{"role": "assistant", "tool_calls": []}]}), "messages[0].content"),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "a"}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!({"messages": [{"role": "function", "content": "x"}]}), "messages[0].role"),
    ] {
        let answer = server.chat(&body(more.clone())).await;
        let error = answer.error();
        assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!(param)), "{more}: {error}");
    }
    for fine in [
        json!({"tools": [], "tool_choice": "none"}),
        json!({"tools": null}),
        json!({"response_format": {"type": "json_object"}, "tool_choice": "required"}),
    ] {
        let answer = server.chat(&body(fine)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn an_answer_may_be_a_call_or_json() {
    let body = body(json!({"response_format": {"type": "json_object"}, "max_tokens": 200}));
    for (text, finish) in [(format!(" {CALL}"), "tool_calls"), (" {\"b\": 1}".to_owned(), "stop")] {
        let prompt = prompt(&roomy().start(), &body).await;
        // Without the space that text begins with: it is no part of either form.
        let tokens: Vec<TokenId> = super::support::spelled(text.trim_start());
        let json = roomy().script_tokens(&prompt, &tokens).start().chat(&body).await.json();
        assert_eq!(json["choices"][0]["finish_reason"], finish, "{json}");
    }
}

#[tokio::test]
async fn a_template_that_knows_tools_writes_them_and_tells_the_syntax() {
    let template = "{% for tool in tools %}{{ tool.function.name }};{% endfor %}{% for m in messages %}{{ m.content }}{% if m.tool_calls %}[TOOL_CALLS] \
                    {{ m.tool_calls[0].function.arguments | tojson }}{% endif %}{% endfor %}";
    let setup = || Setup { template: Some(template), ..roomy() };
    let body = body(json!({}));
    let tokens = prompt(&setup().start(), &body).await;
    assert!(super::support::tokenizer().decode(&tokens, true).ends_with("add;now;Q"));
    let answer = " [TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"now\", \"arguments\": {}}]";
    let json = setup().script_tokens(&tokens, &text_tokens(answer)).start().chat(&body).await.json();
    let calls = json["choices"][0]["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{json}"));
    let functions: Vec<&Value> = calls.iter().map(|call| &call["function"]).collect();
    assert_eq!(functions, [&json!({"name": "add", "arguments": "{\"a\": 1}"}), &json!({"name": "now", "arguments": "{}"})]);
    let mut twice = body.clone();
    twice["chat_template_kwargs"] = json!({"tools": []});
    assert_eq!(setup().start().chat(&twice).await.error()["param"], "chat_template_kwargs.tools");
    let past = json!([{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]}]);
    let tokens = prompt(&setup().start(), &json!({"messages": past})).await;
    assert!(super::support::tokenizer().decode(&tokens, true).ends_with("[TOOL_CALLS] {\"a\": 1}"));
}

#[tokio::test]
async fn a_marker_inside_json_is_no_call() {
    let value = json!({"a": "<tool_call>", "b": {"name": "x", "arguments": {"z": 1}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": value}}});
    let server = roomy().start();
    for seed in 0..8 {
        let body = body(json!({"response_format": format, "temperature": 2, "seed": seed, "max_tokens": 200}));
        let json = server.chat(&body).await.json();
        let choice = &json["choices"][0];
        if choice["finish_reason"] == "stop" {
            let content = choice["message"]["content"].as_str().unwrap_or_else(|| panic!("{json}"));
            assert_eq!(serde_json::from_str::<Value>(content).unwrap(), value);
        }
    }
}
