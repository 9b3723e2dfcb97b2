//! A streamed answer as server-sent events.
//!
//! From admission on a comment is sent whenever nothing else was for a while, so that no proxy takes a queued request for a dead one. The
//! response begins with the first output or the first comment, whichever comes first: what fails before that has a real status. A later
//! error is an event with the error object; the last event is always `[DONE]`.

use super::driver::{Driver, Output};
use super::shape::Shape;
use crate::server::error::ApiError;
use crate::server::parse::StreamMode;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use std::convert::Infallible;
use std::time::Duration;

const DONE: &[u8] = b"data: [DONE]\n\n";
const PING: &[u8] = b": ping\n\n";

/// Answers with the events of `driver`; dropping the response aborts what still runs.
///
/// # Errors
/// What fails before there is any output, if that is soon.
pub async fn respond<S: Shape>(mut driver: Driver, shape: S, mode: StreamMode, keep_alive: Duration) -> Result<Response, ApiError> {
    let first = match tokio::time::timeout(keep_alive, driver.next()).await {
        Ok(Some(Err(error))) => return Err(error),
        Ok(Some(Ok(output))) => First::Output(output),
        Ok(None) => First::End,
        Err(_) => First::Ping,
    };
    let events = Events { driver: Some(driver), first: Some(first), shape, mode, keep_alive };
    let frames = futures_util::stream::unfold(events, |mut events| async move {
        let frame = events.next_frame().await?;
        Some((Ok::<_, Infallible>(frame), events))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // nginx would collect the events otherwise.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(frames)).into_response())
}

/// What the response begins with.
enum First {
    Output(Output),
    /// There is none.
    End,
    /// It took too long.
    Ping,
}

struct Events<S> {
    /// `None` once the last event was sent.
    driver: Option<Driver>,
    first: Option<First>,
    shape: S,
    mode: StreamMode,
    keep_alive: Duration,
}

impl<S: Shape> Events<S> {
    /// The next bytes of the body; `None` at its end.
    async fn next_frame(&mut self) -> Option<Bytes> {
        loop {
            let driver = self.driver.as_mut()?;
            let output = match self.first.take() {
                Some(First::Output(output)) => Ok(Some(Ok(output))),
                Some(First::End) => Ok(None),
                Some(First::Ping) => return Some(Bytes::from_static(PING)),
                None => tokio::time::timeout(self.keep_alive, driver.next()).await,
            };
            let Ok(output) = output else { return Some(Bytes::from_static(PING)) };
            let mut frame = Vec::new();
            match output {
                Some(Ok(output)) => {
                    let so_far = self.mode.continuous_usage.then(|| driver.usage());
                    self.shape.chunks(output, so_far).iter().for_each(|chunk| event(&mut frame, chunk));
                }
                Some(Err(error)) => {
                    driver.failed(&error);
                    self.end(&mut frame, Some(&error));
                }
                None => self.end(&mut frame, None),
            }
            if !frame.is_empty() {
                return Some(frame.into());
            }
        }
    }

    fn end(&mut self, frame: &mut Vec<u8>, error: Option<&ApiError>) {
        let driver = self.driver.take();
        match (error, driver) {
            (Some(error), _) => event(frame, &error.body()),
            (None, Some(driver)) if self.mode.include_usage => event(frame, &self.shape.usage_chunk(driver.usage())),
            (None, _) => {}
        }
        frame.extend_from_slice(DONE);
    }
}

/// One event. JSON has no raw line breaks, so that one `data` line holds it.
fn event(frame: &mut Vec<u8>, value: &impl Serialize) {
    let start = frame.len();
    frame.extend_from_slice(b"data: ");
    if let Err(error) = serde_json::to_writer(&mut *frame, value) {
        tracing::error!(%error, "an event could not be encoded");
        frame.truncate(start);
        return;
    }
    frame.extend_from_slice(b"\n\n");
}
