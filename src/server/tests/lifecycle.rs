//! Clients that leave, wait or do not read; queues that are full; engines that stop.

use super::support::{Setup, TestServer, get, post};
use crate::engine::EngineConfig;
use crate::runner::fake::Fault;
use crate::server::ServerOptions;
use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;

fn long(stream: bool) -> Value {
    json!({"prompt": ["one", "two"], "n": 2, "max_tokens": 150, "ignore_eos": true, "stream": stream})
}

fn slow() -> Setup {
    Setup { latency: Duration::from_millis(3), ..Setup::new() }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

async fn frame(body: &mut Body) -> String {
    let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("in time").expect("a frame").unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_frees_its_blocks() {
    let server = slow().start();
    let request = server.app.clone().oneshot(post("/v1/completions", &long(false)));
    assert!(tokio::time::timeout(Duration::from_millis(100), request).await.is_err(), "still running");
    assert!(server.all_free().await);
    assert!(server.control.log().len() < 140, "it did not run to its end");
    assert_eq!(server.metric("vllm:request_success_total{engine=\"0\",finished_reason=\"abort\""), 4.0);
    until("counted", || server.metrics.render().contains("status=\"499\"")).await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_its_blocks() {
    let server = slow().start();
    let response = server.app.clone().oneshot(post("/v1/completions", &long(true))).await.unwrap();
    let mut body = response.into_body();
    assert!(frame(&mut body).await.starts_with("data: {"));
    assert!(server.metric("vllm:num_requests_running") > 0.0);
    drop(body);
    assert!(server.all_free().await);
    assert_eq!(server.metric("vllm:request_success_total{engine=\"0\",finished_reason=\"abort\""), 4.0);
}

#[tokio::test]
async fn clients_that_leave_at_any_moment_leak_nothing() {
    let setup = Setup { latency: Duration::from_micros(300), num_blocks: 40, ..Setup::new() };
    let server = setup.start();
    let clients = (0u64..100).map(|client| {
        let app = server.app.clone();
        tokio::spawn(async move {
            let patience = Duration::from_micros(client.wrapping_mul(7919) % 60_000);
            let run = async {
                let response = app.oneshot(post("/v1/completions", &long(client % 2 == 0))).await.unwrap();
                let _ = response.into_body().collect().await;
            };
            let _ = tokio::time::timeout(patience, run).await;
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert!(server.all_free().await);
    assert_eq!(server.complete(&json!({"prompt": "a", "max_tokens": 3})).await.status, 200);
}

#[tokio::test]
async fn a_full_queue_refuses_with_a_time_to_retry() {
    let engine = EngineConfig { max_num_seqs: 1, max_num_queued_reqs: 2, ..Setup::new().engine };
    let server = Setup { engine, ..Setup::new() }.start();
    server.control.hang();
    let first =
        server.app.clone().oneshot(post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2, "stream": true}))).await.unwrap();
    until("the first is running", || server.control.steps() > 0).await;
    let second = server
        .app
        .clone()
        .oneshot(post("/v1/completions", &json!({"prompt": "b", "n": 2, "max_tokens": 2, "stream": true})))
        .await
        .unwrap();
    let refused = server.complete(&json!({"prompt": "c"})).await;
    assert_eq!((refused.status.as_u16(), &refused.error()["code"]), (503, &json!("server_overloaded")));
    let after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&after) && !refused.headers.contains_key("x-should-retry"));
    server.control.release();
    for response in [first, second] {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.ends_with(b"data: [DONE]\n\n"));
    }
    assert!(server.all_free().await);
}

#[tokio::test]
async fn a_draining_server_finishes_and_refuses() {
    let server = slow().start();
    let running =
        server.app.clone().oneshot(post("/v1/completions", &json!({"prompt": "a", "max_tokens": 20, "stream": true}))).await.unwrap();
    server.engine.begin_drain();
    let refused = server.complete(&json!({"prompt": "b"})).await;
    assert_eq!((refused.status.as_u16(), &refused.error()["code"]), (503, &json!("server_shutting_down")));
    assert!(refused.headers.contains_key("retry-after"));
    assert!(running.into_body().collect().await.unwrap().to_bytes().ends_with(b"[DONE]\n\n"));
}

#[tokio::test]
async fn a_dead_engine_says_so() {
    let server = Setup::new().start();
    server.control.fail_next(Fault::Fatal);
    for _ in 0..2 {
        let answer = server.complete(&json!({"prompt": "a"})).await;
        assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (503, &json!("engine_dead")), "{}", answer.text());
        assert!(!answer.text().contains("injected"));
    }
    for path in ["/health", "/readyz", "/livez"] {
        let answer = server.send(get(path)).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (503, &json!("failed")), "{path}");
    }
}

#[tokio::test]
async fn an_engine_that_stands_still_is_not_alive() {
    let options = ServerOptions { liveness_timeout: Duration::from_millis(50), ..ServerOptions::default() };
    let server = Setup { options, ..Setup::new() }.start();
    server.control.hang();
    let waiting = server.app.clone().oneshot(post("/v1/completions", &json!({"prompt": "a", "stream": true}))).await.unwrap();
    until("the step has begun", || server.control.steps() > 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = server.send(get("/livez")).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (503, &json!("stalled")));
    server.control.release();
    let _ = waiting.into_body().collect().await;
}

#[tokio::test]
async fn a_stream_is_kept_alive_from_its_admission() {
    let options = ServerOptions { sse_keep_alive: Duration::from_millis(20), ..ServerOptions::default() };
    let server = Setup { options, ..Setup::new() }.start();
    server.control.hang();
    let response =
        server.app.clone().oneshot(post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2, "stream": true}))).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert_eq!(frame(&mut body).await, ": ping\n\n");
    assert_eq!(frame(&mut body).await, ": ping\n\n");
    server.control.release();
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_nobody() {
    let server = Setup::new().start();
    let body = json!({"prompt": "a", "max_tokens": 100, "seed": 1, "ignore_eos": true, "stream": true});
    let unread = server.app.clone().oneshot(post("/v1/completions", &body)).await.unwrap();
    let other = server.complete(&json!({"prompt": "b", "max_tokens": 100, "ignore_eos": true})).await;
    assert_eq!(other.status, 200);
    assert!(server.all_free().await, "the unread one is finished too");
    let late = unread.into_body().collect().await.unwrap().to_bytes();
    let at_once = server.complete(&body).await;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().matches("\"text\":").count();
    assert_eq!(text(&late), text(&at_once.body));
}

#[tokio::test]
async fn one_failed_choice_ends_its_siblings() {
    let server = Setup { latency: Duration::from_millis(2), ..Setup::new() }.poison(7).start();
    let body = json!({"prompt": [[5], [7]], "max_tokens": 150, "ignore_eos": true, "stream": true});
    let answer = server.complete(&body).await;
    // Both come out of the first step: the failure may be read before there was any chunk.
    let error = if answer.status == 500 { answer.error() } else { answer.chunks().last().unwrap()["error"].clone() };
    assert_eq!(error["code"], "non_finite_logits");
    assert!(server.all_free().await);
    assert!(server.control.log().len() < 100);
    check_metrics(&server);
}

fn check_metrics(server: &TestServer) {
    let page = server.metrics.render();
    assert!(page.contains("handler=\"/v1/completions\""), "{page}");
}
