//! `/tokenize`, `/detokenize`, `/tokenizer_info`.

use super::support::{MAX_MODEL_LEN, Setup, get, tokenizer};
use serde_json::{Value, json};

#[tokio::test]
async fn texts_become_tokens_and_texts_again() {
    let server = Setup::new().start();
    let json = server.post("/tokenize", &json!({"prompt": "Once upon", "return_token_strs": true})).await.json();
    let ids = tokenizer().encode_prompt("Once upon").unwrap();
    assert_eq!((&json["tokens"], &json["count"], &json["max_model_len"]), (&json!(ids), &json!(ids.len()), &json!(MAX_MODEL_LEN)));
    let spelled = json["token_strs"].as_array().unwrap();
    assert_eq!((spelled.len(), &spelled[0]), (ids.len(), &json!("<s>")));
    let json = server.post("/detokenize", &json!({"tokens": ids, "model": "demo"})).await.json();
    assert_eq!(json, json!({"prompt": "<s> Once upon"}));
    // As lm-eval asks.
    let json = server.post("/tokenize", &json!({"prompt": "Once upon", "add_special_tokens": false})).await.json();
    assert_eq!((&json["tokens"], &json["token_strs"]), (&json!(ids[1..]), &Value::Null));
    let json = server.post("/tokenize", &json!({"prompt": "", "add_special_tokens": false})).await.json();
    assert_eq!((&json["tokens"], &json["count"]), (&json!([]), &json!(0)));
    assert_eq!(server.post("/detokenize", &json!({"tokens": []})).await.json(), json!({"prompt": ""}));
}

#[tokio::test]
async fn texts_longer_than_the_context_are_tokenized() {
    let server = Setup::new().start();
    let text = "a word and another one ".repeat(4000);
    let json = server.post("/tokenize", &json!({"prompt": text})).await.json();
    assert!(json["count"].as_u64().unwrap() > 10_000);
    let back = server.post("/detokenize", &json!({"tokens": json["tokens"]})).await.json();
    assert!(back["prompt"].as_str().unwrap() == format!("<s> {text}"));
}

#[tokio::test]
async fn conversations_become_the_tokens_that_the_model_reads() {
    let server = Setup::new().start();
    let messages = json!([{"role": "user", "content": "Hi </s> there"}]);
    let json = server.post("/tokenize", &json!({"messages": messages})).await.json();
    let answer = server.chat(&json!({"messages": messages, "max_tokens": 1, "return_token_ids": true})).await.json();
    assert_eq!(json["tokens"], answer["prompt_token_ids"]);
}

#[tokio::test]
async fn the_tokenizer_is_described() {
    let json = Setup::new().start().send(get("/tokenizer_info")).await.json();
    assert_eq!((&json["bos_token"], &json["eos_token"]), (&json!("<s>"), &json!("</s>")));
    assert_eq!((&json["vocab_size"], &json["model_max_length"]), (&json!(tokenizer().vocab_size()), &json!(MAX_MODEL_LEN)));
    assert!(json["tokenizer_class"].is_string() && json["chat_template"].is_string());
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = Setup::new().start();
    for (path, body, status, param) in [
        ("/tokenize", json!({}), 400, "prompt"),
        ("/tokenize", json!({"prompt": "a", "messages": []}), 400, "messages"),
        ("/tokenize", json!({"messages": []}), 400, "messages"),
        ("/tokenize", json!({"prompt": 5}), 400, "prompt"),
        ("/tokenize", json!({"prompt": "a", "promt": 5}), 400, "promt"),
        ("/tokenize", json!({"prompt": "a", "tools": []}), 400, "tools"),
        ("/tokenize", json!({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}), 400, "tools[0].type"),
        (
            "/tokenize",
            json!({"messages": [{"role": "user", "content": "a"}], "continue_final_message": true}),
            400,
            "continue_final_message",
        ),
        ("/tokenize", json!({"prompt": "a", "model": "x"}), 404, "model"),
        ("/detokenize", json!({}), 400, "tokens"),
        ("/detokenize", json!({"tokens": [-1]}), 400, "tokens"),
        ("/detokenize", json!({"tokens": [4_000_000_000_u32]}), 400, "tokens"),
        ("/detokenize", json!({"tokens": "a"}), 400, "tokens"),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!((answer.status.as_u16(), &answer.error()["param"]), (status, &json!(param)), "{path} {body}");
    }
    let server = Setup { with_tokenizer: false, ..Setup::new() }.start();
    for (path, body) in [("/tokenize", json!({"prompt": "a"})), ("/detokenize", json!({"tokens": [5]}))] {
        assert_eq!(server.post(path, &body).await.error()["code"], "unsupported_parameter", "{path}");
    }
    assert_eq!(server.send(get("/tokenizer_info")).await.status, 400);
}

#[tokio::test]
async fn a_rendered_prompt_is_what_the_model_would_read() {
    let server = Setup::new().start();
    let body = json!({"prompt": ["Q", [5, 6]], "n": 2, "max_tokens": 7, "temperature": 0.5, "seed": 3, "return_token_ids": true});
    let rendered = server.post("/v1/completions/render", &body).await.json();
    let answer = server.complete(&body).await;
    assert_eq!(answer.status, 400, "prompts are of one kind: {}", answer.text());
    assert_eq!(rendered["error"]["param"], answer.error()["param"]);
    let body = json!({"prompt": ["Q", "R"], "n": 2, "max_tokens": 7, "temperature": 0.5, "seed": 3, "return_token_ids": true});
    let rendered = server.post("/v1/completions/render", &body).await.json();
    let answer = server.complete(&body).await.json();
    for prompt in 0..2 {
        assert_eq!(rendered[prompt]["token_ids"], answer["choices"][2 * prompt]["prompt_token_ids"]);
        let sampling = &rendered[prompt]["sampling_params"];
        assert_eq!(
            (&sampling["n"], &sampling["max_tokens"], &sampling["temperature"], &sampling["seed"]),
            (&json!(2), &json!(7), &json!(0.5), &json!(3))
        );
    }
    let chat = json!({"messages": [{"role": "user", "content": "Q"}], "return_token_ids": true, "max_tokens": 1});
    let rendered = server.post("/v1/chat/completions/render", &chat).await.json();
    assert_eq!(rendered["token_ids"], server.chat(&chat).await.json()["prompt_token_ids"]);
    assert!(
        rendered["prompt"].as_str().unwrap().contains('Q') && rendered["request_id"].as_str().unwrap().starts_with("chatcmpl-"),
        "{rendered}"
    );
    let steps = server.control.steps();
    server.post("/v1/chat/completions/render", &chat).await;
    assert_eq!(server.control.steps(), steps, "nothing is computed");
    let wrong = server.post("/v1/chat/completions/render", &json!({"messages": [], "n": 0})).await;
    assert_eq!(wrong.status, 400);
}
