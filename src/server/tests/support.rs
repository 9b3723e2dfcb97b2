//! A server on the real engine with the fake runner and the tokenizer of the demo model, driven in-process.

use crate::engine::{Engine, EngineConfig, EngineHandle};
use crate::generation::TokenId;
use crate::runner::RunnerLimits;
use crate::runner::fake::{FakeControl, FakeRunner};
use crate::server::{AppState, GenerationDefaults, ModelCard, ServerOptions, app};
use crate::telemetry::metrics::Metrics;
use crate::tokenizer::{ChatTemplate, Tokenizer};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tower::ServiceExt;

pub const MAX_MODEL_LEN: usize = 256;
pub const BLOCK_SIZE: usize = 8;

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let config = include_bytes!("../../../models/demo/tokenizer_config.json");
    Arc::new(Tokenizer::from_bytes(include_bytes!("../../../models/demo/tokenizer.json"), Some(config)).unwrap())
});

pub fn tokenizer() -> Arc<Tokenizer> {
    TOKENIZER.clone()
}

/// A server under construction.
pub struct Setup {
    pub engine: EngineConfig,
    pub options: ServerOptions,
    pub defaults: GenerationDefaults,
    pub with_tokenizer: bool,
    pub template: Option<&'static str>,
    pub max_model_len: usize,
    pub num_blocks: usize,
    pub latency: Duration,
    pub scripts: Vec<(Vec<TokenId>, Vec<TokenId>)>,
    pub poison: Option<TokenId>,
}

impl Setup {
    pub fn new() -> Self {
        Self {
            engine: EngineConfig { enable_prefix_caching: false, ..EngineConfig::default() },
            options: ServerOptions::default(),
            defaults: GenerationDefaults { eos_token_ids: vec![2], ..GenerationDefaults::default() },
            with_tokenizer: true,
            template: None,
            max_model_len: MAX_MODEL_LEN,
            num_blocks: 128,
            latency: Duration::ZERO,
            scripts: Vec::new(),
            poison: None,
        }
    }

    /// The model answers `prompt` (a text) with these tokens.
    pub fn script(mut self, prompt: &str, continuation: &[TokenId]) -> Self {
        self.scripts.push((tokenizer().encode_prompt(prompt).unwrap(), continuation.to_vec()));
        self
    }

    /// The model answers these tokens with those.
    pub fn script_tokens(mut self, prompt: &[TokenId], continuation: &[TokenId]) -> Self {
        self.scripts.push((prompt.to_vec(), continuation.to_vec()));
        self
    }

    /// The model answers `prompt` with this text and ends.
    pub fn says(self, prompt: &str, text: &str) -> Self {
        let tokens = text_tokens(text);
        self.script(prompt, &tokens)
    }

    pub fn poison(mut self, token: TokenId) -> Self {
        self.poison = Some(token);
        self
    }

    pub fn start(self) -> TestServer {
        let vocab_size = tokenizer().vocab_size();
        let limits = RunnerLimits { num_blocks: self.num_blocks, block_size: BLOCK_SIZE, max_num_batched_tokens: 512, vocab_size };
        let (mut runner, control) = FakeRunner::new(limits);
        runner = runner.with_latency(self.latency, Duration::ZERO);
        for (prompt, continuation) in &self.scripts {
            runner = runner.with_script(prompt, continuation);
        }
        if let Some(token) = self.poison {
            runner = runner.with_poison_token(token);
        }
        let metrics = Metrics::new("demo");
        let config = EngineConfig { max_model_len: self.max_model_len, ..self.engine };
        let engine = Engine::start(Box::new(runner), config, metrics.clone()).unwrap();
        let state = AppState {
            engine: engine.clone(),
            tokenizer: self.with_tokenizer.then(tokenizer),
            template: Arc::new(
                ChatTemplate::from_source("demo", self.template.unwrap_or(tokenizer().chat_template_source().unwrap())).unwrap(),
            ),
            model: ModelCard {
                names: vec!["demo".into(), "apple/OpenELM".into()],
                created: 1,
                max_model_len: self.max_model_len,
                fingerprint: "fp_test".into(),
                chat_template: Some("demo".into()),
            },
            defaults: self.defaults,
            metrics: metrics.clone(),
            options: self.options,
        };
        TestServer { app: app(state), engine, control, metrics }
    }
}

/// The tokens of a text that goes on after a prompt (it begins with a space, which encoding puts there), and the end of the sequence.
pub fn text_tokens(text: &str) -> Vec<TokenId> {
    let mut tokens = tokenizer().encode(text.strip_prefix(' ').unwrap(), false).unwrap();
    tokens.push(2);
    tokens
}

/// A text in tokens that spell it byte for byte, and the end of the sequence.
pub fn spelled(text: &str) -> Vec<TokenId> {
    let byte = |byte: u8| {
        let ids = 3..tokenizer().vocab_size() as TokenId;
        ids.into_iter().find(|&id| tokenizer().token_bytes(id) == [byte]).unwrap()
    };
    text.bytes().map(byte).chain([2]).collect()
}

pub struct TestServer {
    pub app: Router,
    pub engine: EngineHandle,
    pub control: FakeControl,
    pub metrics: Arc<Metrics>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn error(&self) -> Value {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("no error: {json}")).clone();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"], "{error:?}");
        assert!(error["message"].is_string() && error["type"].is_string());
        Value::Object(error)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The chunks of a stream, which must end with `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        let events: Vec<&str> = self.text().split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':')).collect();
        let (last, events) = events.split_last().expect("at least one event");
        assert_eq!(*last, "data: [DONE]");
        events.iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }
}

pub fn post(path: &str, body: &Value) -> Request<Body> {
    let body = Body::from(serde_json::to_vec(body).unwrap());
    Request::post(path).header("content-type", "application/json").body(body).unwrap()
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

impl TestServer {
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes().to_vec() }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(post(path, body)).await
    }

    pub async fn complete(&self, body: &Value) -> Answer {
        self.post("/v1/completions", body).await
    }

    pub async fn chat(&self, body: &Value) -> Answer {
        self.post("/v1/chat/completions", body).await
    }

    /// Whether all blocks are free again, waiting for the engine's next steps.
    pub async fn all_free(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if self.metric("vllm:kv_cache_usage_perc") == 0.0 && self.metric("vllm:num_requests_running") == 0.0 {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    /// The value of the first series that begins with `series`.
    pub fn metric(&self, series: &str) -> f64 {
        let page = self.metrics.render();
        let line = page.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no series {series}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}
