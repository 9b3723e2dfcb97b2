//! `POST /v1/completions/render`, `POST /v1/chat/completions/render`.

use super::generate::{self, Arrival, Checked};
use crate::api::chat::ChatRequest;
use crate::api::completion::CompletionRequest;
use crate::api::error::BodyErrors;
use crate::api::render::{RenderedPrompt, RenderedSampling};
use crate::server::App;
use crate::server::error::ApiError;
use crate::server::json::Json;
use crate::server::parse::{Assembled, PromptPlan};
use crate::server::request_record::RequestRecord;
use axum::Extension;
use axum::extract::{Request, State};
use std::sync::Arc;

/// The prompts that a completion would read. Whatever the completion would be refused for, this is, too.
#[utoipa::path(
    post,
    path = "/v1/completions/render",
    operation_id = "renderCompletion",
    tag = "tokens",
    request_body(content = CompletionRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The prompts.", body = Vec<RenderedPrompt>),
        BodyErrors,
    )
)]
pub async fn completion(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<RequestRecord>>,
    request: Request,
) -> Result<Json<Vec<RenderedPrompt>>, ApiError> {
    let arrival = Arrival::of(&request, record)?;
    let request = generate::read::<CompletionRequest>(&app, request).await?;
    render(&app, &arrival, Checked::completion(request, &app.bounds())?, "cmpl").await.map(Json)
}

/// The prompt that a chat completion would read.
#[utoipa::path(
    post,
    path = "/v1/chat/completions/render",
    operation_id = "renderChatCompletion",
    tag = "tokens",
    request_body(content = ChatRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The prompt.", body = RenderedPrompt),
        BodyErrors,
    )
)]
pub async fn chat(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<RequestRecord>>,
    request: Request,
) -> Result<Json<RenderedPrompt>, ApiError> {
    let arrival = Arrival::of(&request, record)?;
    let request = generate::read::<ChatRequest>(&app, request).await?;
    let prompts = render(&app, &arrival, Checked::chat(request, &app.bounds())?, "chatcmpl").await?;
    let prompt = prompts.into_iter().next();
    prompt.map(Json).ok_or_else(|| ApiError::Internal { detail: "a conversation came to no prompt".to_owned() })
}

async fn render(app: &App, arrival: &Arrival, checked: Checked, id_prefix: &str) -> Result<Vec<RenderedPrompt>, ApiError> {
    let Assembled { requests, plan } = generate::prepare(app, arrival, checked).await?;
    let firsts = requests.iter().step_by(plan.best_of.max(1) as usize);
    let rendered = plan.prompts.iter().zip(firsts).map(|(prompt, request)| {
        let PromptPlan { tokens, stop, .. } = prompt;
        let sampling = &request.sampling;
        RenderedPrompt {
            request_id: format!("{id_prefix}-{}", uuid::Uuid::new_v4().simple()),
            model: plan.model.clone(),
            token_ids: tokens.to_vec(),
            prompt: app.state.tokenizer.as_ref().map(|tokenizer| tokenizer.decode(tokens, false)),
            sampling_params: RenderedSampling {
                n: plan.n,
                max_tokens: stop.max_tokens,
                min_tokens: stop.min_tokens,
                temperature: sampling.temperature,
                top_p: sampling.top_p,
                top_k: sampling.top_k,
                min_p: sampling.min_p,
                presence_penalty: sampling.presence_penalty,
                frequency_penalty: sampling.frequency_penalty,
                repetition_penalty: sampling.repetition_penalty,
                seed: sampling.seed.cast_signed(),
            },
        }
    });
    Ok(rendered.collect())
}
