//! A panic in a handler becomes a 500 with the error envelope, and a log line with what was said.

use super::error::ApiError;
use axum::response::{IntoResponse, Response};
use std::any::Any;

/// The answer to a request whose handler panicked.
pub fn respond(payload: Box<dyn Any + Send + 'static>) -> Response {
    let said = payload.downcast_ref::<String>().cloned().or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    ApiError::Internal { detail: format!("handler panicked: {}", said.unwrap_or_default()) }.into_response()
}
