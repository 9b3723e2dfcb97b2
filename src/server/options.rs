//! Settings of the HTTP server. `cli` fills them from the configuration.

use std::time::Duration;

/// Settings of the HTTP server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Keys of which a request must bring one; empty lets everyone in.
    pub api_keys: Vec<String>,
    /// Origins whose pages may read answers, `*` for all; empty: none is let in.
    pub cors_allowed_origins: Vec<String>,
    /// Longest request body in bytes, also after decompression.
    pub max_body_bytes: usize,
    /// How long a client may take to send the head of its first request.
    pub header_timeout: Duration,
    /// How long a connection may wait for its next request and that request's head: longer than the proxies' pools (60 s), which would
    /// otherwise send a request on a connection that is just closing.
    pub keep_alive_timeout: Duration,
    /// How long a client may take to send the body of a request.
    pub body_timeout: Duration,
    /// How long a write may make no progress before the client is cut.
    pub write_timeout: Duration,
    /// Silence after which a stream gets a comment, so that proxies keep it open.
    pub sse_keep_alive: Duration,
    /// How long running requests may take to finish once the server shuts down.
    pub shutdown_timeout: Duration,
    /// Age of the engine's heartbeat past which `/livez` fails: longer than the slowest step.
    pub liveness_timeout: Duration,
    /// Most choices of one request: `n` times the number of prompts.
    pub max_choices: usize,
    /// Most open connections; further ones wait to be accepted.
    pub max_connections: usize,
    /// Seed of requests that bring none; `None` draws one for each.
    pub default_seed: Option<u64>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            cors_allowed_origins: Vec::new(),
            max_body_bytes: 4 << 20,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            sse_keep_alive: Duration::from_secs(15),
            shutdown_timeout: Duration::from_secs(30),
            liveness_timeout: Duration::from_secs(60),
            max_choices: 128,
            max_connections: 4096,
            default_seed: None,
        }
    }
}
