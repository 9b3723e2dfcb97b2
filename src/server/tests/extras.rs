//! Parameters beyond OpenAI's, as vLLM has them.

use super::support::{BLOCK_SIZE, Setup, get, post, text_tokens, tokenizer};
use crate::engine::EngineConfig;
use crate::server::ServerOptions;
use serde_json::{Value, json};
use std::time::Duration;

fn with(base: &Value, more: Value) -> Value {
    let mut body = base.clone();
    let Value::Object(more) = more else { panic!("an object: {more}") };
    body.as_object_mut().unwrap().extend(more);
    body
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn stop_tokens_end_a_text_and_may_be_kept() {
    let server = Setup::new().says("Q", " one two three").start();
    let two = tokenizer().encode("two", false).unwrap();
    let body = json!({"prompt": "Q", "temperature": 0, "max_tokens": 50, "stop_token_ids": [two[0], 7.0]});
    let json = server.complete(&body).await.json();
    assert_eq!((text(&json), &json["choices"][0]["finish_reason"]), (" one", &json!("stop")));
    let json = server.complete(&with(&body, json!({"include_stop_str_in_output": true}))).await.json();
    assert!(text(&json).starts_with(" one t"), "{}", text(&json));
    let json = server.complete(&with(&body, json!({"min_tokens": 4}))).await.json();
    assert!(json["usage"]["completion_tokens"].as_u64().unwrap() > 4, "{json}");
}

#[tokio::test]
async fn a_stop_string_may_be_kept_whole_and_streamed() {
    let server = Setup::new().says("Q", " one two three").start();
    for (stop, wanted) in [("wo", " one two"), ("e t", " one t"), ("three", " one two three")] {
        let body = json!({"prompt": "Q", "temperature": 0, "max_tokens": 50, "stop": stop, "include_stop_str_in_output": true});
        let json = server.complete(&body).await.json();
        assert_eq!((text(&json), &json["choices"][0]["finish_reason"]), (wanted, &json!("stop")));
        let chunks = server.complete(&with(&body, json!({"stream": true}))).await.chunks();
        let streamed: String = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
        assert_eq!(streamed, wanted);
    }
}

#[tokio::test]
async fn bad_words_are_not_said() {
    let server = Setup::new().says("Q", " one two three").start();
    let body = json!({"prompt": "Q", "temperature": 0, "max_tokens": 40, "bad_words": ["two", "zebra"]});
    let json = server.complete(&body).await.json();
    assert!(text(&json).starts_with(" one") && !text(&json).contains(" two"), "{}", text(&json));
}

#[tokio::test]
async fn only_allowed_tokens_are_generated() {
    let server = Setup::new().start();
    let body = json!({"prompt": "Q", "max_tokens": 30, "temperature": 2, "allowed_token_ids": [40, 41], "return_token_ids": true});
    let json = server.complete(&body).await.json();
    let ids = json["choices"][0]["token_ids"].as_array().unwrap();
    assert!(ids.len() == 30 && ids.iter().all(|id| id == 40 || id == 41), "{ids:?}");
    // The end of the text is all that is allowed, and forbidden before the second token.
    let nothing = json!({"prompt": "Q", "allowed_token_ids": [2], "min_tokens": 1});
    let answer = server.complete(&nothing).await;
    assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (400, &json!("no_token_allowed")));
    assert_eq!(answer.error()["param"], "allowed_token_ids");
    assert!(server.all_free().await);
}

#[tokio::test]
async fn special_tokens_may_stay_in_the_text() {
    let mut script = text_tokens(" one");
    script.pop();
    script.extend([1, 2]);
    let server = Setup::new().script("Q", &script).start();
    let body = json!({"prompt": "Q", "temperature": 0, "max_tokens": 9, "logprobs": 0});
    assert_eq!(text(&server.complete(&body).await.json()), " one");
    let kept = with(&body, json!({"skip_special_tokens": false, "spaces_between_special_tokens": true}));
    let json = server.complete(&kept).await.json();
    assert_eq!(text(&json), " one<s>", "the token that ends the text is no part of it");
    assert_eq!(json["choices"][0]["logprobs"]["text_offset"].as_array().unwrap().last(), Some(&json!(7)));
    let json = server.complete(&with(&kept, json!({"include_stop_str_in_output": true}))).await.json();
    assert_eq!(text(&json), " one<s></s>");
}

