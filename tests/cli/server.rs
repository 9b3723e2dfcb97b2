//! A server that runs: what it says, how it ends, how it is measured from outside.

use super::*;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, ChildStdout};
use std::time::{Duration, Instant};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");

struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    err: ChildStderr,
    banner: String,
    address: String,
}

impl Server {
    /// Starts it on a free port and reads the banner.
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_openelm-server"));
        command.args(arguments).args(["--port", "0", "--threads", "1"]).env_clear().stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let err = child.stderr.take().expect("piped");
        let mut banner = String::new();
        while !banner.contains("curl http://") && out.read_line(&mut banner).expect("text") > 0 {}
        let address = banner.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default().to_owned();
        Self { child, out, err, banner, address }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Sends a request and returns the connection.
    fn request(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
        stream
    }

    /// Waits until a signal has made it unready.
    fn wait_until_unready(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut probe = String::new();
            self.request("GET", "/readyz", "").read_to_string(&mut probe).expect("an answer");
            if probe.starts_with("HTTP/1.1 503") {
                return;
            }
            assert!(Instant::now() < deadline, "still ready: {probe}");
        }
    }

    /// Its exit status and what it wrote after the banner.
    fn end(mut self) -> (Option<i32>, String, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            match self.child.try_wait().expect("it can be waited for") {
                Some(status) => break status.code(),
                None => assert!(Instant::now() < deadline, "the server does not end"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).expect("text");
        self.err.read_to_string(&mut err).expect("text");
        (status, out, err)
    }
}

/// A generation that takes a while: 32 sequences of 400 tokens.
const LONG: &str = r#"{"prompt": "Once", "n": 32, "max_tokens": 400, "ignore_eos": true, "stream": true}"#;

fn first_event(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = vec![0; 64];
    stream.read_exact(&mut answer).expect("an answer begins");
    answer
}

#[test]
fn says_what_it_serves_and_ends_orderly_on_either_signal() {
    for signal in ["TERM", "INT"] {
        let server = Server::start(&["--served-model-name", "first,second", "--log-format", "json", "--api-key", "sk-hidden"]);
        for part in
            ["openelm-server 0", "first (embedded)", "cpu ", " tokens, bfloat16", "tokenizer_config.json", "Bearer $OPENELM_API_KEY"]
        {
            assert!(server.banner.contains(part), "{part} in {}", server.banner);
        }
        let mut answer = String::new();
        server.request("GET", "/readyz", "").read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.signal(signal);
        let (status, out, err) = server.end();
        assert_eq!((status, out.trim()), (Some(0), ""), "{err}");
        assert!(err.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{err}");
        assert!(err.contains("\"message\":\"draining\"") && err.contains("\"message\":\"stopped\""), "{err}");
        assert!(!err.contains("sk-hidden"), "{err}");
    }
}

#[test]
fn finishes_what_runs_and_is_unready_meanwhile() {
    let server = Server::start(&[]);
    let mut stream = server.request("POST", "/v1/completions", LONG);
    let mut answer = first_event(&mut stream);
    server.signal("TERM");
    server.wait_until_unready();
    stream.read_to_end(&mut answer).expect("the rest");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("data: [DONE]") && !answer.contains("error"), "{}", &answer[answer.len().saturating_sub(500)..]);
    let (status, _, err) = server.end();
    assert_eq!(status, Some(0), "{err}");
}

#[test]
fn cuts_what_outlives_the_time_limit() {
    let server = Server::start(&["--shutdown-timeout", "10ms"]);
    let mut stream = server.request("POST", "/v1/completions", LONG);
    let mut answer = first_event(&mut stream);
    server.signal("TERM");
    stream.read_to_end(&mut answer).expect("the rest");
    assert!(String::from_utf8_lossy(&answer).contains("\"error\""), "the client is told");
    let (status, _, err) = server.end();
    assert_eq!(status, Some(0), "{err}");
    assert!(err.contains("did not finish in time"), "{err}");
}

#[test]
fn ends_at_once_on_a_second_signal() {
    let server = Server::start(&[]);
    let mut stream = server.request("POST", "/v1/completions", LONG);
    first_event(&mut stream);
    server.signal("TERM");
    server.wait_until_unready();
    server.signal("INT");
    let (status, _, err) = server.end();
    assert_eq!(status, Some(130), "{err}");
}

#[test]
fn can_be_measured_by_its_address_and_failures_count() {
    let server = Server::start(&["--api-key", "sk-right"]);
    let url = format!("http://{}", server.address);
    let measure = |key: &str, prompt_tokens: &str| {
        let arguments = ["bench", "--url", &url, "--rounds", "1", "--http", "2", "--http-output-tokens", "4", "--api-key", key];
        run(&[&arguments[..], &["--http-prompt-tokens", prompt_tokens]].concat(), &[])
    };
    let good = measure("sk-right", "8");
    assert_eq!(good.status, Some(0), "{}", good.err);
    assert!(good.out.contains(&url) && good.out.contains("HTTP 2 clients") && !good.out.contains("limit:"), "{}", good.out);
    let too_long = measure("sk-right", "4000");
    assert_eq!(too_long.status, Some(1));
    assert!(too_long.err.contains("error: 4 HTTP requests failed") && too_long.out.contains("4 requests failed"), "{}", too_long.err);
    let wrong = measure("sk-wrong", "8");
    assert_eq!((wrong.status, wrong.out.as_str()), (Some(1), ""));
    assert!(wrong.err.contains("status 401"), "{}", wrong.err);
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn a_directory_without_a_tokenizer_is_refused_unless_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(Path::new(DEMO).join(file), directory.path().join(file)).expect("copied");
    }
    let path = directory.path().display().to_string();
    let refused = run(&["serve", &path, "--port", "0", "--log-level", "error"], &[]);
    assert_eq!((refused.status, refused.out.as_str()), (Some(1), ""));
    for part in ["tokenizer.json", "--tokenizer FILE|DIR", "--skip-tokenizer-init"] {
        assert!(refused.err.contains(part), "{part} in {}", refused.err);
    }
    for arguments in [&["--skip-tokenizer-init"][..], &["--tokenizer", DEMO]] {
        let server = Server::start(&[&["serve", &path], arguments].concat());
        let ids_only = server.banner.contains("none: token ids only");
        assert_eq!(ids_only, arguments.len() == 1, "{}", server.banner);
        server.signal("TERM");
        assert_eq!(server.end().0, Some(0));
    }
}
