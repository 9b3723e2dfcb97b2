//! What streams tell beside text, and how often.

use super::support::{Answer, Setup};
use crate::engine::EngineConfig;
use serde_json::{Value, json};

fn texts(answer: &Answer) -> Vec<String> {
    let text = |chunk: &Value| chunk["choices"][0]["text"].as_str().unwrap_or_default().to_owned();
    answer.chunks().iter().map(text).filter(|text| !text.is_empty()).collect()
}

#[tokio::test]
async fn chunks_come_every_so_many_tokens_the_first_at_once() {
    let server = Setup::new().start();
    let body = json!({"prompt": "Q", "temperature": 0, "max_tokens": 20, "ignore_eos": true, "stream": true, "return_token_ids": true, "logprobs": 1});
    let each = server.complete(&body).await;
    let mut sparse = body.clone();
    sparse["stream_interval"] = json!(6);
    let sparse = server.complete(&sparse).await;
    assert_eq!(texts(&sparse).concat(), texts(&each).concat());
    let counts = |answer: &Answer| -> Vec<usize> {
        let chunks = answer.chunks();
        let ids = chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array()).map(Vec::len);
        ids.filter(|count| *count > 0).collect()
    };
    assert_eq!((counts(&each), counts(&sparse)), (vec![1; 20], vec![1, 6, 6, 6, 1]));
    for chunk in sparse.chunks() {
        let choice = &chunk["choices"][0];
        let entries = choice["logprobs"]["tokens"].as_array().map_or(0, Vec::len);
        assert_eq!(entries, choice["token_ids"].as_array().map_or(0, Vec::len), "an entry for each token: {chunk}");
    }
}

#[tokio::test]
async fn a_stream_tells_how_far_its_prompt_is() {
    let engine = EngineConfig { max_num_batched_tokens: 16, ..EngineConfig::default() };
    let server = Setup { engine, ..Setup::new() }.start();
    let ids: Vec<u32> = (0..100).map(|i| 300 + i).collect();
    let body = json!({"prompt": ids, "max_tokens": 3, "stream": true, "return_progress": true});
    let chunks = server.complete(&body).await.chunks();
    let progress: Vec<&Value> = chunks.iter().map(|chunk| &chunk["prompt_progress"]).take_while(|progress| progress.is_object()).collect();
    let processed: Vec<u64> = progress.iter().map(|progress| progress["processed"].as_u64().unwrap()).collect();
    assert_eq!(processed, [16, 32, 48, 64, 80, 96]);
    assert!(progress.iter().all(|progress| progress["total"] == 100 && progress["cache"] == 0 && progress["time_ms"].is_u64()));
    let quiet = json!({"prompt": ids, "max_tokens": 3, "stream": true});
    assert!(server.complete(&quiet).await.chunks().iter().all(|chunk| chunk.get("prompt_progress").is_none()));
    let chat =
        json!({"messages": [{"role": "user", "content": "long ".repeat(50)}], "max_tokens": 3, "stream": true, "return_progress": true});
    let chunks = server.chat(&chat).await.chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks[1]["prompt_progress"].is_object() && chunks[1]["choices"][0]["delta"] == json!({}), "{}", chunks[1]);
}

#[tokio::test]
async fn listed_tokens_stand_in_place_of_the_likeliest() {
    let server = Setup::new().start();
    let body = json!({"prompt": "Q", "max_tokens": 3, "temperature": 0, "logprobs": 2, "logprob_token_ids": [41, 40, 40], "return_tokens_as_token_ids": true});
    let json = server.complete(&body).await.json();
    for (position, top) in json["choices"][0]["logprobs"]["top_logprobs"].as_array().unwrap().iter().enumerate() {
        let names: Vec<&String> = top.as_object().unwrap().keys().collect();
        assert!(names.iter().filter(|name| ["token_id:40", "token_id:41"].contains(&name.as_str())).count() == 2, "{position}: {top}");
    }
    let chat = json!({"messages": [{"role": "user", "content": "Q"}], "max_tokens": 1, "logprobs": true, "logprob_token_ids": [40, 41]});
    let json = server.chat(&chat).await.json();
    let top = json["choices"][0]["logprobs"]["content"][0]["top_logprobs"].as_array().unwrap();
    assert!(top.len() == 2 && top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64(), "{top:?}");
}

#[tokio::test]
async fn what_is_wrong_with_them_is_named() {
    let server = Setup::new().start();
    let many: Vec<u32> = (0..129).collect();
    for (more, param) in [
        (json!({"stream_interval": 2}), "stream_interval"),
        (json!({"stream_interval": 0, "stream": true}), "stream_interval"),
        (json!({"return_progress": true}), "return_progress"),
        (json!({"return_progress": 1, "stream": true}), "return_progress"),
        (json!({"logprob_token_ids": [5]}), "logprob_token_ids"),
        (json!({"logprob_token_ids": [5_000_000], "logprobs": 1}), "logprob_token_ids"),
        (json!({"logprob_token_ids": many, "logprobs": 1}), "logprob_token_ids"),
        (json!({"priority": 101}), "priority"),
        (json!({"priority": -101}), "priority"),
        (json!({"priority": 0.5}), "priority"),
    ] {
        let mut body = json!({"prompt": "Q"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = server.complete(&body).await;
        assert_eq!((answer.status.as_u16(), &answer.error()["param"]), (400, &json!(param)), "{more}");
    }
    let fine = json!({"prompt": "Q", "priority": -100, "return_progress": false, "stream_interval": 1, "max_tokens": 1});
    assert_eq!(server.complete(&fine).await.status, 200);
}
