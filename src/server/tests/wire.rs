//! Routes, headers, keys, encodings, and the document that describes them.

use super::support::{Answer, Setup, get, post};
use crate::server::{ServerOptions, openapi};
use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

#[tokio::test]
async fn models_under_all_their_names() {
    let server = Setup::new().start();
    let list = server.send(get("/v1/models")).await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    for (path, id) in [("demo", "demo"), ("apple/OpenELM", "apple/OpenELM"), ("apple%2FOpenELM", "apple/OpenELM")] {
        let model = server.send(get(&format!("/v1/models/{path}"))).await.json();
        assert_eq!((&model["id"], &model["object"], &model["root"]), (&json!(id), &json!("model"), &json!("demo")));
        assert_eq!((&model["max_model_len"], &model["chat_template"]), (&json!(256), &json!("demo")));
    }
    for other in ["other", "%ff"] {
        let answer = server.send(get(&format!("/v1/models/{other}"))).await;
        assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (404, &json!("model_not_found")), "{other}");
    }
}

#[tokio::test]
async fn probes_metrics_and_version() {
    let server = Setup::new().start();
    for path in ["/health", "/livez", "/readyz", "/startupz"] {
        let answer = server.send(get(path)).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"status": "ok"})), "{path}");
    }
    assert_eq!(server.send(get("/version")).await.json(), json!({"version": env!("CARGO_PKG_VERSION")}));
    let metrics = server.send(get("/metrics")).await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(metrics.text().contains("http_requests_total"), "{}", metrics.text());
    server.engine.begin_drain();
    for (path, status) in [("/health", 503), ("/readyz", 503), ("/livez", 200), ("/startupz", 200)] {
        assert_eq!(server.send(get(path)).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_get_the_envelope() {
    let server = Setup::new().start();
    let answer = server.send(get("/v1/nothing")).await;
    assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (404, &json!("unknown_url")));
    let answer = server.send(get("/v1/completions")).await;
    assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (405, &json!("method_not_allowed")));
    assert_eq!(answer.headers["allow"], "POST");
    let answer = server.send(Request::delete("/v1/models").body(Body::empty()).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.headers["allow"].to_str().unwrap()), (405, "GET,HEAD"));
    let head = server.send(Request::head("/health").body(Body::empty()).unwrap()).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn keys_guard_everything_but_probes() {
    let options = ServerOptions { api_keys: vec!["one".into(), "two".into()], ..ServerOptions::default() };
    let server = Setup { options, ..Setup::new() }.start();
    for path in ["/v1/models", "/v1/completions", "/openapi.json", "/nothing"] {
        let answer = server.send(get(path)).await;
        assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (401, &json!("invalid_api_key")), "{path}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    for path in ["/health", "/livez", "/readyz", "/startupz", "/metrics", "/version"] {
        assert_eq!(server.send(get(path)).await.status, 200, "{path}");
    }
    for key in ["one", "two"] {
        let mut request = post("/v1/completions", &json!({"prompt": "a"}));
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        assert_eq!(server.send(request).await.status, 200);
    }
    let mut request = get("/v1/models");
    request.headers_mut().insert("authorization", "Bearer three".parse().unwrap());
    assert_eq!(server.send(request).await.status, 401);
}

#[tokio::test]
async fn request_ids_are_echoed_or_made() {
    let server = Setup::new().start();
    let id = |answer: Answer| answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let with = |value: &str| Request::get("/v1/nothing").header("x-request-id", value).body(Body::empty()).unwrap();
    assert_eq!(id(server.send(with("abc-1")).await), "abc-1");
    assert!(id(server.send(with("two words")).await).starts_with("req-"));
    assert_ne!(id(server.send(get("/health")).await), id(server.send(get("/health")).await));
    let streamed = server.complete(&json!({"prompt": "a", "stream": true})).await;
    assert_eq!(streamed.headers["content-type"], "text/event-stream; charset=utf-8");
    assert!(id(streamed).starts_with("req-"));
}

fn gzip(body: &[u8]) -> Vec<u8> {
    // Stored blocks: a valid gzip file without a compressor.
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut chunks = body.chunks(0xffff).peekable();
    while let Some(chunk) = chunks.next() {
        let length = u16::try_from(chunk.len()).unwrap();
        file.push(u8::from(chunks.peek().is_none()));
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
        file.extend(chunk);
    }
    let crc = !body.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    });
    file.extend(crc.to_le_bytes());
    file.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    file
}