#[tokio::test]
async fn tokens_may_be_written_as_ids() {
    let server = Setup::new().script("Q", &[40, 41, 2]).start();
    let body = json!({"prompt": "Q", "temperature": 0, "max_tokens": 2, "logprobs": 1, "return_tokens_as_token_ids": true});
    let logprobs = &server.complete(&body).await.json()["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["token_id:40", "token_id:41"]));
    assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().keys().collect::<Vec<_>>(), ["token_id:40"]);
    let body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "logprobs": true, "top_logprobs": 1, "return_tokens_as_token_ids": true});
    let entry = &server.chat(&body).await.json()["choices"][0]["logprobs"]["content"][0];
    assert!(entry["token"].as_str().unwrap().starts_with("token_id:") && entry["bytes"].is_array());
}

#[tokio::test]
async fn prompts_are_cut_on_request_alone() {
    let server = Setup::new().start();
    let long: Vec<u32> = (0..300).map(|i| 3 + i % 500).collect();
    let refused = server.complete(&json!({"prompt": long, "max_tokens": 4})).await;
    assert_eq!((refused.status.as_u16(), &refused.error()["code"]), (400, &json!("context_length_exceeded")));
    let base = json!({"prompt": long, "max_tokens": 4, "ignore_eos": true, "return_token_ids": true});
    for (more, wanted) in [
        (json!({"truncate_prompt_tokens": 5}), &long[295..]),
        (json!({"truncate_prompt_tokens": 5, "truncation_side": "right"}), &long[..5]),
        (json!({"truncate_prompt_tokens": -1}), &long[300 - 252..]),
    ] {
        let json = server.complete(&with(&base, more)).await.json();
        assert_eq!(json["choices"][0]["prompt_token_ids"], json!(wanted));
        assert_eq!(json["usage"]["prompt_tokens"], wanted.len());
    }
    let text = "word ".repeat(5000);
    let body = json!({"prompt": text, "truncate_prompt_tokens": 8, "max_tokens": 1});
    assert_eq!(server.complete(&body).await.json()["usage"]["prompt_tokens"], 8);
    let body = json!({"messages": [{"role": "user", "content": text}], "truncate_prompt_tokens": 8, "max_tokens": 1});
    assert_eq!(server.chat(&body).await.json()["usage"]["prompt_tokens"], 8);
}

#[tokio::test]
async fn a_prompt_may_go_without_the_token_that_begins_prompts() {
    let server = Setup::new().start();
    let ids = async |more: Value| {
        let body = with(&json!({"prompt": "Once upon", "max_tokens": 1, "return_token_ids": true}), more);
        server.complete(&body).await.json()["choices"][0]["prompt_token_ids"].clone()
    };
    let all = tokenizer().encode_prompt("Once upon").unwrap();
    assert_eq!(ids(json!({"add_special_tokens": true})).await, json!(all));
    assert_eq!(ids(json!({"add_special_tokens": false})).await, json!(all[1..]), "false is not the default, so it is not passed over");
}

#[tokio::test]
async fn salts_and_keys_part_the_prefix_cache() {
    let engine = EngineConfig { enable_prefix_caching: true, ..Setup::new().engine };
    let options = ServerOptions { api_keys: vec!["one".into(), "two".into()], ..ServerOptions::default() };
    let server = Setup { engine, options, ..Setup::new() }.start();
    let prompt: Vec<usize> = (0..4 * BLOCK_SIZE).map(|i| 40 + i).collect();
    let cached = async |key: &str, salt: Option<&str>| {
        let mut request = post("/v1/completions", &json!({"prompt": prompt, "max_tokens": 1, "cache_salt": salt}));
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        server.send(request).await.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached("one", None).await, 0);
    assert!(cached("one", None).await > 0);
    assert_eq!(cached("two", None).await, 0, "another key's prompts cannot be told from the cache");
    assert_eq!(cached("one", Some("a")).await, 0);
    assert!(cached("one", Some("a")).await > 0);
    assert_eq!(cached("one", Some("b")).await, 0);
}

