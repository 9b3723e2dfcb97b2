//! Reads the body of a request: declared as JSON, within a limit (also when it is compressed) and a time.

use crate::server::error::ApiError;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Most bytes, after decompression.
    pub max_bytes: usize,
    /// Time for all of it to arrive.
    pub timeout: Duration,
}

/// Most bytes of all bodies together that were read and not parsed yet.
const ALL_BODIES: usize = 64 << 20;
/// When a client may try again that found no memory: bodies come and go quickly.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The memory that bodies share, in KiB.
#[derive(Debug)]
pub struct BodyMemory(Arc<Semaphore>);

impl BodyMemory {
    /// Memory for a body of `max_bytes`, and for many usual ones.
    pub fn at_least(max_bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(kib(max_bytes.max(ALL_BODIES)).min(Semaphore::MAX_PERMITS))))
    }

    /// So much memory, if there is.
    fn take(&self, kib: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let permits = u32::try_from(kib).ok().and_then(|kib| self.0.clone().try_acquire_many_owned(kib).ok());
        permits.ok_or(ApiError::Overloaded { what: "request bodies", retry_after: RETRY_AFTER })
    }
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// A body, with its share of the memory until it is dropped.
#[derive(Debug)]
pub struct ReadBody {
    bytes: Vec<u8>,
    memory: OwnedSemaphorePermit,
}

impl ReadBody {
    /// The body.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn add(&mut self, data: &[u8], memory: &BodyMemory) -> Result<(), ApiError> {
        let more = kib(self.bytes.len() + data.len()) - self.memory.num_permits();
        self.memory.merge(memory.take(more)?);
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// Reads a JSON body to its end.
///
/// # Errors
/// 415 if it is not declared as JSON or compressed otherwise than with gzip; 413, 408 past the limits; 400 if it breaks off; 503 if the bodies
/// of all requests together are too large.
pub async fn read(headers: &HeaderMap, body: Body, limits: BodyLimits, memory: &BodyMemory) -> Result<ReadBody, ApiError> {
    check_declared(headers)?;
    if body.size_hint().lower() > limits.max_bytes as u64 {
        return Err(ApiError::BodyTooLarge { limit: limits.max_bytes });
    }
    let read = tokio::time::timeout(limits.timeout, read_frames(body, limits.max_bytes, memory));
    read.await.unwrap_or(Err(ApiError::BodyTimeout { limit: limits.timeout }))
}

async fn read_frames(mut body: Body, max_bytes: usize, memory: &BodyMemory) -> Result<ReadBody, ApiError> {
    let mut read = ReadBody { bytes: Vec::new(), memory: memory.take(0)? };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BodyUnreadable { detail: error.to_string() })?;
        let Some(data) = frame.data_ref() else { continue };
        if read.bytes.len() + data.len() > max_bytes {
            return Err(ApiError::BodyTooLarge { limit: max_bytes });
        }
        read.add(data, memory)?;
    }
    Ok(read)
}

fn check_declared(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    // The decompression layer takes the header away when it understands it.
    if let Some(found) = text(CONTENT_ENCODING).filter(|v| !v.eq_ignore_ascii_case("identity")) {
        return Err(ApiError::UnsupportedMediaType { header: "Content-Encoding", found: Some(found), expected: "only gzip is understood" });
    }
    let found = text(CONTENT_TYPE);
    if found.as_deref().is_some_and(is_json) {
        Ok(())
    } else {
        Err(ApiError::UnsupportedMediaType { header: "Content-Type", found, expected: "send application/json" })
    }
}

/// Writes the name of the encoding as the decompression layer knows it: names are the same in capitals, and `x-gzip` is gzip (RFC 9110).
pub async fn name_encoding(mut request: Request) -> Request {
    let known = |found: &HeaderValue| ["gzip", "x-gzip"].iter().any(|name| found.as_bytes().eq_ignore_ascii_case(name.as_bytes()));
    if let Some(found) = request.headers_mut().get_mut(CONTENT_ENCODING).filter(|found| known(found)) {
        *found = HeaderValue::from_static("gzip");
    }
    request
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_its_relatives_are_json() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["", "text/plain", "application/x-www-form-urlencoded", "text/json", "application/jsonx"] {
            assert!(!is_json(bad), "{bad}");
        }
    }

    async fn read(headers: &HeaderMap, body: Body, limits: BodyLimits) -> Result<Vec<u8>, ApiError> {
        super::read(headers, body, limits, &BodyMemory::at_least(0)).await.map(|read| read.bytes)
    }

    #[tokio::test]
    async fn all_bodies_together_are_bounded() {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let limits = BodyLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(5) };
        let memory = BodyMemory(Arc::new(Semaphore::new(3)));
        let body = |kib: usize| {
            let chunks = std::iter::repeat_n(Ok::<_, std::convert::Infallible>(vec![b' '; 512]), kib * 2);
            Body::from_stream(futures_util::stream::iter(chunks))
        };
        let held = super::read(&headers, body(2), limits, &memory).await.unwrap();
        assert_eq!(held.bytes().len(), 2048);
        let refused = super::read(&headers, body(2), limits, &memory).await.unwrap_err();
        assert_eq!(refused, ApiError::Overloaded { what: "request bodies", retry_after: RETRY_AFTER });
        drop((held, super::read(&headers, body(1), limits, &memory).await.unwrap()));
        assert_eq!(memory.0.available_permits(), 3, "nothing is kept");
        assert_eq!(super::read(&headers, body(3), limits, &memory).await.unwrap().bytes().len(), 3072);
    }

    #[tokio::test]
    async fn a_body_is_cut_at_its_limit() {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let limits = BodyLimits { max_bytes: 4, timeout: Duration::from_secs(5) };
        assert_eq!(read(&headers, Body::from("1234"), limits).await.unwrap(), b"1234");
        assert_eq!(read(&headers, Body::from("12345"), limits).await, Err(ApiError::BodyTooLarge { limit: 4 }));
        let chunks = futures_util::stream::iter(["123", "45"].map(Ok::<_, std::convert::Infallible>));
        assert_eq!(read(&headers, Body::from_stream(chunks), limits).await, Err(ApiError::BodyTooLarge { limit: 4 }));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_times_out() {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let limits = BodyLimits { max_bytes: 4, timeout: Duration::from_millis(20) };
        let body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::convert::Infallible>>());
        assert_eq!(read(&headers, body, limits).await, Err(ApiError::BodyTimeout { limit: limits.timeout }));
    }
}