#[tokio::test]
async fn compressed_bodies_are_read_within_the_limit() {
    let options = ServerOptions { max_body_bytes: 1000, ..ServerOptions::default() };
    let server = Setup { options, ..Setup::new() }.start();
    let send = async |body: Vec<u8>, encoding: &str| {
        let request = Request::post("/v1/completions").header("content-type", "application/json").header("content-encoding", encoding);
        server.send(request.body(Body::from(body)).unwrap()).await
    };
    // Names of encodings are the same in capitals, and the older one means gzip (RFC 9110).
    for name in ["gzip", "GZIP", "Gzip", "x-gzip", "X-GZip"] {
        assert_eq!(send(gzip(br#"{"prompt":"a"}"#), name).await.status, 200, "{name}");
    }
    let large = format!("{{\"prompt\":\"{}\"}}", "a".repeat(2000));
    assert_eq!(send(gzip(large.as_bytes()), "gzip").await.error()["code"], "request_too_large");
    assert_eq!(send(b"not gzip".to_vec(), "gzip").await.error()["code"], "unreadable_body");
    let answer = send(b"{}".to_vec(), "zstd").await;
    assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (415, &json!("unsupported_media_type")));
    let answer = server.complete(&json!({"prompt": "a".repeat(2000)})).await;
    assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (413, &json!("request_too_large")));
}

#[tokio::test]
async fn a_panic_is_a_500_with_the_envelope() {
    let answer = crate::server::panics::respond(Box::new("secret"));
    assert_eq!(answer.status(), 500);
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let answer = Answer { status: 500.try_into().unwrap(), headers: Default::default(), body: body.to_vec() };
    assert_eq!(answer.error()["code"], "internal_error");
    assert!(!answer.text().contains("secret"));
}

#[tokio::test]
async fn every_route_is_described_and_every_description_has_a_route() {
    let server = Setup::new().start();
    let document = server.send(get("/openapi.json")).await.json();
    assert_eq!(document, serde_json::to_value(openapi::document()).unwrap());
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        let path = path.replace("{id}", "demo");
        for method in operations.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let method: Method = method.to_uppercase().parse().unwrap();
            let request = Request::builder().method(&method).uri(&path).body(Body::empty()).unwrap();
            let status = server.send(request).await.status;
            assert!(!matches!(status.as_u16(), 404 | 405), "{method} {path}: {status}");
        }
    }
    let source = include_str!("../mod.rs");
    for route in source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let path = route.split('"').next().unwrap().replace("{*id}", "{id}");
        assert!(paths.contains_key(&path), "{path} is not described");
    }
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_ask_and_streams_never() {
    let server = Setup::new().start();
    let ask = |body: &Value, encoding: &str| {
        let body = Body::from(serde_json::to_vec(body).unwrap());
        let request = Request::post("/v1/completions").header("content-type", "application/json");
        request.header("accept-encoding", encoding).body(body).unwrap()
    };
    let body = json!({"prompt": "Q", "max_tokens": 100, "logprobs": 3, "ignore_eos": true, "seed": 1});
    let plain = server.send(ask(&body, "identity")).await;
    let packed = server.send(ask(&body, "gzip, br")).await;
    assert_eq!((plain.headers.get("content-encoding"), packed.headers["content-encoding"].to_str().unwrap()), (None, "gzip"));
    assert!(
        packed.body.len() < plain.body.len() / 2 && packed.body.starts_with(&[0x1f, 0x8b]),
        "{} {}",
        packed.body.len(),
        plain.body.len()
    );
    assert!(packed.headers["vary"].to_str().unwrap().eq_ignore_ascii_case("accept-encoding"));
    let streamed = json!({"prompt": "Q", "max_tokens": 100, "ignore_eos": true, "stream": true});
    let answer = server.send(ask(&streamed, "gzip")).await;
    assert_eq!(answer.headers.get("content-encoding"), None);
    assert!(answer.chunks().len() > 50);
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_only_if_they_were_named() {
    let preflight = |origin: &str| {
        let request = Request::options("/v1/chat/completions").header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        request.header("access-control-request-headers", "authorization,content-type").body(Body::empty()).unwrap()
    };
    let closed = Setup::new().start();
    let answer = closed.send(preflight("https://a.example")).await;
    assert_eq!((answer.status.as_u16(), answer.headers.get("access-control-allow-origin")), (405, None));
    for (allowed, wanted) in [("https://a.example", "https://a.example"), ("*", "*")] {
        let options = ServerOptions { cors_allowed_origins: vec![allowed.into()], api_keys: vec!["k".into()], ..ServerOptions::default() };
        let server = Setup { options, ..Setup::new() }.start();
        let answer = server.send(preflight("https://a.example")).await;
        assert_eq!((answer.status.as_u16(), answer.headers["access-control-allow-origin"].to_str().unwrap()), (200, wanted));
        assert!(answer.headers["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
        let refused = server.send(Request::get("/v1/models").header("origin", "https://a.example").body(Body::empty()).unwrap()).await;
        assert_eq!((refused.status.as_u16(), refused.headers["access-control-allow-origin"].to_str().unwrap()), (401, wanted));
        assert!(refused.headers["access-control-expose-headers"].to_str().unwrap().contains("x-request-id"));
    }
}
