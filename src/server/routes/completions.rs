//! `POST /v1/completions`.

use super::generate;
use crate::api::completion::{CompletionChunk, CompletionRequest, CompletionResponse};
use crate::api::error::ErrorBody;
use crate::server::App;
use crate::server::error::ApiError;
use crate::server::output::completion::CompletionShape;
use crate::server::parse::assemble::{MaxTokens, Wanted, assemble, check_choices};
use crate::server::parse::completion::Completion;
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
        (status = 400, description = "The request is wrong; the error names the parameter.", body = ErrorBody),
        (status = 401, description = "No API key, or a wrong one.", body = ErrorBody),
        (status = 404, description = "No such model.", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        (status = 415, description = "The body is not declared as JSON.", body = ErrorBody),
        (status = 500, description = "The server failed.", body = ErrorBody),
        (status = 503, description = "Overloaded or shutting down; see `Retry-After`.", body = ErrorBody),
    )
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<RequestRecord>>,
    request: Request,
) -> Result<Response, ApiError> {
    let request = generate::read::<CompletionRequest>(&app, request).await?;
    let bounds = app.bounds();
    let completion = Completion::parse(request, &bounds)?;
    check_choices(completion.parameters.n, completion.sources.len(), &bounds)?;
    let encoded = app.encoder.encode(completion.sources).await?;
    let max_tokens = match completion.max_tokens {
        Some(tokens) => MaxTokens::Given("max_tokens", tokens),
        None => MaxTokens::AtMost(Completion::DEFAULT_MAX_TOKENS),
    };
    let wanted = Wanted { max_tokens, logprobs: completion.logprobs, echo: completion.echo };
    let assembled = assemble(completion.parameters, encoded, wanted, &bounds, &record.id)?;
    generate::answer::<CompletionShape>(&app, record, assembled, "cmpl").await
}
