//! `POST /v1/completions`.

use super::generate::{self, Arrival, Checked};
use crate::api::completion::{CompletionChunk, CompletionRequest, CompletionResponse};
use crate::api::error::{BodyErrors, ErrorBody};
use crate::server::App;
use crate::server::error::ApiError;
use crate::server::output::completion::CompletionShape;
use crate::server::request_record::RequestRecord;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use std::sync::Arc;

/// Completes prompts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "createCompletion",
    tag = "generation",
    request_body(content = CompletionRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The completions. With `stream`, server-sent events, each a chunk, the last `[DONE]`.", content(
            (CompletionResponse = "application/json"), (CompletionChunk = "text/event-stream")
        )),
        BodyErrors,
        (status = 504, description = "The request took longer than it was to take.", body = ErrorBody),
    )
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<RequestRecord>>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrival = Arrival::of(&request, record)?;
    let request = generate::read::<CompletionRequest>(&app, request).await?;
    let checked = Checked::completion(request, &app.bounds())?;
    generate::answer::<CompletionShape>(&app, arrival, checked, "cmpl").await
}
