//! The probes: `/health`, `/livez`, `/readyz`, `/startupz`.
//!
//! They say different things on purpose. A server that drains is alive but not ready; restarting it would cut its clients off. One whose engine
//! failed or stands still is not alive: only a restart helps.

use crate::api::models::ProbeStatus;
use crate::engine::EngineStatus;
use crate::server::App;
use crate::server::json::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Whether the server takes requests; the same as `/readyz`, by the name other servers use.
#[utoipa::path(get, path = "/health", tag = "operations", security(()), responses(
    (status = 200, description = "It does.", body = ProbeStatus),
    (status = 503, description = "It does not.", body = ProbeStatus),
))]
pub async fn health(State(app): State<Arc<App>>) -> Response {
    ready(&app)
}

/// Whether the server takes requests.
#[utoipa::path(get, path = "/readyz", tag = "operations", security(()), responses(
    (status = 200, description = "It does.", body = ProbeStatus),
    (status = 503, description = "It does not.", body = ProbeStatus),
))]
pub async fn readyz(State(app): State<Arc<App>>) -> Response {
    ready(&app)
}

/// Whether the engine moves; if not, only a restart helps.
#[utoipa::path(get, path = "/livez", tag = "operations", security(()), responses(
    (status = 200, description = "It does.", body = ProbeStatus),
    (status = 503, description = "It does not.", body = ProbeStatus),
))]
pub async fn livez(State(app): State<Arc<App>>) -> Response {
    let age = app.state.engine.heartbeat_age();
    match app.state.engine.status() {
        EngineStatus::Failed { reason } => probe("failed", Some(reason)),
        EngineStatus::Ready | EngineStatus::Draining if age > app.state.options.liveness_timeout => {
            probe("stalled", Some(format!("the engine has not moved for {} s", age.as_secs())))
        }
        _ => probe("ok", None),
    }
}

/// Whether the model is loaded. It is as soon as there is an answer at all: the server listens only then.
#[utoipa::path(get, path = "/startupz", tag = "operations", security(()), responses(
    (status = 200, description = "It is.", body = ProbeStatus),
))]
pub async fn startupz() -> Response {
    probe("ok", None)
}

fn ready(app: &App) -> Response {
    match app.state.engine.status() {
        EngineStatus::Ready => probe("ok", None),
        EngineStatus::Draining => probe("draining", Some("the server is shutting down".to_owned())),
        EngineStatus::Failed { reason } => probe("failed", Some(reason)),
        EngineStatus::Stopped => probe("stopped", Some("the engine was stopped".to_owned())),
    }
}

fn probe(status: &str, reason: Option<String>) -> Response {
    let code = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(ProbeStatus { status: status.to_owned(), reason })).into_response()
}
