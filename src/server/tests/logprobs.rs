//! Log-probabilities: one entry per token, whole and streamed alike.

use super::support::{Setup, text_tokens, tokenizer};
use serde_json::{Value, json};

/// All entries of a streamed completion, joined.
fn joined(chunks: &[Value], key: &str) -> Value {
    let parts = chunks.iter().filter_map(|c| c["choices"][0]["logprobs"][key].as_array());
    Value::Array(parts.flatten().cloned().collect())
}

#[tokio::test]
async fn prompts_are_scored_as_evaluation_harnesses_ask() {
    let server = Setup::new().start();
    let body = json!({"model": "demo", "prompt": [[1, 40, 41, 42], [1, 50]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true});
    let json = server.complete(&body).await.json();
    for (choice, length) in json["choices"].as_array().unwrap().iter().zip([4, 2]) {
        let logprobs = &choice["logprobs"];
        let scores = logprobs["token_logprobs"].as_array().unwrap();
        assert_eq!(scores.len(), length + 1, "prompt and one token");
        assert!(scores[0].is_null() && logprobs["top_logprobs"][0].is_null());
        for (score, top) in scores.iter().zip(logprobs["top_logprobs"].as_array().unwrap()).skip(1) {
            let best = top.as_object().unwrap().values().map(|v| v.as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max);
            assert!(score.as_f64().unwrap() <= best && top.as_object().unwrap().values().any(|v| v == score));
        }
        let last = scores.len() - 1;
        let best = logprobs["top_logprobs"][last].as_object().unwrap().values().next().unwrap();
        assert_eq!(&scores[last], best, "greedy: exactly the float of the best");
    }
}

#[tokio::test]
async fn a_prompt_may_be_scored_without_generating() {
    let server = Setup::new().start();
    let prompt: Vec<u32> = (0..256).map(|i| 5 + i % 7).collect();
    let body = json!({"prompt": prompt, "max_tokens": 0, "logprobs": 0, "echo": true});
    let json = server.complete(&body).await.json();
    assert_eq!(json["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().len(), 256);
    assert_eq!((&json["usage"]["completion_tokens"], &json["choices"][0]["finish_reason"]), (&json!(0), &json!("length")));
    let json = server.complete(&json!({"prompt": "Hi there", "max_tokens": 0, "echo": true})).await.json();
    assert_eq!(json["choices"][0]["text"], "Hi there");
}

#[tokio::test]
async fn an_end_token_has_an_entry_and_no_text() {
    let server = Setup::new().script("Q", &[2]).start();
    let json = server.complete(&json!({"prompt": "Q", "temperature": 0, "logprobs": 1, "max_tokens": 5})).await.json();
    let choice = &json["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(""), &json!("stop")));
    assert_eq!(choice["logprobs"]["tokens"], json!(["</s>"]));
    assert_eq!(json["usage"]["completion_tokens"], 1);
}

#[tokio::test]
async fn offsets_are_those_of_the_text() {
    let server = Setup::new().says("Say é", " naïve text\nnew line €").start();
    for echo in [false, true] {
        let body = json!({"prompt": "Say é", "temperature": 0, "logprobs": 1, "max_tokens": 60, "echo": echo});
        let json = server.complete(&body).await.json();
        let choice = &json["choices"][0];
        let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
        let tokens = choice["logprobs"]["tokens"].as_array().unwrap();
        let offsets: Vec<usize> =
            choice["logprobs"]["text_offset"].as_array().unwrap().iter().map(|v| usize::try_from(v.as_u64().unwrap()).unwrap()).collect();
        assert_eq!(tokens.len(), offsets.len());
        assert!(offsets.is_sorted() && offsets.iter().all(|&o| o <= text.len()));
        let mut checked = 0;
        for (token, &offset) in tokens.iter().zip(&offsets) {
            let token: Vec<char> = token.as_str().unwrap().chars().collect();
            let printable = token.iter().all(|c| c.is_alphabetic() || *c == '\n');
            if printable && !token.is_empty() {
                assert!(text[offset..].starts_with(&token), "{token:?} at {offset} of {text:?}");
                checked += 1;
            }
        }
        assert!(checked > 2);
    }
}

#[tokio::test]
async fn streamed_entries_are_the_whole_ones() {
    let server = Setup::new().says("Q", " a naïve € text\nEND and more").start();
    for stop in [json!(null), json!("END"), json!("t\nE")] {
        for echo in [false, true] {
            let mut body = json!({"prompt": "Q", "temperature": 0, "logprobs": 3, "max_tokens": 60, "stop": stop, "echo": echo});
            let whole = server.complete(&body).await.json();
            body["stream"] = json!(true);
            let chunks = server.complete(&body).await.chunks();
            for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                assert_eq!(joined(&chunks, key), whole["choices"][0]["logprobs"][key], "{key}");
            }
            let prompt = if echo { tokenizer().encode_prompt("Q").unwrap().len() } else { 0 };
            let generated = usize::try_from(whole["usage"]["completion_tokens"].as_u64().unwrap()).unwrap();
            assert_eq!(whole["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), prompt + generated);
        }
    }
}

#[tokio::test]
async fn bytes_of_chat_entries_are_the_text() {
    let server = Setup::new().start();
    let tokens = text_tokens(" \u{1F600} é\u{7}");
    let rendered =
        server.chat(&json!({"messages": [{"role": "user", "content": "Q"}], "max_tokens": 1, "return_token_ids": true})).await.json();
    let prompt: Vec<u32> = serde_json::from_value(rendered["prompt_token_ids"].clone()).unwrap();
    let prompt_text = tokenizer().decode(&prompt, false);
    assert!(prompt_text.contains('Q'));
    let server = Setup::new().script_tokens(&prompt, &tokens).start();
    let body =
        json!({"messages": [{"role": "user", "content": "Q"}], "max_tokens": 60, "temperature": 0, "logprobs": true, "top_logprobs": 1});
    let json = server.chat(&body).await.json();
    let choice = &json["choices"][0];
    let entries = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len(), tokens.len());
    let bytes: Vec<u8> =
        entries[..entries.len() - 1].iter().flat_map(|e| serde_json::from_value::<Vec<u8>>(e["bytes"].clone()).unwrap()).collect();
    let text = choice["message"]["content"].as_str().unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap().trim_start(), text.trim_start());
    assert!(entries.iter().all(|e| e["top_logprobs"].as_array().unwrap().len() == 1 && e["top_logprobs"][0]["logprob"] == e["logprob"]));
}
