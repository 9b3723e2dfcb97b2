//! What answers look like, whole and streamed.

use super::support::{Setup, TestServer, text_tokens, tokenizer};
use crate::server::extract::decode::{WireRequest, field_names};
use crate::server::{GenerationDefaults, ServerOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The text of each index of a stream, and the checks every stream must pass.
fn assemble(chunks: &[Value], text_of: impl Fn(&Value) -> &str) -> BTreeMap<u64, (String, String)> {
    let mut choices: BTreeMap<u64, (String, Option<String>)> = BTreeMap::new();
    for chunk in chunks {
        assert_eq!(chunk["id"], chunks[0]["id"]);
        for choice in chunk["choices"].as_array().unwrap() {
            let (text, finish) = choices.entry(choice["index"].as_u64().unwrap()).or_default();
            assert!(finish.is_none(), "something after finish_reason: {chunk}");
            text.push_str(text_of(choice));
            *finish = choice["finish_reason"].as_str().map(str::to_owned);
        }
    }
    choices.into_iter().map(|(index, (text, finish))| (index, (text, finish.expect("finish_reason")))).collect()
}

fn completion_text(choice: &Value) -> &str {
    choice["text"].as_str().unwrap()
}

fn chat_text(choice: &Value) -> &str {
    choice["delta"]["content"].as_str().unwrap_or("")
}

async fn streamed(server: &TestServer, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = json!(true);
    server.post(path, &body).await.chunks()
}

#[tokio::test]
async fn a_whole_completion() {
    let server = Setup::new().says("Once", " upon a time").start();
    let answer = server.complete(&json!({"prompt": "Once", "temperature": 0, "max_tokens": 50})).await;
    assert_eq!(answer.status, 200);
    let json = answer.json();
    assert!(json["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(json["object"], "text_completion");
    assert_eq!((&json["model"], &json["system_fingerprint"]), (&json!("demo"), &json!("fp_test")));
    let choice = json!({"text": " upon a time", "index": 0, "logprobs": null, "finish_reason": "stop"});
    assert_eq!(json["choices"], json!([choice]));
    let prompt = tokenizer().encode_prompt("Once").unwrap().len();
    let completion = text_tokens(" upon a time").len();
    let details = json!({"cached_tokens": 0});
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, "prompt_tokens_details": details});
    assert_eq!(json["usage"], usage);
    assert!(json["created"].as_u64().unwrap() > 1_700_000_000);
}

#[tokio::test]
async fn a_whole_chat() {
    let server = Setup::new().start();
    let body = json!({"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_completion_tokens": 3, "max_tokens": 200, "ignore_eos": true, "model": "apple/OpenELM"});
    let json = server.chat(&body).await.json();
    assert!(json["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&json["object"], &json["model"]), (&json!("chat.completion"), &json!("apple/OpenELM")));
    let choice = &json["choices"][0];
    assert_eq!((&choice["message"]["role"], &choice["message"]["refusal"]), (&json!("assistant"), &Value::Null));
    assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("length"), &Value::Null));
    assert_eq!(json["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn lengths_by_default() {
    let server = Setup::new().start();
    let json = server.complete(&json!({"prompt": "a", "ignore_eos": true})).await.json();
    assert_eq!(json["usage"]["completion_tokens"], 16);
    let near_the_end: Vec<u32> = vec![9; 250];
    let json = server.complete(&json!({"prompt": near_the_end, "ignore_eos": true})).await.json();
    assert_eq!((&json["usage"]["completion_tokens"], &json["choices"][0]["finish_reason"]), (&json!(6), &json!("length")));
    let json = server.chat(&json!({"messages": [{"role": "user", "content": "a"}], "ignore_eos": true})).await.json();
    assert_eq!(json["usage"]["total_tokens"], 256);
    let defaults = GenerationDefaults { max_new_tokens: Some(7), ..GenerationDefaults::default() };
    let server = Setup { defaults, ..Setup::new() }.start();
    let json = server.chat(&json!({"messages": [{"role": "user", "content": "a"}], "ignore_eos": true})).await.json();
    assert_eq!(json["usage"]["completion_tokens"], 7);
}

#[tokio::test]
async fn a_stream_is_the_whole_answer_in_pieces() {
    let server = Setup::new().start();
    let prompts = json!(["Once upon a time", "The cat", "é€"]);
    for changes in [
        json!({}),
        json!({"echo": true}),
        json!({"stop": ["a", "e ", "xyz"]}),
        json!({"logprobs": 2}),
        json!({"echo": true, "logprobs": 0}),
        json!({"min_tokens": 40}),
    ] {
        let mut body = json!({"prompt": prompts, "n": 3, "seed": 11, "max_tokens": 40, "temperature": 1.5});
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let whole = server.complete(&body).await.json();
        let chunks = streamed(&server, "/v1/completions", &body).await;
        let choices = assemble(&chunks, completion_text);
        assert_eq!(choices.len(), 9);
        for (index, (text, finish)) in choices {
            let choice = &whole["choices"][usize::try_from(index).unwrap()];
            assert_eq!((choice["text"].as_str(), choice["finish_reason"].as_str()), (Some(&*text), Some(&*finish)), "{changes}");
            assert_eq!(choice["index"], index);
        }
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "usage was not asked for");
    }
    let texts: Vec<_> = {
        let body = json!({"prompt": "a", "n": 3, "seed": -1, "max_tokens": 10, "temperature": 2});
        let answer = server.complete(&body).await.json();
        answer["choices"].as_array().unwrap().iter().map(|c| c["text"].to_string()).collect()
    };
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "choices of one seed differ: {texts:?}");
}

#[tokio::test]
async fn a_chat_stream_follows_openai() {
    let server = Setup::new().start();
    let body =
        json!({"messages": [{"role": "user", "content": "Hi"}], "n": 2, "seed": 5, "max_tokens": 12, "logprobs": true, "top_logprobs": 2});
    let whole = server.chat(&body).await.json();
    let mut with_usage = body.clone();
    with_usage["stream_options"] = json!({"include_usage": true});
    let chunks = streamed(&server, "/v1/chat/completions", &with_usage).await;
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk.get("usage") == Some(&Value::Null)));
    for index in 0..2 {
        let of_index: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index).collect();
        let (first, rest) = of_index.split_first().unwrap();
        assert_eq!(first["delta"], json!({"role": "assistant", "content": ""}));
        assert!(rest.iter().all(|c| c["delta"].get("role").is_none()));
        let (last, middle) = rest.split_last().unwrap();
        assert_eq!(last["delta"], json!({}));
        assert!(middle.iter().all(|c| c["finish_reason"].is_null()));
        let entries: Vec<Value> = of_index.iter().flat_map(|c| c["logprobs"]["content"].as_array().cloned().unwrap_or_default()).collect();
        assert_eq!(json!(entries), whole["choices"][index]["logprobs"]["content"]);
    }
    let choices = assemble(chunks, chat_text);
    for (index, (text, _)) in choices {
        assert_eq!(whole["choices"][usize::try_from(index).unwrap()]["message"]["content"], json!(text));
    }
}

