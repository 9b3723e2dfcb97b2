//! Over real sockets: time limits, shutdown, clients that hang up.

use super::support::{Setup, TestServer};
use crate::server::{ServerOptions, serve};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Listening {
    server: TestServer,
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn listen(setup: Setup) -> Listening {
    let options = setup.options.clone();
    let server = setup.start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, server.app.clone(), options, shutdown.clone()));
    Listening { server, address, shutdown, task }
}

fn short() -> ServerOptions {
    let short = Duration::from_millis(300);
    ServerOptions { header_timeout: short, body_timeout: short, write_timeout: short, shutdown_timeout: short, ..ServerOptions::default() }
}

fn request(body: &str) -> String {
    let length = body.len();
    format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Everything until the server closes, or whatever came before an error.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn read_some(stream: &mut TcpStream, until: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(until) {
        let n = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer)).await.expect("in time").unwrap();
        assert!(n > 0, "closed after {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    text
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_cut() {
    let on = listen(Setup { options: short(), ..Setup::new() }).await;
    for beginning in ["", "P", "PRI * HT", "POST /v1/completions HTTP/1.1\r\nhost: x\r\n"] {
        let mut client = TcpStream::connect(on.address).await.unwrap();
        client.write_all(beginning.as_bytes()).await.unwrap();
        let start = Instant::now();
        let answer = read_all(&mut client).await;
        assert!(!answer.contains("200 OK") && start.elapsed() < Duration::from_secs(10), "{beginning:?}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_body_gets_a_408() {
    let on = listen(Setup { options: short(), ..Setup::new() }).await;
    let mut client = TcpStream::connect(on.address).await.unwrap();
    let whole = request("{\"prompt\": \"a\"}");
    client.write_all(&whole.as_bytes()[..whole.len() - 3]).await.unwrap();
    let answer = read_some(&mut client, "request_timeout").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(!answer.contains("x-should-retry"));
}

#[tokio::test]
async fn an_idle_connection_outlives_the_header_timeout() {
    let on = listen(Setup { options: ServerOptions { header_timeout: Duration::from_millis(300), ..short() }, ..Setup::new() }).await;
    let mut client = TcpStream::connect(on.address).await.unwrap();
    for pause in [0, 900] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        client.write_all(request("{\"prompt\": \"a\", \"max_tokens\": 1}").as_bytes()).await.unwrap();
        assert!(read_some(&mut client, "total_tokens").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn an_idle_connection_ends_after_the_keep_alive_timeout() {
    let options = ServerOptions { keep_alive_timeout: Duration::from_millis(500), ..short() };
    let on = listen(Setup { options, ..Setup::new() }).await;
    let mut client = TcpStream::connect(on.address).await.unwrap();
    client.write_all(request("{\"prompt\": \"a\", \"max_tokens\": 1}").as_bytes()).await.unwrap();
    assert!(read_all(&mut client).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn http_2_is_not_spoken() {
    let on = listen(Setup::new()).await;
    let mut client = TcpStream::connect(on.address).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let start = Instant::now();
    let answer = read_all(&mut client).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(5), "closed at once, not after a time limit");
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut() {
    let on = listen(Setup { options: short(), num_blocks: 4000, ..Setup::new() }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(on.address).await.unwrap();
    let body = r#"{"prompt": "a", "n": 100, "max_tokens": 200, "ignore_eos": true, "logprobs": 20, "stream": true}"#;
    client.write_all(request(body).as_bytes()).await.unwrap();
    let mut first = [0; 64];
    client.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !on.server.metrics.render().contains("http_requests_total{handler=\"/v1/completions\"") {
        assert!(Instant::now() < deadline, "the request never ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!read_all(&mut client).await.contains("[DONE]"), "cut before the end");
    assert!(on.server.all_free().await);
}

#[tokio::test]
async fn hanging_up_aborts_whole_and_streamed_answers() {
    let on = listen(Setup { latency: Duration::from_millis(5), ..Setup::new() }).await;
    for stream in [false, true] {
        let steps = on.server.control.steps();
        let mut client = TcpStream::connect(on.address).await.unwrap();
        let body = format!("{{\"prompt\": \"a\", \"max_tokens\": 250, \"ignore_eos\": true, \"stream\": {stream}}}");
        client.write_all(request(&body).as_bytes()).await.unwrap();
        while on.server.control.steps() < steps + 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(client);
        assert!(on.server.all_free().await);
        assert!(on.server.control.steps() < steps + 200, "it did not run to its end");
    }
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_accepts_nothing() {
    let options = ServerOptions { shutdown_timeout: Duration::from_secs(20), ..ServerOptions::default() };
    let on = listen(Setup { options, latency: Duration::from_millis(5), ..Setup::new() }).await;
    let mut client = TcpStream::connect(on.address).await.unwrap();
    client.write_all(request(r#"{"prompt": "a", "max_tokens": 40, "ignore_eos": true, "stream": true}"#).as_bytes()).await.unwrap();
    let mut text = read_some(&mut client, "data: ").await;
    on.shutdown.cancel();
    text.push_str(&read_all(&mut client).await);
    assert!(text.contains("data: [DONE]"), "{text}");
    tokio::time::timeout(Duration::from_secs(10), on.task).await.expect("serve returns").unwrap();
    assert!(TcpStream::connect(on.address).await.is_err());
}

#[tokio::test]
async fn shutdown_cuts_off_what_does_not_finish_in_time() {
    let on = listen(Setup { options: short(), ..Setup::new() }).await;
    on.server.control.hang();
    let mut client = TcpStream::connect(on.address).await.unwrap();
    client.write_all(request(r#"{"prompt": "a", "stream": true}"#).as_bytes()).await.unwrap();
    read_some(&mut client, "text/event-stream").await;
    on.shutdown.cancel();
    let text = read_all(&mut client).await;
    assert!(!text.contains("[DONE]"));
    tokio::time::timeout(Duration::from_secs(10), on.task).await.expect("serve returns").unwrap();
    on.server.control.release();
    assert!(on.server.all_free().await);
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let options = ServerOptions { api_keys: vec!["key".into()], ..ServerOptions::default() };
    let on = listen(Setup { options, ..Setup::new() }).await;
    let body = vec![b' '; 3_500_000];
    for (head, status) in [
        ("POST /v1/completions HTTP/1.1\r\ncontent-type: application/json", 401),
        ("POST /v1/completions HTTP/1.1\r\nauthorization: Bearer key\r\ncontent-type: text/plain", 415),
        ("POST /v1/nothing HTTP/1.1\r\nauthorization: Bearer key", 404),
        ("POST /v1/models HTTP/1.1\r\nauthorization: Bearer key", 405),
    ] {
        let mut client = TcpStream::connect(on.address).await.unwrap();
        for _ in 0..2 {
            let head = format!("{head}\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&body).await.unwrap_or_else(|error| panic!("{status}: {error}"));
            let answer = read_some(&mut client, "\"code\"").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_refused_client_that_asked_first_sends_nothing() {
    let on = listen(Setup::new()).await;
    let mut client = TcpStream::connect(on.address).await.unwrap();
    let head = "POST /v1/nothing HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n";
    let start = Instant::now();
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(read_some(&mut client, "unknown_url").await.starts_with("HTTP/1.1 404"));
    assert!(start.elapsed() < Duration::from_secs(4), "it does not wait for the body");
}
