//! The errors of the HTTP API and the one map from them to status, class, code, parameter and public message.
//!
//! Handlers and the body of a stream both end here: an error before the answer has begun becomes an HTTP status with the JSON envelope,
//! one inside a stream becomes an event with the same object.
//!
//! **Architecture invariant:** `ApiError::public` is the only place that turns a failure into something a client sees. What happened inside
//! the server (`detail`) goes to the log with the request id, never to the client.

use crate::api::error::{ErrorBody, ErrorKind, ErrorObject};
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use std::time::Duration;

/// Tells the OpenAI SDKs not to send a request again that must fail again.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Longest public message, and longest name of a parameter, in bytes: a client's own huge value or key is not sent back whole.
const MAX_MESSAGE_BYTES: usize = 600;

/// Everything that can go wrong with a request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// The body is not JSON, or not what JSON should be (a duplicate key).
    #[error("the body is not valid JSON: {detail}")]
    InvalidJson {
        /// What the parser found, and where.
        detail: String,
        /// The key at fault, if it is one.
        param: Option<String>,
    },
    /// The body is JSON but not an object.
    #[error("the body must be a JSON object, got {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A parameter has a value that is not allowed.
    #[error("'{param}' {problem}")]
    InvalidValue {
        /// The parameter.
        param: String,
        /// What is wrong, allowed range and value included.
        problem: String,
    },
    /// A parameter has the wrong JSON type.
    #[error("'{param}' has the wrong type: {detail}")]
    WrongType {
        /// The parameter.
        param: String,
        /// What was expected and found.
        detail: String,
    },
    /// A parameter that cannot be left out is missing.
    #[error("'{param}' is required")]
    Missing {
        /// The parameter.
        param: String,
    },
    /// No such parameter.
    #[error("unknown parameter '{param}'{}", nearest.as_ref().map(|n| format!(": did you mean '{n}'?")).unwrap_or_default())]
    Unknown {
        /// The key.
        param: String,
        /// The known parameter with the most similar name.
        nearest: Option<&'static str>,
    },
    /// A parameter of the OpenAI API or of its extensions that this server does not implement.
    #[error("'{param}' is not supported by this server{}", if reason.is_empty() { String::new() } else { format!(": {reason}") })]
    Unsupported {
        /// The parameter.
        param: String,
        /// Why, or what to do instead; may be empty.
        reason: &'static str,
    },
    /// Prompt and answer do not fit the context.
    #[error("{0}")]
    ContextLength(ContextLengthError),
    /// `model` names something else than the served model.
    #[error("the model '{model}' does not exist; this server serves {}", served.join(", "))]
    ModelNotFound {
        /// The name asked for.
        model: String,
        /// The names there are.
        served: Vec<String>,
    },
    /// The chat template refused the messages.
    #[error("the chat template refused the messages: {detail}")]
    Template {
        /// What it said.
        detail: String,
    },
    /// The body is not declared as JSON, or compressed in a way that is not understood.
    #[error("{}", unsupported_media_type(header, found.as_deref(), expected))]
    UnsupportedMediaType {
        /// The header at fault.
        header: &'static str,
        /// Its value, if it is there.
        found: Option<String>,
        /// What to send instead.
        expected: &'static str,
    },
    /// The body, or what it unpacks to, is too large.
    #[error("the request body is larger than {limit} bytes")]
    BodyTooLarge {
        /// Most bytes.
        limit: usize,
    },
    /// The body could not be read to its end.
    #[error("the request body could not be read: {detail}")]
    BodyUnreadable {
        /// Why.
        detail: String,
    },
    /// The body did not arrive in time.
    #[error("the request body did not arrive within {} s", limit.as_secs_f32())]
    BodyTimeout {
        /// The time it had.
        limit: Duration,
    },
    /// No API key, or a wrong one.
    #[error("{}", if *given { "incorrect API key provided" } else { "no API key provided: send it as 'Authorization: Bearer KEY'" })]
    Unauthorized {
        /// Whether there was one.
        given: bool,
    },
    /// No such route.
    #[error("unknown route: {method} {path}")]
    RouteNotFound {
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
    },
    /// The route exists, for other methods.
    #[error("method {method} is not allowed for {path}")]
    MethodNotAllowed {
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
    },
    /// The queue is full.
    #[error("the server is overloaded: too many {what} are waiting; try again in {} s", retry_after_seconds(*retry_after))]
    Overloaded {
        /// What there is too much of: `requests` or `tokens`.
        what: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The engine is gone.
    #[error("the engine has stopped; the server cannot answer")]
    EngineDead {
        /// For the log.
        detail: String,
    },
    /// The deadline passed.
    #[error("the request took longer than its deadline of {} ms", deadline.limit.as_millis())]
    DeadlineExceeded {
        /// Which deadline.
        deadline: Deadline,
    },
    /// What the request forbids leaves no token to choose.
    #[error(
        "no token is left to choose: 'allowed_token_ids', 'bad_words', 'min_tokens' and the form of the answer together forbid all of them"
    )]
    NothingAllowed,
    /// The form that the answer must have cannot be followed any further.
    #[error("the form that the answer must have became too complex to be followed; simplify the schema, regex or grammar")]
    FormTooComplex {
        /// For the log.
        detail: String,
    },
    /// The model computed NaN or infinite logits.
    #[error("the model computed values that are not finite for this request")]
    NonFiniteLogits {
        /// For the log.
        detail: String,
    },
    /// Anything else.
    #[error("internal error; the server's log has more under the request's id")]
    Internal {
        /// For the log.
        detail: String,
    },
}

