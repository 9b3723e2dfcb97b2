//! `logit_bias`: a map from token ids, written as strings, to numbers.

use crate::api::common::LogitBias;
use crate::generation::TokenId;
use crate::server::error::ApiError;
use std::sync::Arc;

/// Range of one bias.
const RANGE: std::ops::RangeInclusive<f64> = -100.0..=100.0;

/// The biases, ascending by token id.
pub fn parse(bias: Option<&LogitBias>, vocab_size: usize) -> Result<Arc<[(TokenId, f32)]>, ApiError> {
    let mut entries = bias.into_iter().flatten().map(|(key, value)| entry(key, *value, vocab_size)).collect::<Result<Vec<_>, _>>()?;
    entries.sort_unstable_by_key(|(token, _)| *token);
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(ApiError::invalid("logit_bias", format!("has token id {} more than once", pair[0].0)));
    }
    Ok(entries.into())
}

fn entry(key: &str, value: f64, vocab_size: usize) -> Result<(TokenId, f32), ApiError> {
    let token = key.parse::<TokenId>().ok().filter(|_| key.bytes().all(|b| b.is_ascii_digit()));
    let Some(token) = token.filter(|&token| (token as usize) < vocab_size) else {
        let problem = format!("has the key '{key}': keys must be token ids between 0 and {}", vocab_size.saturating_sub(1));
        return Err(ApiError::invalid("logit_bias", problem));
    };
    if !RANGE.contains(&value) {
        return Err(ApiError::invalid("logit_bias", format!("must have values between -100 and 100, got {value} for token {token}")));
    }
    #[allow(clippy::cast_possible_truncation)] // within -100..=100; the nearest f32 is meant
    Ok((token, value as f32))
}