#[tokio::test]
async fn a_request_past_its_time_ends_with_504_and_frees_its_blocks() {
    let server = Setup { latency: Duration::from_millis(5), ..Setup::new() }.start();
    let body = json!({"prompt": "a", "max_tokens": 200, "ignore_eos": true});
    let is_late = |answer: &super::support::Answer| {
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert_eq!((&answer.error()["code"], &answer.headers["x-should-retry"]), (&json!("deadline_exceeded"), &"false".parse().unwrap()));
    };
    let late = server.complete(&with(&body, json!({"timeout_ms": 60}))).await;
    is_late(&late);
    let (message, param) = (&late.error()["message"], &late.error()["param"]);
    assert_eq!((message, param), (&json!("the request took longer than its deadline of 60 ms"), &json!("timeout_ms")));
    let by_header = |ms: &str, body: &Value| {
        let mut request = post("/v1/completions", body);
        request.headers_mut().insert("request-timeout-ms", ms.parse().unwrap());
        request
    };
    let late = server.send(by_header("60", &body)).await;
    is_late(&late);
    assert_eq!(late.error()["param"], Value::Null, "no parameter said so");
    is_late(&server.send(by_header("60", &with(&body, json!({"timeout_ms": 60_000})))).await);
    let chunks = server.complete(&with(&body, json!({"timeout_ms": 60, "stream": true}))).await.chunks();
    assert_eq!(chunks.last().unwrap()["error"]["code"], "deadline_exceeded");
    assert!(chunks.len() > 1, "something came before");
    let wrong = server.send(by_header("soon", &body)).await;
    assert_eq!((wrong.status.as_u16(), &wrong.error()["param"]), (400, &json!("Request-Timeout-Ms")));
    assert_eq!(server.complete(&json!({"prompt": "a", "max_tokens": 2, "timeout_ms": 60_000})).await.status, 200);
    assert!(server.all_free().await);
    assert_eq!(server.send(get("/readyz")).await.status, 200);
}

#[tokio::test]
async fn every_chunk_carries_the_usage_so_far_on_request() {
    let server = Setup::new().start();
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let body = json!({"prompt": "abc", "max_tokens": 5, "ignore_eos": true, "stream": true, "stream_options": options});
    let chunks = server.complete(&body).await.chunks();
    let used: Vec<u64> = chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(used.is_sorted() && used.first() < used.last() && used.last() == Some(&5), "{used:?}");
    assert!(chunks.last().unwrap()["choices"].as_array().unwrap().is_empty());
    let body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "stream": true, "stream_options": {"continuous_usage_stats": true}});
    let chunks = server.chat(&body).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk["usage"]["total_tokens"].is_u64() && !chunk["choices"].as_array().unwrap().is_empty()));
}

#[tokio::test]
async fn the_best_of_several_choices_are_returned() {
    let server = Setup::new().start();
    let body = json!({"prompt": ["a", "b"], "n": 2, "best_of": 4, "seed": 5, "temperature": 1.5, "max_tokens": 6, "ignore_eos": true});
    let best = server.complete(&body).await.json();
    assert_eq!(best["usage"]["completion_tokens"], 2 * 4 * 6, "all that were generated count");
    let all = server.complete(&with(&body, json!({"n": 4, "best_of": 4, "logprobs": 0}))).await.json();
    let mean = |choice: &Value| {
        let scores = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        scores.iter().map(|v| v.as_f64().unwrap()).sum::<f64>() / scores.len() as f64
    };
    for prompt in 0..2 {
        let mut choices: Vec<&Value> = all["choices"].as_array().unwrap()[4 * prompt..4 * prompt + 4].iter().collect();
        choices.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        for rank in 0..2 {
            let found = &best["choices"][2 * prompt + rank];
            assert_eq!((&found["text"], &found["index"]), (&choices[rank]["text"], &json!(2 * prompt + rank)));
            assert!(found["logprobs"].is_null(), "they were not asked for");
        }
    }
    let refused = |body: Value| {
        let server = &server;
        async move {
            let answer = server.complete(&body).await;
            (answer.status.as_u16(), answer.error()["param"].clone())
        }
    };
    assert_eq!(refused(with(&body, json!({"stream": true}))).await, (400, json!("best_of")));
    assert_eq!(refused(with(&body, json!({"best_of": 1}))).await, (400, json!("best_of")));
    assert_eq!(refused(with(&body, json!({"best_of": 100}))).await, (400, json!("best_of")));
}

