//! The routes, one file per group.

pub mod chat;
pub mod completions;
pub mod generate;
pub mod models;
pub mod operations;
pub mod probes;
pub mod render;
pub mod tokens;

use super::error::ApiError;
use axum::extract::Request;

/// Any path that is no route.
pub async fn not_found(request: Request) -> ApiError {
    ApiError::RouteNotFound { method: request.method().clone(), path: request.uri().path().to_owned() }
}

/// A route asked with a method it does not have; axum adds `Allow`.
pub async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::MethodNotAllowed { method: request.method().clone(), path: request.uri().path().to_owned() }
}
