//! Pages of other origins: which ones a browser lets read answers.

use super::request_log::X_REQUEST_ID;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderName, HeaderValue, Method};
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// How long a browser may remember what is allowed.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The layer that lets pages of `origins` in, `*` being all; none if there are no origins: then nothing of this is said.
pub(super) fn layer(origins: &[String]) -> tower::util::Either<CorsLayer, tower::layer::util::Identity> {
    if origins.is_empty() {
        return tower::util::Either::Right(tower::layer::util::Identity::new());
    }
    let allowed = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        // What cannot be a header cannot be an origin either.
        false => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let exposed = [X_REQUEST_ID, RETRY_AFTER, HeaderName::from_static("x-should-retry")];
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        // A key travels in a header that no wildcard covers.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed)
        .max_age(MAX_AGE);
    tower::util::Either::Left(cors)
}
