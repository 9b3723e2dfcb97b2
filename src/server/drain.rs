//! Reads on what is left of a request's body when its answer is a refusal.
//!
//! A client that is still sending when the connection closes sees a broken pipe and never the answer. This layer is the outermost one, so that
//! it sees every refusal, whoever gave it, and counts bytes as they come from the connection, before they are unpacked.
//!
//! **Architecture invariant:** what is thrown away is bounded in bytes and in time, and little for who has no key.

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::EXPECT;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// How much is thrown away, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DrainLimits {
    bytes: usize,
    time: Duration,
}

/// For whoever may use the server.
const GENEROUS: DrainLimits = DrainLimits { bytes: 64 << 20, time: Duration::from_secs(5) };
/// For who brought no key, or had all the time there is for its body.
const SHORT: DrainLimits = DrainLimits { bytes: 8 << 20, time: Duration::from_secs(1) };

/// The layer.
pub async fn drain_refused(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let asks_first = asks_first(request.headers());
    let (parts, body) = request.into_parts();
    let rest = SharedBody::new(body);
    let response = next.run(Request::from_parts(parts, Body::new(rest.clone()))).await;
    if let Some(limits) = limits(response.status()) {
        rest.drain(limits, asks_first).await;
    }
    response
}

/// Whether the client sends the body only after the server said to go on.
fn asks_first(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// What to throw away before an answer with this status; `None` if the body was read, or nobody waits for the answer.
fn limits(status: StatusCode) -> Option<DrainLimits> {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::REQUEST_TIMEOUT => Some(SHORT),
        // Too many bodies at once.
        StatusCode::SERVICE_UNAVAILABLE => Some(GENEROUS),
        _ => status.is_client_error().then_some(GENEROUS),
    }
}

/// A body that is read by the routes, and by the layer once they let go of it.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<Inner>>);

struct Inner {
    body: Body,
    /// Whether anybody asked for it, which is what makes the connection tell the client to go on.
    asked_for: bool,
}

impl SharedBody {
    fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Inner { body, asked_for: false })))
    }

    /// Held for one poll only: never across an `await`.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drain(mut self, limits: DrainLimits, asks_first: bool) {
        if self.is_end_stream() || (asks_first && !self.lock().asked_for) {
            return;
        }
        let read_on = async {
            let mut drained = 0;
            while let Some(Ok(frame)) = self.frame().await {
                drained += frame.data_ref().map_or(0, Bytes::len);
                if drained > limits.bytes {
                    break;
                }
            }
        };
        // Past the time the answer is sent all the same.
        let _ = tokio::time::timeout(limits.time, read_on).await;
    }
}

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut inner = self.lock();
        inner.asked_for = true;
        Pin::new(&mut inner.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    /// A body without an end, and how many bytes were taken of it.
    fn endless() -> (SharedBody, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let frames = futures_util::stream::repeat_with(move || {
            counter.fetch_add(1 << 10, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(Bytes::from_static(&[0; 1 << 10]))
        });
        (SharedBody::new(Body::from_stream(frames)), taken)
    }

    #[test]
    fn refusals_are_drained_and_answers_are_not() {
        let limits = |status| limits(StatusCode::from_u16(status).unwrap());
        assert_eq!([limits(200), limits(204), limits(500), limits(504)], [None; 4]);
        assert_eq!([limits(400), limits(404), limits(405), limits(413), limits(415), limits(503)], [Some(GENEROUS); 6]);
        assert_eq!([limits(401), limits(408)], [Some(SHORT); 2]);
    }

    #[tokio::test]
    async fn draining_stops_at_its_limit() {
        let (body, taken) = endless();
        body.drain(DrainLimits { bytes: 10 << 10, time: Duration::from_secs(60) }, false).await;
        assert_eq!(taken.load(Ordering::Relaxed), 11 << 10);
    }

    #[tokio::test]
    async fn draining_stops_when_its_time_is_over() {
        let pending = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>());
        let start = Instant::now();
        SharedBody::new(pending).drain(DrainLimits { bytes: 1, time: Duration::from_millis(20) }, false).await;
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn who_asks_first_is_not_told_to_go_on() {
        let few = DrainLimits { bytes: 1, time: Duration::from_secs(60) };
        let expect = HeaderMap::from_iter([(EXPECT, HeaderValue::from_static("100-Continue"))]);
        assert!(asks_first(&expect) && !asks_first(&HeaderMap::new()));
        let (body, taken) = endless();
        body.drain(few, true).await;
        assert_eq!(taken.load(Ordering::Relaxed), 0);
        let (mut body, taken) = endless();
        let _ = body.frame().await;
        body.drain(few, true).await;
        assert!(taken.load(Ordering::Relaxed) > 1 << 10, "it was told to go on, and sends");
    }
}
