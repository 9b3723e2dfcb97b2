//! The binary from outside: flags, variables and file to what `--check-config` prints, mistakes and exit status.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run ended with.
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is text");
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    /// The value printed for `key`.
    fn value(&self, key: &str) -> &str {
        let line = self.out.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.unwrap_or_else(|| panic!("{key} in {}{}", self.out, self.err)).split(" # ").next().unwrap_or_default()
    }
}

/// Runs the server with no environment but `variables`, in an empty directory.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let directory = tempfile::tempdir().expect("a temporary directory");
    run_in(directory.path(), arguments, variables)
}

fn run_in(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openelm-server"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).current_dir(directory).stdin(Stdio::null());
    command.output().expect("the binary runs").into()
}

#[test]
fn check_config_prints_everything_and_its_output_is_valid_input() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = "max_num_seqs = 7\nport = 7\nshutdown-timeout = 1.5\n";
    fs::write(directory.path().join("server.toml"), file).expect("written");
    let arguments = ["--check-config", "--config", "server.toml", "--port", "9", "--no-enable-prefix-caching"];
    let variables = [("OPENELM_PORT", "8"), ("OPENELM_MAX_NUM_SEQS", "8"), ("OPENELM_API_KEY", "sk-hidden,sk-secret")];
    let first = run_in(directory.path(), &arguments, &variables);
    assert_eq!((first.status, first.err.as_str()), (Some(0), ""));
    let values = ["port", "max-num-seqs", "shutdown-timeout", "enable-prefix-caching", "host"].map(|key| first.value(key));
    assert_eq!(values, ["9", "8", "\"1500ms\"", "false", "\"127.0.0.1\""]);
    assert!(first.out.contains("port = 9 # --port\n") && first.out.contains("# server.toml:3: shutdown-timeout\n"), "{}", first.out);
    assert!(first.out.contains("# api-key: 2 given, not shown") && !first.out.contains("sk-"), "{}", first.out);

    fs::write(directory.path().join("again.toml"), &first.out).expect("written");
    let again = run_in(directory.path(), &["serve", "--check-config"], &[("OPENELM_CONFIG", "again.toml")]);
    assert_eq!(again.status, Some(0), "{}", again.err);
    let settings = |text: &str| text.lines().filter_map(|line| line.split(" # ").next().map(str::to_owned)).collect::<Vec<_>>();
    let (mut first, mut again) = (settings(&first.out), settings(&again.out));
    // The keys of the API are the one thing that is not repeated.
    for settings in [&mut first, &mut again] {
        settings.retain(|line| !line.contains("api-key"));
    }
    assert_eq!(first, again);
}

#[test]
fn serve_is_the_default_subcommand() {
    let (with, without) = (run(&["serve", "--port", "1", "--check-config"], &[]), run(&["--port", "1", "--check-config"], &[]));
    assert_eq!((with.status, without.status), (Some(0), Some(0)));
    assert_eq!(with.out, without.out);
    assert_eq!(with.value("port"), "1");
}

#[test]
fn the_example_file_is_the_defaults() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/openelm-server.toml");
    let with = run(&["--config", example, "--check-config"], &[]);
    assert_eq!(with.status, Some(0), "{}", with.err);
    assert_eq!(with.out, run(&["--check-config"], &[]).out);
}

#[test]
fn all_mistakes_come_together_on_standard_error_with_status_2() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("server.toml"), "prot = 1\nblock-size = 48\n").expect("written");
    let arguments = ["serve", "no/such", "--config", "server.toml", "--port", "http", "--check-config"];
    let ended = run_in(directory.path(), &arguments, &[("OPENELM_DTYPE", "int4"), ("OPENELM_THREDS", "2")]);
    assert_eq!((ended.status, ended.out.as_str()), (Some(2), ""));
    assert!(ended.err.starts_with("error: the configuration has 6 mistakes:\n"), "{}", ended.err);
    let parts = [
        "  server.toml:1: prot: no such key; did you mean `port`?\n",
        "  OPENELM_THREDS: no such variable; did you mean `OPENELM_THREADS`?\n",
        "  --port: \"http\": expected a whole number from 0 to 65535\n",
        "  OPENELM_DTYPE: \"int4\": expected one of auto, float32, bfloat16, float16\n",
        "  server.toml:2: block-size: \"48\": expected a multiple of 32 from 32 to 4096\n",
        "  MODEL: \"no/such\": no such directory",
    ];
    for part in parts {
        assert!(ended.err.contains(part), "{part} in {}", ended.err);
    }
}

#[test]
fn unknown_flags_and_commands_name_the_nearest() {
    for (arguments, meant) in
        [(&["--max-num-seq", "1"][..], "--max-num-seqs"), (&["serv"], "serve"), (&["serve", "--chek-config"], "--check-config")]
    {
        let ended = run(arguments, &[]);
        assert_eq!((ended.status, ended.out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(ended.err.contains(meant), "{arguments:?}: {}", ended.err);
    }
}

#[test]
fn keys_of_the_api_are_in_no_message() {
    let ended = run(&["--api-key", "sk-se cret", "--api-key", "", "--port", "x"], &[]);
    assert_eq!(ended.status, Some(2));
    assert!(!ended.err.contains("sk-se") && ended.err.contains("visible ASCII") && ended.err.contains("empty key"), "{}", ended.err);
}

#[test]
fn a_model_that_is_not_there_is_refused_before_anything_is_bound() {
    let ended = run(&["serve", "apple/OpenELM-270M-Instruct", "--port", "0"], &[]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.err.contains("hf download apple/OpenELM-270M-Instruct --local-dir DIR"), "{}", ended.err);
}

#[test]
fn help_and_version_go_to_standard_output_with_status_0() {
    let version = run(&["--version"], &[]);
    assert_eq!((version.status, version.out), (Some(0), format!("openelm-server {}\n", env!("CARGO_PKG_VERSION"))));
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let help = run(arguments, &[]);
        assert_eq!((help.status, help.err.as_str()), (Some(0), ""));
        for part in ["--max-num-seqs", "OPENELM_MAX_NUM_SEQS", "--no-enable-prefix-caching", "--config", "Scheduling"] {
            assert!(help.out.contains(part), "{part} in {}", help.out);
        }
    }
}

#[test]
fn the_description_of_the_api_is_printed() {
    let ended = run(&["openapi"], &[]);
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.starts_with("openapi: ") && ended.out.contains("/v1/chat/completions"), "{}", ended.out);
}

