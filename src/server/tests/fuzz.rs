//! Whatever is sent, the server answers: no panic, no status of 500 or more, no block that stays taken.
//!
//! `fuzz/corpus/requests` has requests, each a file with the path on its first line and the body behind it: written by hand, or found by the
//! fuzzer because the server answered them in a way of their own. They are replayed here, and mutated: some hundred times, or for as long as
//! `OPENELM_FUZZ_SECONDS` says (`OPENELM_FUZZ_SECONDS=3600 cargo test --release mutated_requests`), with what is new kept in `target/fuzz/requests`.

use super::support::{Answer, Setup, TestServer};
use crate::engine::EngineConfig;
use crate::server::extract::decode::field_names;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FEW: usize = 400;
/// Requests after which all blocks must be free.
const BETWEEN_CHECKS: usize = 200;
const LONGEST_ANSWER: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
struct Input {
    path: String,
    body: Vec<u8>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn corpus() -> Vec<Input> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder("fuzz/corpus/requests")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let inputs = files.iter().map(|file| {
        let bytes = std::fs::read(file).unwrap();
        let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or_else(|| panic!("no path in {}", file.display()));
        Input { path: String::from_utf8(bytes[..end].to_vec()).unwrap(), body: bytes[end + 1..].to_vec() }
    });
    inputs.collect()
}

fn server() -> TestServer {
    let engine = EngineConfig { max_num_batched_tokens: 64, ..EngineConfig::default() };
    Setup { engine, num_blocks: 64, ..Setup::new() }.start()
}

/// Sends a request, which must be answered as the API promises; the class of the answer: what would be new to see.
async fn send(server: &TestServer, input: &Input) -> String {
    let request = Request::post(&input.path).header("content-type", "application/json").body(Body::from(input.body.clone())).unwrap();
    let shown = || format!("{}\n{}", input.path, String::from_utf8_lossy(&input.body).chars().take(4_000).collect::<String>());
    let answer = tokio::time::timeout(LONGEST_ANSWER, server.send(request)).await.unwrap_or_else(|_| panic!("no answer to {}", shown()));
    let status = answer.status.as_u16();
    // A request may ask for less time than there is.
    assert!(status < 500 || status == 504, "{} {}: {}", answer.status, answer.text(), shown());
    if status >= 400 { refused_class(&answer) } else { answered_class(&answer) }
}

/// Parameters of requests that generate.
fn names() -> Vec<&'static str> {
    [field_names::<crate::api::completion::CompletionRequest>(), field_names::<crate::api::chat::ChatRequest>()].concat()
}

fn refused_class(answer: &Answer) -> String {
    let error = answer.error();
    let param = error["param"].as_str().unwrap_or_default();
    // What a parameter holds, and what is none, may be called anything: such names would make each answer one of its own.
    let first = param.split(['.', '[']).next().unwrap_or_default();
    let known = if names().contains(&first) { first } else { "" };
    format!("{} {} {known}", answer.status.as_u16(), error["code"])
}

fn answered_class(answer: &Answer) -> String {
    let mut keys = BTreeSet::new();
    let events = answer.text().split("data: ").filter_map(|event| serde_json::from_str::<Value>(event.trim()).ok());
    events.for_each(|value| note_keys(&value, &mut keys));
    format!("{} {}", answer.status.as_u16(), Vec::from_iter(keys).join(","))
}

/// Which keys have a value, and how choices end.
fn note_keys(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().filter(|(_, value)| !value.is_null()).for_each(|(key, value)| match key.as_str() {
            "finish_reason" => drop(keys.insert(value.to_string())),
            "top_logprobs" | "prompt_logprobs" | "error" => drop(keys.insert(key.clone())),
            _ => {
                keys.insert(key.clone());
                note_keys(value, keys);
            }
        }),
        Value::Array(items) => items.iter().for_each(|item| note_keys(item, keys)),
        _ => {}
    }
}

/// Random numbers (Marsaglia's xorshift).
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Values that have made servers stumble.
fn values() -> Vec<Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(2),
        json!(0.5),
        json!(1e308),
        json!(-1e-308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(4_294_967_296u64),
        json!(""),
        json!(" "),
        json!("a"),
        json!("\u{0}\u{ffff}"),
        json!("</s><|assistant|>"),
        json!("ä日本🎉".repeat(50)),
        json!("x".repeat(10_000)),
        json!([]),
        json!({}),
        json!([[]]),
        json!([1, "a"]),
        json!([5, 6, 7]),
        json!({"a": 1}),
        json!([null]),
        deep,
        json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
        json!({"type": "json_object"}),
        json!("auto"),
        json!("required"),
        json!({"regex": "(a|b)*c{3,}"}),
        json!({"choice": ["a", "b"]}),
        json!({"grammar": "start: \"a\"+"}),
        json!({"include_usage": true}),
        json!([{"role": "user", "content": "Q"}]),
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]),
    ]
}