fn unsupported_media_type(header: &str, found: Option<&str>, expected: &str) -> String {
    match found {
        Some(found) => format!("unsupported {header} '{found}': {expected}"),
        None => format!("the header {header} is missing: {expected}"),
    }
}

/// The time that a request may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    /// From its arrival on.
    pub limit: Duration,
    /// The parameter that says so; `None`: a header does.
    pub param: Option<&'static str>,
}

/// Prompt and answer do not fit: the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextLengthError {
    /// Which parameter to make smaller.
    pub param: &'static str,
    /// Tokens of the prompt; a lower bound if `at_least`.
    pub prompt_tokens: usize,
    /// Whether the prompt was too long even to be counted.
    pub at_least: bool,
    /// Tokens asked for; unknown with `at_least`.
    pub max_tokens: usize,
    /// Tokens there is room for.
    pub max_model_len: usize,
}

impl std::fmt::Display for ContextLengthError {
    // The words "maximum context length is" are what client libraries recognise this error by.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { prompt_tokens, max_tokens, max_model_len, .. } = self;
        write!(f, "This model's maximum context length is {max_model_len} tokens. However, you requested ")?;
        if self.at_least {
            return write!(f, "at least {prompt_tokens} tokens in the prompt alone. Please reduce the prompt.");
        }
        write!(
            f,
            "{} tokens ({prompt_tokens} in the prompt, {max_tokens} for the completion). Please reduce the prompt or the completion.",
            prompt_tokens.saturating_add(*max_tokens)
        )
    }
}

/// What a client gets to see of an error, beside its message.
struct Public {
    status: StatusCode,
    kind: ErrorKind,
    code: Option<&'static str>,
    param: Option<String>,
}

impl ApiError {
    /// An error in the value of `param`.
    pub fn invalid(param: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidValue { param: param.into(), problem: problem.into() }
    }

    /// `param` is known, but not implemented.
    pub fn unsupported(param: impl Into<String>, reason: &'static str) -> Self {
        Self::Unsupported { param: param.into(), reason }
    }

    fn public(&self) -> Public {
        use ErrorKind as K;
        let (status, kind, code, param) = match self {
            Self::InvalidJson { param, .. } => (400, K::InvalidRequestError, Some("invalid_json"), param.clone()),
            Self::NotAnObject { .. } => (400, K::InvalidRequestError, Some("invalid_type"), Some("body".to_owned())),
            Self::InvalidValue { param, .. } => (400, K::InvalidRequestError, Some("invalid_value"), Some(param.clone())),
            Self::WrongType { param, .. } => (400, K::InvalidRequestError, Some("invalid_type"), Some(param.clone())),
            Self::Missing { param } => (400, K::InvalidRequestError, Some("missing_required_parameter"), Some(param.clone())),
            Self::Unknown { param, .. } => (400, K::InvalidRequestError, Some("unknown_parameter"), Some(param.clone())),
            Self::Unsupported { param, .. } => (400, K::InvalidRequestError, Some("unsupported_parameter"), Some(param.clone())),
            Self::ContextLength(e) => (400, K::InvalidRequestError, Some("context_length_exceeded"), Some(e.param.to_owned())),
            Self::ModelNotFound { .. } => (404, K::InvalidRequestError, Some("model_not_found"), Some("model".to_owned())),
            Self::Template { .. } => (400, K::InvalidRequestError, Some("invalid_messages"), Some("messages".to_owned())),
            Self::UnsupportedMediaType { .. } => (415, K::InvalidRequestError, Some("unsupported_media_type"), None),
            Self::BodyTooLarge { .. } => (413, K::InvalidRequestError, Some("request_too_large"), None),
            Self::BodyUnreadable { .. } => (400, K::InvalidRequestError, Some("unreadable_body"), None),
            Self::BodyTimeout { .. } => (408, K::TimeoutError, Some("request_timeout"), None),
            Self::Unauthorized { .. } => (401, K::AuthenticationError, Some("invalid_api_key"), None),
            Self::RouteNotFound { .. } => (404, K::InvalidRequestError, Some("unknown_url"), None),
            Self::MethodNotAllowed { .. } => (405, K::InvalidRequestError, Some("method_not_allowed"), None),
            Self::Overloaded { .. } => (503, K::OverloadedError, Some("server_overloaded"), None),
            Self::Draining => (503, K::OverloadedError, Some("server_shutting_down"), None),
            Self::EngineDead { .. } => (503, K::ServerError, Some("engine_dead"), None),
            Self::DeadlineExceeded { deadline } => (504, K::TimeoutError, Some("deadline_exceeded"), deadline.param.map(str::to_owned)),
            // Several parameters forbid tokens together; this one can allow some.
            Self::NothingAllowed => (400, K::InvalidRequestError, Some("no_token_allowed"), Some("allowed_token_ids".to_owned())),
            Self::FormTooComplex { .. } => (400, K::InvalidRequestError, Some("form_too_complex"), None),
            Self::NonFiniteLogits { .. } => (500, K::ServerError, Some("non_finite_logits"), None),
            Self::Internal { .. } => (500, K::ServerError, Some("internal_error"), None),
        };
        let status = StatusCode::from_u16(status).expect("every status of the table is valid");
        Public { status, kind, code, param }
    }

