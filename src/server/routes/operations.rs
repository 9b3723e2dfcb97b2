//! `/metrics`, `/version`, `/openapi.json`.

use crate::api::models::Version;
use crate::server::App;
use crate::server::error::ApiError;
use crate::server::json::Json;
use crate::server::openapi;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bytes::Bytes;
use std::sync::{Arc, LazyLock};

/// The metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", security(()), responses(
    (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
))]
pub async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.state.metrics.render())
}

/// The server's version.
#[utoipa::path(get, path = "/version", tag = "operations", security(()), responses(
    (status = 200, description = "The version.", body = Version),
))]
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// This description of the API.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses(
    (status = 200, description = "The OpenAPI document.", body = Object, content_type = "application/json"),
    (status = 401, description = "No API key, or a wrong one.", body = crate::api::error::ErrorBody),
))]
pub async fn openapi() -> Result<impl IntoResponse, ApiError> {
    static DOCUMENT: LazyLock<Result<Bytes, String>> = LazyLock::new(|| openapi::document_json().map(Bytes::from));
    let document = DOCUMENT.as_ref().map_err(|detail| ApiError::Internal { detail: detail.clone() })?;
    Ok(([(CONTENT_TYPE, "application/json")], document.clone()))
}
