//! What cuts a request short: its prompt, or its time.

use super::range;
use crate::generation::TokenId;
use crate::server::error::ApiError;
use axum::http::HeaderMap;
use std::time::Duration;

/// The header that says how long a request may take.
const TIMEOUT_HEADER: &str = "request-timeout-ms";
/// The longest time that can be asked for: a day.
const MOST_MS: i64 = 86_400_000;

/// How prompts are cut that are longer than wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Most tokens; `None`: as many as fit.
    max_tokens: Option<usize>,
    /// Drop tokens at the end, not at the beginning.
    at_end: bool,
}

impl Truncation {
    /// Reads `truncate_prompt_tokens` and `truncation_side`.
    pub(super) fn parse(tokens: Option<i64>, side: Option<&str>) -> Result<Option<Self>, ApiError> {
        let at_end = match side {
            None | Some("left") => false,
            Some("right") => true,
            Some(other) => return Err(ApiError::invalid("truncation_side", format!("must be 'left' or 'right', got '{other}'"))),
        };
        match range::integer::<i64>("truncate_prompt_tokens", tokens, -1..=i64::MAX)? {
            None => Ok(None),
            Some(0) => Err(ApiError::invalid("truncate_prompt_tokens", "must be -1 or at least 1, got 0")),
            Some(tokens) => Ok(Some(Self { max_tokens: usize::try_from(tokens).ok(), at_end })),
        }
    }

    /// The tokens of a prompt that stay, where `room` fit.
    pub(super) fn cut(self, prompt: &[TokenId], room: usize) -> &[TokenId] {
        let kept = self.max_tokens.unwrap_or(room).min(prompt.len());
        if self.at_end { &prompt[..kept] } else { &prompt[prompt.len() - kept..] }
    }
}

/// Reads `timeout_ms`.
pub(super) fn timeout(ms: Option<i64>) -> Result<Option<Duration>, ApiError> {
    Ok(range::integer::<u64>("timeout_ms", ms, 1..=MOST_MS)?.map(Duration::from_millis))
}

/// Reads the header `Request-Timeout-Ms`.
///
/// # Errors
/// 400 if it is no number of milliseconds.
pub fn header_timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let ms = value.to_str().ok().and_then(|text| text.trim().parse::<i64>().ok()).filter(|ms| (1..=MOST_MS).contains(ms));
    match ms.and_then(|ms| u64::try_from(ms).ok()) {
        Some(ms) => Ok(Some(Duration::from_millis(ms))),
        None => {
            let found = String::from_utf8_lossy(value.as_bytes());
            Err(ApiError::invalid("Request-Timeout-Ms", format!("must be between 1 and {MOST_MS} milliseconds, got '{found}'")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn prompts_are_cut_at_the_side_that_is_named() {
        let cut = |tokens, side, room| Truncation::parse(Some(tokens), side).unwrap().unwrap().cut(&[1, 2, 3, 4], room).to_vec();
        assert_eq!(cut(2, None, 9), [3, 4]);
        assert_eq!(cut(2, Some("right"), 9), [1, 2]);
        assert_eq!(cut(9, Some("left"), 1), [1, 2, 3, 4], "what does not fit is refused later");
        assert_eq!(cut(-1, None, 3), [2, 3, 4]);
        assert!(cut(-1, None, 0).is_empty());
        assert_eq!(Truncation::parse(None, None), Ok(None));
        for (tokens, side) in [(Some(0), None), (Some(-2), None), (Some(1), Some("up"))] {
            assert!(Truncation::parse(tokens, side).is_err(), "{tokens:?} {side:?}");
        }
    }

    #[test]
    fn the_header_is_a_number_of_milliseconds() {
        let read = |value: &'static str| {
            header_timeout(&HeaderMap::from_iter([(TIMEOUT_HEADER.parse().unwrap(), HeaderValue::from_static(value))]))
        };
        assert_eq!(read("1500"), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(header_timeout(&HeaderMap::new()), Ok(None));
        for bad in ["", "0", "-5", "1.5", "soon", "99999999999999999999", "86400001"] {
            assert!(read(bad).unwrap_err().to_string().contains("Request-Timeout-Ms"), "{bad}");
        }
    }
}