/// A place in a value, chosen with equal chances on each level.
fn place<'a>(value: &'a mut Value, rng: &mut Rng) -> &'a mut Value {
    let length = match &value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if length == 0 || rng.below(4) == 0 {
        return value;
    }
    let index = rng.below(length);
    match value {
        Value::Array(items) => place(&mut items[index], rng),
        Value::Object(fields) => place(fields.values_mut().nth(index).unwrap(), rng),
        _ => value,
    }
}

struct Mutator {
    rng: Rng,
    values: Vec<Value>,
    names: Vec<&'static str>,
}

impl Mutator {
    fn new(seed: u64) -> Self {
        Self { rng: Rng(seed), values: values(), names: names() }
    }

    fn mutate(&mut self, inputs: &[Input]) -> Input {
        let mut input = self.rng.pick(inputs).clone();
        for _ in 0..=self.rng.below(4) {
            match serde_json::from_slice(&input.body) {
                Ok(value) if self.rng.below(4) > 0 => input.body = serde_json::to_vec(&self.mutate_json(value, inputs)).unwrap(),
                _ => self.mutate_bytes(&mut input.body, inputs),
            }
        }
        // What would only take long is not looked for.
        input.body.truncate(64 << 10);
        input
    }

    fn mutate_json(&mut self, mut value: Value, inputs: &[Input]) -> Value {
        match self.rng.below(5) {
            0 | 1 => *place(&mut value, &mut self.rng) = self.rng.pick(&self.values).clone(),
            2 => {
                if let Value::Object(fields) = &mut value {
                    fields.insert((*self.rng.pick(&self.names)).to_owned(), self.rng.pick(&self.values).clone());
                }
            }
            3 => match place(&mut value, &mut self.rng) {
                Value::Object(fields) => {
                    let key = fields.keys().nth(self.rng.below(fields.len())).cloned();
                    key.and_then(|key| fields.shift_remove(&key));
                }
                Value::Array(items) if !items.is_empty() => items.push(items[self.rng.below(items.len())].clone()),
                _ => {}
            },
            _ => {
                let other = serde_json::from_slice(&self.rng.pick(inputs).body);
                if let (Value::Object(fields), Ok(Value::Object(other))) = (&mut value, other) {
                    fields.extend(other.into_iter().filter(|_| self.rng.below(2) == 0));
                }
            }
        }
        value
    }

    fn mutate_bytes(&mut self, body: &mut Vec<u8>, inputs: &[Input]) {
        let (at, other) = (self.rng.below(body.len() + 1), self.rng.pick(inputs).body.clone());
        match self.rng.below(5) {
            0 => body.truncate(at),
            1 => body.insert(at, self.rng.below(256) as u8),
            2 if at < body.len() => drop(body.remove(at)),
            3 if at < body.len() => body[at] ^= 1 << self.rng.below(8),
            _ => drop(body.splice(at..at, other[..self.rng.below(other.len() + 1).min(64)].iter().copied())),
        }
    }
}

#[tokio::test]
async fn the_corpus_of_requests_is_answered() {
    let (server, inputs) = (server(), corpus());
    let mut classes = BTreeMap::<String, usize>::new();
    for input in &inputs {
        *classes.entry(send(&server, input).await).or_default() += 1;
    }
    assert!(server.all_free().await, "blocks stay taken");
    let answered = classes.keys().filter(|class| class.starts_with("200")).count();
    assert!(answered > 10 && classes.len() > answered + 2, "the corpus is no longer one: {classes:?}");
}

#[tokio::test]
async fn mutated_requests_never_break_the_server() {
    let seconds: Option<u64> = std::env::var("OPENELM_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seed = seconds.map_or(1, |_| u64::from(std::process::id()) << 20 | 1);
    let (server, mut inputs, mut mutator) = (server(), corpus(), Mutator::new(seed));
    let (mut classes, mut sent) = (BTreeSet::new(), 0);
    for input in &inputs {
        classes.insert(send(&server, input).await);
    }
    while until.map_or(sent < FEW, |until| Instant::now() < until) {
        let input = mutator.mutate(&inputs);
        if classes.insert(send(&server, &input).await) {
            if until.is_some() {
                keep(&input, classes.len());
            }
            inputs.push(input);
        }
        sent += 1;
        assert!(!sent.is_multiple_of(BETWEEN_CHECKS) || server.all_free().await, "blocks stay taken");
    }
    assert!(server.all_free().await, "blocks stay taken");
    println!("seed {seed}: {sent} requests, {} classes of answers, {} inputs", classes.len(), inputs.len());
}

fn keep(input: &Input, number: usize) {
    let folder = folder("target/fuzz/requests");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{number:04}")), [input.path.as_bytes(), b"\n", &input.body].concat()).unwrap();
}
