//! `POST /v1/chat/completions`.

use super::generate::{self, Arrival, Checked};
use crate::api::chat::{ChatChunk, ChatRequest, ChatResponse};
use crate::api::error::{BodyErrors, ErrorBody};
use crate::server::App;
use crate::server::error::ApiError;
use crate::server::output::chat::ChatShape;
use crate::server::request_record::RequestRecord;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use std::sync::Arc;

/// Continues a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "createChatCompletion",
    tag = "generation",
    request_body(content = ChatRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The answers. With `stream`, server-sent events, each a chunk, the last `[DONE]`.", content(
            (ChatResponse = "application/json"), (ChatChunk = "text/event-stream")
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
    let request = generate::read::<ChatRequest>(&app, request).await?;
    let checked = Checked::chat(request, &app.bounds())?;
    generate::answer::<ChatShape>(&app, arrival, checked, "chatcmpl").await
}
