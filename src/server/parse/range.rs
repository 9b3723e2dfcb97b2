//! Numbers within their range, with messages that name parameter, value and range.

use crate::server::error::ApiError;
use std::ops::RangeInclusive;

/// The number, if it was given and lies in the range.
pub fn float(param: &str, value: Option<f64>, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    if range.contains(&value) {
        #[allow(clippy::cast_possible_truncation)] // all ranges are far within f32's; the nearest f32 is meant
        return Ok(Some(value as f32));
    }
    Err(ApiError::invalid(param, format!("must be between {} and {}, got {value}", range.start(), range.end())))
}

/// The integer, if it was given and lies in the range.
pub fn integer<T: TryFrom<i64>>(param: &str, value: Option<i64>, range: RangeInclusive<i64>) -> Result<Option<T>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let fits = range.contains(&value).then(|| T::try_from(value).ok()).flatten();
    fits.map(Some).ok_or_else(|| {
        let problem = match (*range.start(), *range.end()) {
            (low, i64::MAX) => format!("must be at least {low}, got {value}"),
            (low, high) => format!("must be between {low} and {high}, got {value}"),
        };
        ApiError::invalid(param, problem)
    })
}