#[tokio::test]
async fn bad_values_are_refused_by_name() {
    let server = Setup::new().start();
    let vocab = tokenizer().vocab_size();
    for (param, value) in [
        ("stop_token_ids", json!([vocab])),
        ("stop_token_ids", json!([-1])),
        ("stop_token_ids", json!((0..1025).collect::<Vec<_>>())),
        ("allowed_token_ids", json!([])),
        ("allowed_token_ids", json!([vocab])),
        ("bad_words", json!([""])),
        ("bad_words", json!([" "])),
        ("bad_words", json!(vec!["a"; 65])),
        ("bad_words", json!(["a".repeat(5000)])),
        ("truncate_prompt_tokens", json!(0)),
        ("truncate_prompt_tokens", json!(-2)),
        ("truncation_side", json!("up")),
        ("cache_salt", json!("")),
        ("cache_salt", json!("a".repeat(2000))),
        ("timeout_ms", json!(0)),
        ("timeout_ms", json!(-5)),
        ("timeout_ms", json!(1e18)),
    ] {
        let answer = server.complete(&json!({"prompt": "a", param: value})).await;
        assert_eq!((answer.status.as_u16(), &answer.error()["param"]), (400, &json!(param)), "{value}");
    }
    for (param, value, at) in [
        ("stop_token_ids", json!(7), "stop_token_ids"),
        ("stop_token_ids", json!([1, null]), "stop_token_ids[1]"),
        ("allowed_token_ids", json!(["a"]), "allowed_token_ids[0]"),
        ("bad_words", json!([7]), "bad_words[0]"),
        ("skip_special_tokens", json!("yes"), "skip_special_tokens"),
        ("truncate_prompt_tokens", json!(1.5), "truncate_prompt_tokens"),
        ("cache_salt", json!(7), "cache_salt"),
    ] {
        let answer = server.complete(&json!({"prompt": "a", param: value})).await;
        let error = answer.error();
        assert_eq!((answer.status.as_u16(), &error["param"], &error["code"]), (400, &json!(at), &json!("invalid_type")), "{value}");
    }
}

#[tokio::test]
async fn the_last_message_may_be_continued_and_templates_get_variables() {
    let server = Setup::new().start();
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Sure, "}]);
    let tokens = async |more: Value| {
        let body = with(&json!({"messages": turns, "max_tokens": 1, "return_token_ids": true}), more);
        let answer = server.chat(&body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let ids: Vec<u32> = serde_json::from_value(answer.json()["prompt_token_ids"].clone()).unwrap();
        tokenizer().decode(&ids, false)
    };
    let next = tokens(json!({})).await;
    let closed = tokens(json!({"add_generation_prompt": false, "chat_template_kwargs": {"unused": 1}})).await;
    let open = tokens(json!({"add_generation_prompt": false, "continue_final_message": true})).await;
    assert!(next.starts_with(&closed) && closed.starts_with(&open) && next.len() > closed.len(), "{next:?} {closed:?} {open:?}");
    assert!(open.ends_with("Sure, ") && closed.ends_with("</s>"), "{closed:?} {open:?}");
    for (param, more) in [
        ("continue_final_message", json!({"continue_final_message": true})),
        ("chat_template_kwargs.messages", json!({"chat_template_kwargs": {"messages": []}})),
        ("chat_template_kwargs", json!({"chat_template_kwargs": [1]})),
    ] {
        let answer = server.chat(&with(&json!({"messages": turns}), more)).await;
        assert_eq!((answer.status.as_u16(), &answer.error()["param"]), (400, &json!(param)), "{}", answer.text());
    }
}

#[tokio::test]
async fn prompts_have_logprobs_of_their_own() {
    let server = Setup::new().start();
    let prompt = [1, 40, 41, 42];
    let body = json!({"prompt": prompt, "max_tokens": 1, "prompt_logprobs": 2, "echo": true, "logprobs": 1, "n": 2});
    let json = server.complete(&body).await.json();
    for choice in json["choices"].as_array().unwrap() {
        let own = choice["prompt_logprobs"].as_array().unwrap();
        let echoed = &choice["logprobs"];
        assert_eq!((own.len(), &own[0]), (prompt.len(), &Value::Null));
        for at in 1..prompt.len() {
            let found = &own[at][prompt[at].to_string()];
            assert_eq!(found["logprob"], echoed["token_logprobs"][at]);
            let ranks: Vec<u64> = own[at].as_object().unwrap().values().map(|entry| entry["rank"].as_u64().unwrap()).collect();
            assert!((2..=3).contains(&ranks.len()) && ranks.contains(&1) && ranks.contains(&2), "{ranks:?}");
            assert!(echoed["top_logprobs"][at].as_object().unwrap().len() <= 2 && found["decoded_token"].is_string());
        }
    }
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "prompt_logprobs": 0});
    let json = server.chat(&body).await.json();
    assert_eq!(
        json["prompt_logprobs"].as_array().unwrap().len(),
        usize::try_from(json["usage"]["prompt_tokens"].as_u64().unwrap()).unwrap()
    );
    for (bad, value) in [("stream", json!(true)), ("prompt_logprobs", json!(21)), ("prompt_logprobs", json!(-1))] {
        let answer = server.complete(&with(&json!({"prompt": "a", "prompt_logprobs": 1}), json!({bad: value}))).await;
        assert_eq!((answer.status.as_u16(), &answer.error()["param"]), (400, &json!("prompt_logprobs")));
    }
}