#[tokio::test]
async fn a_stop_string_across_tokens_is_cut_and_counted() {
    let server = Setup::new().says("Q", " one two END three four").start();
    let tokens = text_tokens(" one two END three four");
    let until_stop = (1..=tokens.len()).find(|&n| tokenizer().decode(&tokens[..n], true).contains("END")).unwrap();
    assert!(until_stop < tokens.len() - 1);
    let body = json!({"prompt": "Q", "temperature": 0, "max_tokens": 60, "stop": ["nope", "END"]});
    let whole = server.complete(&body).await.json();
    assert_eq!(whole["choices"][0]["text"], " one two ");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["usage"]["completion_tokens"], until_stop);
    let chunks = streamed(&server, "/v1/completions", &body).await;
    assert_eq!(assemble(&chunks, completion_text)[&0], (" one two ".to_owned(), "stop".to_owned()));
    assert!(server.all_free().await, "the sequence was aborted");
}

#[tokio::test]
async fn a_held_back_prefix_is_flushed_when_it_fails() {
    let server = Setup::new().says("Q", " abcabx").start();
    let body = json!({"prompt": "Q", "temperature": 0, "max_tokens": 60, "stop": "abxy"});
    assert_eq!(server.complete(&body).await.json()["choices"][0]["text"], " abcabx");
}

