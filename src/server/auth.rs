//! API keys: `Authorization: Bearer KEY`, any of several.
//!
//! Everything is guarded but what probes and scrapers read, which carries no content of requests; unknown paths are guarded too, so that
//! without a key nothing can be learned about what is there.
//!
//! **Architecture invariant:** keys are compared as hashes, all of them, in constant time: how long it takes says nothing about any key.

use super::App;
use super::error::ApiError;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq};

/// Paths that need no key.
const OPEN: [&str; 6] = ["/health", "/livez", "/readyz", "/startupz", "/metrics", "/version"];

/// The hash of the key that a request brought, among its extensions.
#[derive(Clone, Copy, Debug)]
pub struct KeyHash(pub [u8; 32]);

/// The hashes of the keys.
#[derive(Clone)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

impl ApiKeys {
    /// Keys of which a request must bring one; none lets everyone in.
    pub fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| hash(key.as_bytes())).collect())
    }

    /// The hash of the key that a request brings; none where no key is needed.
    ///
    /// # Errors
    /// 401 unless it is one of the keys.
    pub fn check(&self, headers: &HeaderMap) -> Result<Option<KeyHash>, ApiError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let given = bearer(headers).ok_or(ApiError::Unauthorized { given: false })?;
        let given = hash(given);
        let known = self.0.iter().fold(Choice::from(0), |any, key| any | key.ct_eq(&given));
        if known.into() { Ok(Some(KeyHash(given))) } else { Err(ApiError::Unauthorized { given: true }) }
    }
}

fn hash(key: &[u8]) -> [u8; 32] {
    *blake3::hash(key).as_bytes()
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// The layer that asks for a key.
pub async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match app.keys.check(request.headers()) {
        Ok(key) => {
            key.and_then(|key| request.extensions_mut().insert(key));
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn check(keys: &[&str], header: Option<&str>) -> Result<(), ApiError> {
        let keys = ApiKeys::new(&keys.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>());
        let given = keys.check(&header.map(|h| (AUTHORIZATION, HeaderValue::from_str(h).unwrap())).into_iter().collect());
        given.map(|_| ())
    }

    #[test]
    fn any_of_several_keys_opens() {
        for header in ["Bearer one", "bearer two", "Bearer  two "] {
            assert_eq!(check(&["one", "two"], Some(header)), Ok(()), "{header}");
        }
        for header in ["Bearer three", "Bearer on", "Bearer onee", "Bearer ", "Bearer one two"] {
            assert_eq!(check(&["one", "two"], Some(header)), Err(ApiError::Unauthorized { given: true }), "{header}");
        }
        for header in [None, Some("Basic one"), Some("one"), Some("Bearerone")] {
            assert_eq!(check(&["one"], header), Err(ApiError::Unauthorized { given: false }), "{header:?}");
        }
        assert_eq!(check(&[], None), Ok(()));
    }
}
