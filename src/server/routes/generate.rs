//! What both generating routes do: read, submit, answer.

use crate::api::chat::ChatRequest;
use crate::api::completion::CompletionRequest;
use crate::engine::{AdmissionError, QueueLimit, SubmitError};
use crate::server::App;
use crate::server::auth::KeyHash;
use crate::server::error::{ApiError, ContextLengthError, Deadline};
use crate::server::extract::body::{self, BodyLimits};
use crate::server::extract::decode::{WireRequest, decode};
use crate::server::extract::strict::parse_object;
use crate::server::json::Json;
use crate::server::output::collect::{best, collect};
use crate::server::output::driver::Driver;
use crate::server::output::shape::{Envelope, Shape};
use crate::server::output::sse;
use crate::server::output::token_text::TokenText;
use crate::server::parse::assemble::{MaxTokens, Wanted, assemble, check_choices};
use crate::server::parse::chat::Chat;
use crate::server::parse::completion::Completion;
use crate::server::parse::encode::Source;
use crate::server::parse::shared::Parameters;
use crate::server::parse::{Assembled, Bounds, Caller, OutputPlan, header_timeout};
use crate::server::request_record::RequestRecord;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest body that is parsed on the spot.
const INLINE_BYTES: usize = 64 << 10;

/// Reads a request of type `T`.
///
/// # Errors
/// 4xx: everything that can be wrong with a body.
pub async fn read<T: WireRequest + Send + 'static>(app: &App, request: Request) -> Result<T, ApiError> {
    let options = &app.state.options;
    let limits = BodyLimits { max_bytes: options.max_body_bytes, timeout: options.body_timeout };
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, limits, &app.body_memory).await?;
    let max_values = app.max_json_values();
    // The body and its share of the memory go when it is decoded.
    let is_long = body.bytes().len() > INLINE_BYTES;
    app.offload.run_if(is_long, move || decode(parse_object(body.bytes(), max_values)?)).await
}

/// What a request brings beside its body.
#[derive(Debug)]
pub struct Arrival {
    record: Arc<RequestRecord>,
    caller: Caller,
    timeout: Option<Duration>,
}

impl Arrival {
    /// Reads the head of a request.
    ///
    /// # Errors
    /// 400 if a header is wrong.
    pub fn of(request: &Request, record: Arc<RequestRecord>) -> Result<Self, ApiError> {
        let key = request.extensions().get::<KeyHash>().map(|key| key.0);
        let caller = Caller { request_id: record.id.clone(), key };
        Ok(Self { caller, timeout: header_timeout(request.headers())?, record })
    }

    /// How long the request may take, by whichever of the two times is shorter.
    fn deadline(&self, timeout: Option<Duration>) -> Option<Deadline> {
        let by_header = self.timeout.map(|limit| Deadline { limit, param: None });
        let by_parameter = timeout.map(|limit| Deadline { limit, param: Some("timeout_ms") });
        by_header.into_iter().chain(by_parameter).min_by_key(|deadline| deadline.limit)
    }
}

/// A request, checked but for what needs its tokens.
#[derive(Debug)]
pub struct Checked {
    /// What both APIs have.
    pub parameters: Parameters,
    /// The prompts.
    pub sources: Vec<Source>,
    /// What to generate.
    pub wanted: Wanted,
}

impl Checked {
    /// Checks a completion.
    ///
    /// # Errors
    /// 400 with the parameter at fault; 404 for another model.
    pub fn completion(request: CompletionRequest, bounds: &Bounds<'_>) -> Result<Self, ApiError> {
        let Completion { parameters, sources, max_tokens, logprobs, best_of, echo } = Completion::parse(request, bounds)?;
        let max_tokens = match max_tokens {
            Some(tokens) => MaxTokens::Given("max_tokens", tokens),
            None => MaxTokens::AtMost(Completion::DEFAULT_MAX_TOKENS),
        };
        let wanted = Wanted { max_tokens, logprobs, best_of, echo, calls: None };
        Ok(Self { parameters, sources, wanted })
    }

    /// Checks a chat completion.
    ///
    /// # Errors
    /// 400 with the parameter at fault; 404 for another model.
    pub fn chat(request: ChatRequest, bounds: &Bounds<'_>) -> Result<Self, ApiError> {
        let Chat { parameters, source, calls, max_tokens, logprobs } = Chat::parse(request, bounds)?;
        let max_tokens = match max_tokens {
            Some((param, tokens)) => MaxTokens::Given(param, tokens),
            None => MaxTokens::AtMost(bounds.defaults.max_new_tokens.unwrap_or(u32::MAX)),
        };
        let wanted = Wanted { max_tokens, logprobs, best_of: parameters.n, echo: false, calls };
        Ok(Self { parameters, sources: vec![source], wanted })
    }
}