#[tokio::test]
async fn token_ids_are_returned_in_both_shapes() {
    let server = Setup::new().start();
    let body = json!({"prompt": [[5, 6], [7]], "n": 2, "max_tokens": 4, "seed": 1, "ignore_eos": true, "return_token_ids": true});
    let whole = server.complete(&body).await.json();
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        assert_eq!(choice["prompt_token_ids"], if index < 2 { json!([5, 6]) } else { json!([7]) });
        assert_eq!(choice["token_ids"].as_array().unwrap().len(), 4);
    }
    let chunks = streamed(&server, "/v1/completions", &body).await;
    for index in 0..4 {
        let of_index: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index).collect();
        let ids: Vec<&Value> = of_index.iter().flat_map(|c| c["token_ids"].as_array().unwrap()).collect();
        assert_eq!(json!(ids), whole["choices"][index]["token_ids"]);
        assert_eq!(of_index.iter().filter(|c| c.get("prompt_token_ids").is_some()).count(), 1);
    }
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "return_token_ids": true, "seed": 1});
    let whole = server.chat(&body).await.json();
    assert_eq!(whole["prompt_token_ids"][0], 1, "the template's BOS, once");
    let chunks = streamed(&server, "/v1/chat/completions", &body).await;
    assert_eq!(chunks[0]["prompt_token_ids"], whole["prompt_token_ids"]);
    let ids: Vec<&Value> = chunks.iter().flat_map(|c| c["choices"][0]["token_ids"].as_array().into_iter().flatten()).collect();
    assert_eq!(json!(ids), whole["choices"][0]["token_ids"]);
}

#[tokio::test]
async fn without_a_tokenizer_answers_are_token_ids() {
    let server = Setup { with_tokenizer: false, ..Setup::new() }.start();
    let body = json!({"prompt": [5, 6], "max_tokens": 3, "ignore_eos": true, "return_token_ids": true, "logprobs": 1, "echo": true});
    let json = server.complete(&body).await.json();
    let choice = &json["choices"][0];
    assert_eq!((choice["text"].as_str(), choice["token_ids"].as_array().unwrap().len()), (Some(""), 3));
    assert_eq!(choice["logprobs"]["tokens"][0], "token_id:5");
    let chunks = streamed(&server, "/v1/completions", &body).await;
    assert_eq!(assemble(&chunks, completion_text)[&0], (String::new(), "length".to_owned()));
}

#[tokio::test]
async fn seeds_and_defaults() {
    let server = Setup::new().start();
    let ask = async |body: Value| server.complete(&body).await.json()["choices"][0]["text"].to_string();
    let body = json!({"prompt": "a", "max_tokens": 12, "seed": -9, "temperature": 1.3});
    assert_eq!(ask(body.clone()).await, ask(body).await);
    let unseeded = json!({"prompt": "a", "max_tokens": 12, "temperature": 2});
    assert_ne!(ask(unseeded.clone()).await, ask(unseeded.clone()).await);
    let options = ServerOptions { default_seed: Some(3), ..ServerOptions::default() };
    let seeded = Setup { options, ..Setup::new() }.start();
    let first = seeded.complete(&unseeded).await.json();
    assert_eq!(first["choices"], seeded.complete(&unseeded).await.json()["choices"]);
    let defaults = GenerationDefaults { temperature: Some(0.0), ..GenerationDefaults::default() };
    let greedy = Setup { defaults, ..Setup::new() }.start();
    let default = json!({"prompt": "a", "max_tokens": 12});
    let explicit = json!({"prompt": "a", "max_tokens": 12, "temperature": 0, "seed": 8});
    assert_eq!(greedy.complete(&default).await.json()["choices"], server.complete(&explicit).await.json()["choices"]);
    let nucleus = json!({"prompt": "a", "max_tokens": 12, "top_p": 0});
    assert_eq!(server.complete(&nucleus).await.json()["choices"], server.complete(&explicit).await.json()["choices"]);
}

#[tokio::test]
async fn null_is_the_default_everywhere_and_hints_are_accepted() {
    let server = Setup::new().start();
    let all = |names: &[&str], body: Value| {
        let mut body = body;
        for name in names {
            let missing = body.get(*name).is_none();
            if missing {
                body[*name] = Value::Null;
            }
        }
        body
    };
    type Completion = crate::api::completion::CompletionRequest;
    type Chat = crate::api::chat::ChatRequest;
    let body = all(field_names::<Completion>(), all(Completion::NOT_IMPLEMENTED, json!({"prompt": "a"})));
    assert_eq!(server.complete(&body).await.status, 200);
    let message = json!({"role": "user", "content": "a", "name": null, "refusal": null, "tool_calls": null, "audio": null});
    let body = all(field_names::<Chat>(), all(Chat::NOT_IMPLEMENTED, json!({"messages": [message], "max_tokens": 2})));
    assert_eq!(server.chat(&body).await.status, 200);
    let hints = json!({"prompt": "a", "store": true, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": true,
        "prompt_cache_key": "k", "safety_identifier": "s", "user": "u", "best_of": 1, "top_k": -1, "seed": i64::MIN});
    assert_eq!(server.complete(&hints).await.status, 200);
}
