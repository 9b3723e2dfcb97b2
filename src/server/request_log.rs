//! The outermost layer: request ids, one log line a request, HTTP metrics.
//!
//! A request is over when the last byte of its answer was taken, when its handler was dropped (the client went away before the answer) or when
//! the body was dropped (during it). All three end in the drop of one guard.

use super::App;
use super::error::ErrorForLog;
use super::request_record::RequestRecord;
use crate::telemetry::metrics::{HttpRequest, Metrics};
use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Carries the request's id in both directions.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id taken from a client.
const MAX_REQUEST_ID: usize = 128;
/// What the log and the metrics call a request whose client went away before there was a status (as nginx does).
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// What the metrics call every path that is no route.
const NO_ROUTE: &str = "unmatched";
/// The routes whose answers have a reason to end.
const GENERATING: [&str; 2] = ["/v1/completions", "/v1/chat/completions"];

/// Runs a request and accounts for it.
pub async fn account(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id: Arc<str> = request_id(request.headers()).into();
    let record = Arc::new(RequestRecord::new(id.clone()));
    request.extensions_mut().insert(record.clone());
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| NO_ROUTE.to_owned(), |path| path.as_str().to_owned());
    let mut guard = Guard {
        record,
        metrics: app.state.metrics.clone(),
        route,
        method: request.method().clone(),
        status: CLIENT_CLOSED_REQUEST,
        request_bytes: content_length(request.headers()),
        response_bytes: 0,
        // The answer to HEAD has no body that could be taken.
        complete: request.method() == Method::HEAD,
    };
    let mut response = next.run(request).await;
    guard.status = response.status().as_u16();
    if let Some(ErrorForLog(error)) = response.extensions_mut().remove() {
        guard.record.failed(&error);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response.map(|body| Body::new(GuardedBody { body, guard }))
}

/// The client's id if it is a sane one, else a fresh one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = given.filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()));
    sane.map_or_else(|| format!("req-{}", uuid::Uuid::new_v4().simple()), str::to_owned)
}

fn content_length(headers: &HeaderMap) -> u64 {
    headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Accounts for a request when it is dropped.
struct Guard {
    record: Arc<RequestRecord>,
    metrics: Arc<Metrics>,
    route: String,
    method: Method,
    status: u16,
    request_bytes: u64,
    response_bytes: u64,
    /// Whether the whole answer was taken.
    complete: bool,
}

impl Guard {
    /// `stop`, `length`, both, or how else it ended; `None` where nothing is generated.
    fn outcome(&self, finish: &[crate::api::common::FinishReason], failed: bool) -> Option<String> {
        if !GENERATING.contains(&self.route.as_str()) {
            return None;
        }
        Some(if failed {
            "error".to_owned()
        } else if !self.complete {
            "abort".to_owned()
        } else {
            finish.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(",")
        })
    }

    fn log(&self) {
        let notes = self.record.notes();
        let usage = notes.usage.unwrap_or_default();
        let failed = notes.error.is_some();
        let detail = notes.error.as_ref().and_then(|error| error.detail());
        let message = notes.error.as_ref().filter(|_| detail.is_some() || self.status >= 500).map(ToString::to_string);
        let ms = |duration: Option<std::time::Duration>| duration.map(|d| d.as_micros() as f64 / 1e3);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = &*self.record.id,
                    method = self.method.as_str(),
                    route = self.route,
                    status = self.status,
                    prompt_tokens = usage.prompt_tokens,
                    cached_tokens = usage.prompt_tokens_details.cached_tokens,
                    completion_tokens = usage.completion_tokens,
                    queue_ms = ms(notes.queue_time),
                    ttft_ms = ms(notes.first_token),
                    total_ms = ms(Some(self.record.started.elapsed())),
                    finish_reason = self.outcome(&notes.finish, failed),
                    code = notes.error.as_ref().and_then(|error| error.body().error.code),
                    error = message,
                    detail,
                    "request"
                )
            };
        }
        match (self.status, failed) {
            (500.., _) | (200..=299, true) => line!(warn),
            // Probes and scrapes come every few seconds.
            _ if !self.route.starts_with("/v1/") && self.route != NO_ROUTE => line!(debug),
            _ => line!(info),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.log();
        self.metrics.http_request(&HttpRequest {
            handler: &self.route,
            method: method_label(&self.method),
            status: self.status,
            duration: self.record.started.elapsed(),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
        });
    }
}

/// The method as a label: a client cannot make up new ones.
fn method_label(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE | Method::PATCH | Method::OPTIONS => method.as_str(),
        _ => "other",
    }
}

/// A body that counts its bytes and holds the guard until it is dropped.
struct GuardedBody {
    body: Body,
    guard: Guard,
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self.guard.response_bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => {}
            None => self.guard.complete = true,
        }
        if self.body.is_end_stream() {
            // hyper does not poll once more for the end of a body of known length.
            self.guard.complete = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(method: Method, route: &str, complete: bool) -> Guard {
        let record = Arc::new(RequestRecord::new("id".into()));
        let (metrics, route) = (Metrics::new("m"), route.to_owned());
        Guard { record, metrics, route, method, status: 200, request_bytes: 0, response_bytes: 0, complete }
    }

    #[test]
    fn only_what_generates_has_a_reason_to_end() {
        use crate::api::common::FinishReason;
        let outcome = |route, complete, failed| guard(Method::POST, route, complete).outcome(&[FinishReason::Stop], failed);
        assert_eq!(outcome("/v1/completions", true, false).as_deref(), Some("stop"));
        assert_eq!(outcome("/v1/chat/completions", false, false).as_deref(), Some("abort"));
        assert_eq!(outcome("/v1/completions", true, true).as_deref(), Some("error"));
        for route in ["/v1/models", "/health", NO_ROUTE] {
            assert_eq!(outcome(route, false, false), None, "{route}");
        }
    }

    #[test]
    fn only_sane_ids_are_taken_over() {
        let with = |id: &str| request_id(&HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_str(id).unwrap())]));
        assert_eq!(with("abc-1"), "abc-1");
        assert_eq!(with(&"x".repeat(128)), "x".repeat(128));
        for bad in ["", "a b", &"x".repeat(129)] {
            assert!(with(bad).starts_with("req-"), "{bad}");
        }
        assert!(request_id(&HeaderMap::new()).starts_with("req-"));
        let bytes = HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_bytes(b"\xff").unwrap())]);
        assert!(request_id(&bytes).starts_with("req-"));
    }
}