    /// The HTTP status of this error.
    pub fn status(&self) -> StatusCode {
        self.public().status
    }

    /// The error object as the client gets it.
    pub fn body(&self) -> ErrorBody {
        let Public { kind, code, param, .. } = self.public();
        let message = truncate(self.to_string(), MAX_MESSAGE_BYTES);
        // A key that is unknown is the client's own text, too.
        let param = param.map(|param| truncate(param, MAX_MESSAGE_BYTES));
        ErrorBody { error: ErrorObject { message, kind, param, code: code.map(str::to_owned) } }
    }

    /// What happened inside the server, for the log.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::EngineDead { detail }
            | Self::FormTooComplex { detail }
            | Self::NonFiniteLogits { detail }
            | Self::Internal { detail } => Some(detail),
            _ => None,
        }
    }

    /// When to try again, if that may help.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } => Some(*retry_after),
            Self::Draining | Self::EngineDead { .. } => Some(Duration::from_secs(5)),
            _ => None,
        }
    }

    /// Whether the same request must fail again: any 4xx but 408, 409 and 429, and a deadline.
    fn is_deterministic(&self) -> bool {
        let status = self.status().as_u16();
        ((400..500).contains(&status) && !matches!(status, 408 | 409 | 429)) || status == 504
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), super::json::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if self.is_deterministic() {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(after) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds(after)));
        }
        if matches!(self, Self::Unauthorized { .. }) {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(ErrorForLog(self));
        response
    }
}

/// The error behind a response, for the request's log line.
#[derive(Clone, Debug)]
pub struct ErrorForLog(pub ApiError);

/// Whole seconds between 1 and 60, as `Retry-After` wants them.
fn retry_after_seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).clamp(1, 60)
}

fn truncate(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_fields_are_always_there() {
        let json = serde_json::to_value(ApiError::Draining.body()).unwrap();
        let fields: Vec<&String> = json["error"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["message", "type", "param", "code"]);
        assert!(json["error"]["param"].is_null());
    }

    #[test]
    fn only_errors_that_repeat_forbid_a_retry() {
        let header = |e: ApiError| e.into_response().headers().get("x-should-retry").map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(header(ApiError::invalid("n", "is bad")).as_deref(), Some("false"));
        assert_eq!(header(ApiError::DeadlineExceeded { deadline: Deadline::default() }).as_deref(), Some("false"));
        assert_eq!(header(ApiError::BodyTimeout { limit: Duration::from_secs(1) }), None);
        assert_eq!(header(ApiError::Draining), None);
        assert_eq!(header(ApiError::Internal { detail: "x".into() }), None);
    }

    #[test]
    fn retry_after_is_between_1_and_60() {
        let header = |ms| {
            let response = ApiError::Overloaded { what: "requests", retry_after: Duration::from_millis(ms) }.into_response();
            response.headers()[RETRY_AFTER].to_str().unwrap().to_owned()
        };
        assert_eq!([header(0), header(1500), header(3_600_000)], ["1", "2", "60"]);
    }

    #[test]
    fn details_and_huge_values_stay_out_of_messages() {
        let internal = ApiError::Internal { detail: "secret".into() };
        assert!(!internal.body().error.message.contains("secret"));
        let long = ApiError::invalid("stop", "é".repeat(10_000)).body().error.message;
        assert!(long.len() < 610 && long.ends_with('…'), "{}", long.len());
        let ErrorObject { message, param, .. } = ApiError::Unknown { param: "é".repeat(500_000), nearest: None }.body().error;
        let param = param.unwrap();
        assert!(message.len() < 610 && param.len() < 610 && param.ends_with('…'), "{} {}", message.len(), param.len());
    }

    #[test]
    fn a_deadline_and_a_missing_header_are_named() {
        let body = |limit, param| {
            let deadline = Deadline { limit: Duration::from_millis(limit), param };
            ApiError::DeadlineExceeded { deadline }.body().error
        };
        let by_param = body(50, Some("timeout_ms"));
        assert_eq!(by_param.message, "the request took longer than its deadline of 50 ms");
        assert_eq!((by_param.param.as_deref(), body(50, None).param), (Some("timeout_ms"), None));
        let header = |found: Option<&str>| {
            let found = found.map(str::to_owned);
            ApiError::UnsupportedMediaType { header: "Content-Type", found, expected: "send application/json" }.to_string()
        };
        assert_eq!(header(None), "the header Content-Type is missing: send application/json");
        assert_eq!(header(Some("text/plain")), "unsupported Content-Type 'text/plain': send application/json");
    }
}