/// Makes requests for the engine of a checked one: encodes its prompts, compiles what its answer must look like, fits it into the context.
///
/// # Errors
/// 400 if a prompt cannot be encoded or does not fit, or the form cannot be enforced.
pub async fn prepare(app: &App, arrival: &Arrival, checked: Checked) -> Result<Assembled, ApiError> {
    let Checked { mut parameters, sources, wanted } = checked;
    let bounds = app.bounds();
    check_choices((parameters.n, wanted.best_of), sources.len(), &bounds)?;
    let encoded = app.encoder.encode(sources, parameters.truncation.is_some()).await?;
    if let Some(form) = parameters.form.take() {
        parameters.constraint = Some(app.forms.compile(form).await?);
    }
    parameters.skip_special_tokens &= wanted.calls.is_none() || !app.encoder.calls_are_special();
    parameters.sampling.bad_words = app.encoder.words(&parameters.bad_words)?.into();
    assemble(parameters, encoded, wanted, &bounds, &arrival.caller)
}

/// Encodes the prompts, hands the sequences to the engine and answers, whole or streamed.
///
/// # Errors
/// 400 if a prompt cannot be encoded or does not fit; 503 if the engine does not take the sequences; whatever ends the generation of a whole
/// answer.
pub async fn answer<S: Shape>(app: &App, arrival: Arrival, checked: Checked, id_prefix: &str) -> Result<Response, ApiError> {
    let deadline = arrival.deadline(checked.parameters.timeout);
    let assembled = prepare(app, &arrival, checked).await?;
    generate::<S>(app, arrival.record, (assembled, deadline), id_prefix).await
}

async fn generate<S: Shape>(
    app: &App,
    record: Arc<RequestRecord>,
    (assembled, deadline): (Assembled, Option<Deadline>),
    id_prefix: &str,
) -> Result<Response, ApiError> {
    let Assembled { requests, mut plan } = assembled;
    // Without a tokenizer the ids are all there is to an answer.
    plan.return_token_ids |= app.state.tokenizer.is_none();
    let sequences = requests.len();
    let until = deadline.and_then(|deadline| record.started.checked_add(deadline.limit));
    let streams = app.state.engine.submit(requests, until).map_err(|error| refused(error, &plan, app))?;
    let driver = Driver::new(streams, &plan, app.state.tokenizer.as_ref(), record).with_deadline(deadline.unwrap_or_default());
    let (stream, counts) = (plan.stream, (plan.n as usize, plan.best_of as usize));
    let token_text = TokenText::new(app.state.tokenizer.clone(), plan.tokens_as_ids);
    let shape = S::new(Envelope {
        id: format!("{id_prefix}-{}", uuid::Uuid::new_v4().simple()),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        system_fingerprint: app.state.model.fingerprint.clone(),
        plan: Arc::new(plan),
        token_text,
    });
    match stream {
        Some(mode) => sse::respond(driver, shape, mode, app.state.options.sse_keep_alive).await,
        None => {
            let (choices, usage) = collect(driver, sequences).await?;
            Ok(Json(shape.whole(best(choices, counts), usage)).into_response())
        }
    }
}

fn refused(error: SubmitError, plan: &OutputPlan, app: &App) -> ApiError {
    match error {
        SubmitError::QueueFull { retry_after, reason } => {
            let what = match reason {
                QueueLimit::Requests => "requests",
                QueueLimit::Tokens => "tokens",
            };
            ApiError::Overloaded { what, retry_after }
        }
        SubmitError::Draining => ApiError::Draining,
        SubmitError::Dead { reason } => ApiError::EngineDead { detail: reason },
        SubmitError::TooLarge(error) => too_large(&error, plan, app),
    }
}

/// The sequence alone would not fit the KV cache: a context shorter than the model's.
fn too_large(error: &AdmissionError, plan: &OutputPlan, app: &App) -> ApiError {
    let longest = plan.prompts.iter().max_by_key(|prompt| prompt.tokens.len() + prompt.stop.max_tokens as usize);
    let Some(prompt) = longest else { return ApiError::Internal { detail: error.to_string() } };
    let limits = app.state.engine.limits();
    ApiError::ContextLength(ContextLengthError {
        param: "max_tokens",
        prompt_tokens: prompt.tokens.len(),
        at_least: false,
        max_tokens: prompt.stop.max_tokens as usize,
        max_model_len: limits.max_model_len.min(limits.kv_capacity_tokens),
    })
}
