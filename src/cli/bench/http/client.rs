//! One streamed completion at a time, over a connection of its own.

use super::prompts::Prompt;
use super::target::Target;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Sends requests to one server.
#[derive(Clone, Debug)]
pub(super) struct Client {
    target: Target,
    /// The model to ask for; without one the server takes the one it has.
    pub(super) model: Option<String>,
}

/// What one answer was like.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    /// From connecting to the first token.
    pub(super) first_token: Duration,
    /// Between every two events with tokens.
    pub(super) gaps: Vec<Duration>,
    /// Tokens of the answer.
    pub(super) tokens: u64,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    prompt: &'a Prompt,
    max_tokens: usize,
    temperature: f32,
    ignore_eos: bool,
    stream: bool,
    stream_options: StreamOptions,
    return_token_ids: bool,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// One event of a stream; servers differ in what else it holds.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: Option<String>,
    /// Only from servers that know `return_token_ids`.
    token_ids: Option<Vec<u32>>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<u64>,
}

impl Choice {
    /// Whether the event brings a token: by its ids, else by its text. A piece of a character has no text, but the stream goes on then.
    fn has_token(&self) -> bool {
        match &self.token_ids {
            Some(ids) => !ids.is_empty(),
            None => self.text.as_ref().is_some_and(|text| !text.is_empty()) || self.finish_reason.is_none(),
        }
    }
}

impl Client {
    /// Sends to `target`.
    pub(super) fn new(target: Target) -> Self {
        Self { target, model: None }
    }

    /// The first model that the server names.
    pub(super) async fn first_model(&self) -> anyhow::Result<String> {
        let answer = self.send(Method::GET, "/v1/models", Bytes::new()).await?;
        let body = answer.into_body().collect().await.context("the answer broke off")?.to_bytes();
        let models: Models = serde_json::from_slice(&body).context("/v1/models is not a list of models")?;
        models.data.into_iter().next().map(|model| model.id).context("it has no model")
    }

    /// Streams a completion of `output_tokens` tokens.
    pub(super) async fn complete(&self, prompt: &Prompt, output_tokens: usize) -> anyhow::Result<Answer> {
        let body = Body {
            model: self.model.as_deref(),
            prompt,
            max_tokens: output_tokens,
            temperature: 0.0,
            ignore_eos: true,
            stream: true,
            stream_options: StreamOptions { include_usage: true },
            return_token_ids: true,
        };
        let body = Bytes::from(serde_json::to_vec(&body)?);
        let limit = TIMEOUT.as_secs();
        tokio::time::timeout(TIMEOUT, self.stream(body)).await.with_context(|| format!("no end of the answer within {limit} s"))?
    }

    async fn stream(&self, body: Bytes) -> anyhow::Result<Answer> {
        let mut reader = Reader::new(Instant::now());
        let mut body = self.send(Method::POST, "/v1/completions", body).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the stream broke off")?;
            if let Some(data) = frame.data_ref() {
                reader.read(data)?;
            }
        }
        reader.end()
    }

    /// Sends a request and returns its answer, whose status is 200.
    async fn send(&self, method: Method, endpoint: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let address = &self.target.address;
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("the connection ended")?;
        // An error of the connection is one of the request too.
        tokio::spawn(async move { connection.await.ok() });
        let request = Request::builder().method(method).uri(self.target.path(endpoint)).header(HOST, &self.target.authority);
        let request = request.header(CONTENT_TYPE, "application/json");
        let request = match &self.target.api_key {
            Some(key) => request.header(AUTHORIZATION, format!("Bearer {key}")),
            None => request,
        };
        let answer = sender.send_request(request.body(Full::new(body))?).await.context("no answer")?;
        let status = answer.status();
        if status != 200 {
            let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
            bail!("status {status}: {text}");
        }
        Ok(answer)
    }
}

/// Reads server-sent events as they come in.
struct Reader {
    started: Instant,
    buffer: Vec<u8>,
    /// When each event with tokens came.
    times: Vec<Instant>,
    /// As the server counts; events where it does not.
    tokens: Option<u64>,
    is_done: bool,
}

impl Reader {
    fn new(started: Instant) -> Self {
        Self { started, buffer: Vec::new(), times: Vec::new(), tokens: None, is_done: false }
    }

    fn read(&mut self, data: &[u8]) -> anyhow::Result<()> {
        self.buffer.extend_from_slice(data);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            if let Some(data) = line.strip_prefix(b"data:") {
                self.event(data.trim_ascii())?;
            }
        }
        Ok(())
    }

    fn event(&mut self, data: &[u8]) -> anyhow::Result<()> {
        if data == b"[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        let event: Event = serde_json::from_slice(data).context("an event is not a chunk of a completion")?;
        if let Some(error) = event.error.filter(|error| !error.is_null()) {
            bail!("an error in the stream: {error}");
        }
        if event.choices.first().is_some_and(Choice::has_token) {
            self.times.push(Instant::now());
        }
        self.tokens = event.usage.and_then(|usage| usage.completion_tokens).or(self.tokens);
        Ok(())
    }

    fn end(self) -> anyhow::Result<Answer> {
        let Some(first) = self.times.first().filter(|_| self.is_done) else { bail!("the stream ended early") };
        Ok(Answer {
            first_token: first.duration_since(self.started),
            gaps: self.times.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect(),
            tokens: self.tokens.unwrap_or(self.times.len() as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&str]) -> anyhow::Result<Answer> {
        let mut reader = Reader::new(Instant::now());
        parts.iter().try_for_each(|part| reader.read(part.as_bytes()))?;
        reader.end()
    }

    #[test]
    fn tokens_are_counted_whatever_the_pieces_and_the_server() {
        let ours = [
            "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":null,\"token_ids\":[5]}],\"usage\":null}\n\n: still here\n\nda",
            "ta: {\"choices\":[{\"text\":\"x\",\"finish_reason\":null,\"token_ids\":[6]}]}\n\n",
            "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\",\"token_ids\":[]}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
        ];
        let answer = read(&ours).expect("an answer");
        assert_eq!((answer.tokens, answer.gaps.len()), (2, 1));
        let others = "data:{\"choices\":[{\"text\":\"a\"}]}\r\n\r\ndata:{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}\n\ndata:[DONE]\n\n";
        assert_eq!(read(&[others]).expect("an answer").tokens, 1);
    }

    #[test]
    fn broken_streams_are_errors() {
        let token = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
        for (parts, part) in [
            (vec![token], "ended early"),
            (vec!["data: [DONE]\n\n"], "ended early"),
            (vec![token, "data: {\"error\":{\"message\":\"broken\"}}\n\n"], "broken"),
            (vec!["data: {\n\n"], "not a chunk"),
        ] {
            let error = format!("{:#}", read(&parts).expect_err("broken"));
            assert!(error.contains(part), "{error}");
        }
    }
}
