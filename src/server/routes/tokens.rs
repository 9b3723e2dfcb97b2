//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`.

use super::generate::read;
use crate::api::error::{BodyErrors, ErrorBody};
use crate::api::tokens::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse, TokenizerInfo};
use crate::generation::TokenId;
use crate::server::App;
use crate::server::error::ApiError;
use crate::server::json::Json;
use crate::server::parse::chat::Turns;
use crate::server::parse::encode::Source;
use crate::server::parse::shared::resolve_model;
use crate::server::parse::tokens::ids;
use crate::server::parse::tools::Tools;
use crate::tokenizer::Tokenizer;
use axum::extract::{Request, State};
use std::sync::Arc;

/// Encodes a text or a conversation.
#[utoipa::path(
    post,
    path = "/tokenize",
    operation_id = "tokenize",
    tag = "tokens",
    request_body(content = TokenizeRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The tokens.", body = TokenizeResponse),
        BodyErrors,
    )
)]
pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<TokenizeResponse>, ApiError> {
    let request = read::<TokenizeRequest>(&app, request).await?;
    resolve_model(request.model, &app.bounds())?;
    let tokenizer = tokenizer(&app, if request.messages.is_some() { "messages" } else { "prompt" })?;
    let tokens: Vec<TokenId> = match (request.prompt, request.messages) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("messages", "must not stand beside 'prompt'")),
        (Some(_), None) if request.tools.is_some() => return Err(ApiError::invalid("tools", "is only allowed with 'messages'")),
        (Some(text), None) => app.encoder.text(text, request.add_special_tokens.unwrap_or(true)).await?,
        (None, messages @ Some(_)) => {
            let turns = Turns {
                messages,
                add_generation_prompt: request.add_generation_prompt,
                continue_final_message: request.continue_final_message,
                variables: request.chat_template_kwargs,
            };
            let mut conversation = turns.parse(app.state.model.max_model_len)?;
            conversation.tools = Tools::parse(request.tools, None, None)?.map(|tools| tools.definitions).unwrap_or_default();
            let source = Source::Chat(conversation);
            app.encoder.encode(vec![source], true).await?.into_iter().flat_map(|encoded| encoded.tokens.to_vec()).collect()
        }
        (None, None) => return Err(ApiError::Missing { param: "prompt".to_owned() }),
    };
    let is_long = tokens.len() > INLINE_TOKENS;
    let (tokenizer, is_wanted) = (tokenizer.clone(), request.return_token_strs.unwrap_or(false));
    let spell = move || {
        let spelled = is_wanted.then(|| tokens.iter().map(|&token| tokenizer.token_piece(token).unwrap_or_default()).collect());
        Ok((tokens, spelled))
    };
    let (tokens, token_strs) = app.offload.run_if(is_wanted && is_long, spell).await?;
    Ok(Json(TokenizeResponse { count: tokens.len() as u64, max_model_len: app.state.model.max_model_len as u64, token_strs, tokens }))
}

/// Decodes tokens to a text.
#[utoipa::path(
    post,
    path = "/detokenize",
    operation_id = "detokenize",
    tag = "tokens",
    request_body(content = DetokenizeRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The text.", body = DetokenizeResponse),
        BodyErrors,
    )
)]
pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<DetokenizeResponse>, ApiError> {
    let request = read::<DetokenizeRequest>(&app, request).await?;
    resolve_model(request.model, &app.bounds())?;
    let tokenizer = tokenizer(&app, "tokens")?.clone();
    let tokens = request.tokens.ok_or_else(|| ApiError::Missing { param: "tokens".to_owned() })?;
    let tokens = ids("tokens", &tokens, app.vocab_size)?;
    let prompt = app.offload.run_if(tokens.len() > INLINE_TOKENS, move || Ok(tokenizer.decode(&tokens, false))).await?;
    Ok(Json(DetokenizeResponse { prompt }))
}

/// Most tokens that are decoded on the spot.
const INLINE_TOKENS: usize = 4096;

/// Describes the tokenizer.
#[utoipa::path(
    get,
    path = "/tokenizer_info",
    operation_id = "tokenizerInfo",
    tag = "tokens",
    responses(
        (status = 200, description = "The tokenizer.", body = TokenizerInfo),
        (status = 400, description = "The server runs without a tokenizer.", body = ErrorBody),
        (status = 401, description = "No API key, or a wrong one.", body = ErrorBody),
    )
)]
pub async fn info(State(app): State<Arc<App>>) -> Result<Json<TokenizerInfo>, ApiError> {
    let tokenizer = tokenizer(&app, "tokenizer")?;
    Ok(Json(TokenizerInfo {
        tokenizer_class: "PreTrainedTokenizerFast".to_owned(),
        vocab_size: tokenizer.vocab_size() as u64,
        model_max_length: app.state.model.max_model_len as u64,
        bos_token: tokenizer.bos_token().map(|(text, _)| text.to_owned()),
        eos_token: tokenizer.eos_token().map(|(text, _)| text.to_owned()),
        chat_template: tokenizer.chat_template_source().map(str::to_owned),
    }))
}

fn tokenizer<'a>(app: &'a App, param: &str) -> Result<&'a Arc<Tokenizer>, ApiError> {
    app.state.tokenizer.as_ref().ok_or_else(|| ApiError::unsupported(param, "it runs without a tokenizer"))
}
