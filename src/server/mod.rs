//! The HTTP server: requests in, the engine's events out as JSON or server-sent events.
//!
//! `cli` builds an [`AppState`], gets a router from [`app`] and runs it with [`serve()`]. A request passes through the layers (drain, account,
//! panics, keys, decompression) to a route; [`extract`] reads it, [`parse`] turns it into work for the engine, [`output`] into an answer.
//!
//! **Architecture invariant:** every answer with a status of 400 or more (but the probes') has the error envelope of [`error`].
//!
//! **Architecture invariant:** whatever a client does — going away at any moment, not reading, sending nonsense — costs bounded memory and
//! frees its KV blocks within one step; nothing here blocks the engine.

pub mod auth;
mod cors;
mod drain;
pub mod error;
mod examples;
pub mod extract;
mod forms;
pub mod json;
pub mod model_card;
mod offload;
pub mod openapi;
mod options;
pub mod output;
mod panics;
pub mod parse;
pub mod request_log;
pub mod request_record;
pub mod routes;
mod serve;

#[cfg(test)]
mod tests;

pub use model_card::{GenerationDefaults, ModelCard};
pub use options::ServerOptions;
pub use serve::serve;

use crate::engine::EngineHandle;
use crate::telemetry::metrics::Metrics;
use crate::tokenizer::{ChatTemplate, Tokenizer};
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state, map_request};
use axum::routing::{get, post};
use extract::body::{BodyMemory, name_encoding};
use parse::Bounds;
use parse::encode::Encoder;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::decompression::RequestDecompressionLayer;

/// Answers below this are sent as they are.
const MIN_COMPRESSED_BYTES: u16 = 1024;

/// What the server needs.
#[derive(Clone)]
pub struct AppState {
    /// Generates.
    pub engine: EngineHandle,
    /// `None`: prompts are token ids and answers carry token ids.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Renders conversations.
    pub template: Arc<ChatTemplate>,
    /// What clients see of the model.
    pub model: ModelCard,
    /// The model's sampling defaults.
    pub defaults: GenerationDefaults,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub options: ServerOptions,
}

/// The state with what is made of it once, shared by all requests.
pub struct App {
    state: AppState,
    encoder: Encoder,
    forms: forms::Forms,
    offload: offload::Offload,
    body_memory: BodyMemory,
    keys: auth::ApiKeys,
    vocab_size: usize,
}

impl App {
    fn new(state: AppState) -> Self {
        let limits = state.engine.limits();
        let offload = offload::Offload::default();
        let encoder = Encoder::new(state.tokenizer.clone(), state.template.clone(), state.model.max_model_len, offload.clone());
        let body_memory = BodyMemory::at_least(state.options.max_body_bytes);
        let keys = auth::ApiKeys::new(&state.options.api_keys);
        let forms = forms::Forms::new(state.tokenizer.as_ref(), &state.defaults.eos_token_ids, limits.vocab_size);
        Self { encoder, forms, offload, body_memory, keys, vocab_size: limits.vocab_size, state }
    }

    /// Most JSON values of a request: the ids of as many prompts as there may be choices, and generously what else there is. Each takes
    /// dozens of times the memory of the two bytes it may be written in.
    fn max_json_values(&self) -> usize {
        let ids = self.state.model.max_model_len.saturating_mul(self.state.options.max_choices);
        ids.max(1 << 18).saturating_add(1 << 12)
    }

    /// What requests are checked against.
    fn bounds(&self) -> Bounds<'_> {
        Bounds {
            model: &self.state.model,
            defaults: &self.state.defaults,
            vocab_size: self.vocab_size,
            max_choices: self.state.options.max_choices,
            default_seed: self.state.options.default_seed,
            has_tokenizer: self.state.tokenizer.is_some(),
            call_syntax: self.encoder.call_syntax(),
        }
    }
}

/// All routes and layers.
pub fn app(state: AppState) -> Router {
    use routes::{chat, completions, method_not_allowed, models, not_found, operations, probes, render, tokens};
    let app = Arc::new(App::new(state));
    let cors = cors::layer(&app.state.options.cors_allowed_origins);
    Router::new()
        .route("/v1/completions", post(completions::create))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions/render", post(render::completion))
        .route("/v1/chat/completions/render", post(render::chat))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::info))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .route("/health", get(probes::health))
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/startupz", get(probes::startupz))
        .route("/metrics", get(operations::metrics))
        .route("/version", get(operations::version))
        .route("/openapi.json", get(operations::openapi))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        // From the innermost to the outermost layer. Other encodings than gzip pass, for the extractor to refuse with the envelope.
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .layer(map_request(name_encoding))
        .layer(from_fn_with_state(app.clone(), auth::guard))
        .layer(CatchPanicLayer::custom(panics::respond))
        // Browsers ask before they send a key.
        .layer(cors)
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(MIN_COMPRESSED_BYTES).and(NotForContentType::SSE)))
        .layer(from_fn_with_state(app.clone(), request_log::account))
        .layer(from_fn(drain::drain_refused))
        .with_state(app)
}