#[test]
fn a_port_that_is_taken_is_a_failure_with_status_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let port = taken.local_addr().expect("bound").port().to_string();
    let ended = run(&["--port", &port, "--log-level", "error"], &[]);
    assert_eq!((ended.status, ended.out.as_str()), (Some(1), ""));
    let expected = format!("error: cannot listen on 127.0.0.1 port {port}: another process listens there");
    assert!(ended.err.starts_with(&expected) && ended.err.lines().count() == 1, "{}", ended.err);
}

mod a_running_server {
    use super::*;
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
}

mod a_measurement {
    use super::*;
    use serde_json::Value;

    const TINY: [&str; 20] = [
        "--rounds",
        "1",
        "--prefill",
        "32",
        "--batch",
        "1,2",
        "--context",
        "16",
        "--decode-steps",
        "8",
        "--min-round-ms",
        "0",
        "--http",
        "1",
        "--http-prompt-tokens",
        "8",
        "--http-output-tokens",
        "4",
        "--threads",
        "1",
    ];

    /// Every median of `value`, with the path to it.
    fn medians(value: &Value, path: &str, found: &mut Vec<(String, f64)>) {
        if let Some(median) = value.get("median") {
            found.push((path.to_owned(), median.as_f64().unwrap_or(f64::NAN)));
        }
        if let Value::Object(entries) = value {
            entries.iter().for_each(|(key, value)| medians(value, &format!("{path}/{key}"), found));
        }
        if let Value::Array(entries) = value {
            entries.iter().for_each(|value| medians(value, path, found));
        }
    }

    #[test]
    fn of_the_demo_model_fills_table_json_and_plot() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let arguments = [&["bench"], &TINY[..], &["--output-json", "out.json", "--output-svg", "out.svg"]].concat();
        let ended = run_in(directory.path(), &arguments, &[("OPENELM_API_KEY", "unused")]);
        assert_eq!(ended.status, Some(0), "{}", ended.err);
        assert!(ended.err.lines().all(|line| line.starts_with("bench: ")), "{}", ended.err);
        for part in ["openelm-server 0", "limit: f32 FMA", "prefill 32", "decode 2 at 16", "HTTP 1 clients, first token p99"] {
            assert!(ended.out.contains(part), "{part} in {}", ended.out);
        }
        let text = fs::read_to_string(directory.path().join("out.json")).expect("written");
        let report: Value = serde_json::from_str(&text).expect("JSON");
        let mut found = Vec::new();
        medians(&report, "", &mut found);
        assert!(found.len() > 15 && found.iter().all(|(_, median)| *median > 0.0), "{found:?}");
        for key in ["read_gb_per_s", "f32_fma_gflops"] {
            assert!(found.iter().any(|(path, _)| path == &format!("/limits/{key}")), "{key} in {found:?}");
        }
        let lengths = ["prefill", "decode", "http"].map(|part| report[part].as_array().map_or(0, Vec::len));
        assert_eq!((lengths, &report["http"][0]["errors"], &report["schema"]), ([1, 2, 1], &0.into(), &1.into()));
        assert_eq!((&report["decode"][0]["steps"], &report["min_round_ms"]), (&8.into(), &0.into()));
        let plot = fs::read_to_string(directory.path().join("out.svg")).expect("written");
        assert!(plot.starts_with("<svg") && plot.contains("sequences in a step"));
    }

    #[test]
    fn of_what_cannot_be_names_the_flag() {
        for (arguments, status, part) in [
            (&["--batch", "1,x"][..], 2, "--batch"),
            (&["--port", "x"], 2, "--port"),
            (&["--context", "100000"], 1, "--context 100000"),
            (&["--decode-steps", "100000"], 1, "--decode-steps 100000"),
            (&["--min-round-ms", "x"], 2, "--min-round-ms"),
            (&["--prefill", "100000"], 1, "--prefill 100000"),
            (&["--http-prompt-tokens", "100000"], 1, "--http-prompt-tokens 100000"),
            (&["--output-svg", "no/such/file.svg"], 1, "--output-svg no/such/file.svg"),
            (&["--url", "https://127.0.0.1:1"], 1, "--url https://127.0.0.1:1"),
            (&["--url", "http://127.0.0.1:1"], 1, "--url http://127.0.0.1:1"),
            (&["--max-num-batched-tokens", "2", "--batch", "4", "--prefill", "none"], 1, "--max-num-batched-tokens"),
            (&["--kv-cache-memory-bytes", "4MiB", "--batch", "512"], 1, "--kv-cache-memory-bytes"),
        ] {
            let ended = run(&[&["bench", "--rounds", "1"], arguments].concat(), &[]);
            assert_eq!((ended.status, ended.out.as_str()), (Some(status), ""), "{arguments:?}: {}", ended.err);
            assert!(ended.err.contains(part), "{part} in {}", ended.err);
        }
    }
}
