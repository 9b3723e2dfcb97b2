//! The parameters that both APIs have.

use super::{Bounds, logit_bias, range};
use crate::api::common::{LogitBias, StreamOptions};
use crate::api::input::Stop;
use crate::generation::{SamplingParams, TokenId};
use crate::server::error::ApiError;
use std::sync::Arc;

/// Most stop strings of a request (OpenAI allows 4; users want more).
const MAX_STOP_STRINGS: usize = 64;
/// Longest stop string: as much text may have to be held back in a stream.
const MAX_STOP_BYTES: usize = 4096;
/// Most alternatives with a log-probability.
pub const MAX_LOGPROBS: i64 = 20;

/// Raw values of the parameters that both APIs have.
#[derive(Debug, Default)]
pub(super) struct SharedFields {
    pub model: Option<String>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub n: Option<i64>,
    pub stop: Option<Stop>,
    pub seed: Option<i64>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub logit_bias: Option<LogitBias>,
    pub ignore_eos: Option<bool>,
    pub min_tokens: Option<i64>,
    pub return_token_ids: Option<bool>,
    pub service_tier: Option<String>,
}

/// How a streamed answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamMode {
    /// Whether a usage chunk was asked for.
    pub include_usage: bool,
}

/// The parameters that both APIs have, resolved.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// The name the client used, or the first one.
    pub model: String,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Choices for each prompt.
    pub n: u32,
    /// Strings that end a text, none empty.
    pub stop_strings: Vec<String>,
    /// Tokens that end a text; empty with `ignore_eos`.
    pub eos_token_ids: Arc<[TokenId]>,
    /// No end before so many tokens.
    pub min_tokens: u32,
    /// `None`: one answer when everything is done.
    pub stream: Option<StreamMode>,
    /// Return ids as well.
    pub return_token_ids: bool,
}

impl SharedFields {
    /// Checks everything and applies the defaults.
    ///
    /// # Errors
    /// 400 with the parameter at fault; 404 for another model.
    pub fn resolve(self, bounds: &Bounds<'_>) -> Result<Parameters, ApiError> {
        check_service_tier(self.service_tier.as_deref())?;
        let stream = stream_mode(self.stream, self.stream_options.as_ref())?;
        let n = range::integer("n", self.n, 1..=i64::try_from(bounds.max_choices).unwrap_or(i64::MAX))?.unwrap_or(1);
        let min_tokens = range::integer("min_tokens", self.min_tokens, 0..=i64::from(u32::MAX))?.unwrap_or(0);
        let ignore_eos = self.ignore_eos.unwrap_or(false);
        let eos_token_ids = if ignore_eos { Arc::from([]) } else { bounds.defaults.eos_token_ids.clone().into() };
        Ok(Parameters {
            model: resolve_model(self.model.clone(), bounds)?,
            stop_strings: stop_strings(self.stop.clone(), bounds.has_tokenizer)?,
            return_token_ids: self.return_token_ids.unwrap_or(false),
            sampling: self.sampling(bounds)?,
            n,
            eos_token_ids,
            min_tokens,
            stream,
        })
    }

    fn sampling(self, bounds: &Bounds<'_>) -> Result<SamplingParams, ApiError> {
        let defaults = bounds.defaults;
        let top_k = range::integer::<i64>("top_k", self.top_k, -1..=i64::MAX)?;
        let top_k = top_k.map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX));
        Ok(SamplingParams {
            temperature: range::float("temperature", self.temperature, 0.0..=2.0)?.or(defaults.temperature).unwrap_or(1.0),
            top_p: range::float("top_p", self.top_p, 0.0..=1.0)?.or(defaults.top_p).unwrap_or(1.0),
            top_k: top_k.or(defaults.top_k).unwrap_or(0),
            min_p: range::float("min_p", self.min_p, 0.0..=1.0)?.or(defaults.min_p).unwrap_or(0.0),
            presence_penalty: range::float("presence_penalty", self.presence_penalty, -2.0..=2.0)?.unwrap_or(0.0),
            frequency_penalty: range::float("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?.unwrap_or(0.0),
            repetition_penalty: range::float("repetition_penalty", self.repetition_penalty, 0.01..=100.0)?
                .or(defaults.repetition_penalty)
                .unwrap_or(1.0),
            logit_bias: logit_bias::parse(self.logit_bias, bounds.vocab_size)?,
            seed: self.seed.map(i64::cast_unsigned).or(bounds.default_seed).unwrap_or_else(random_seed),
        })
    }
}

fn resolve_model(asked: Option<String>, bounds: &Bounds<'_>) -> Result<String, ApiError> {
    let served = &bounds.model.names;
    match asked {
        None => Ok(served.first().cloned().unwrap_or_default()),
        Some(model) if served.contains(&model) => Ok(model),
        Some(model) => Err(ApiError::ModelNotFound { model, served: served.clone() }),
    }
}

fn check_service_tier(tier: Option<&str>) -> Result<(), ApiError> {
    match tier {
        None | Some("auto" | "default") => Ok(()),
        Some(other) => Err(ApiError::invalid("service_tier", format!("must be 'auto' or 'default', got '{other}'"))),
    }
}

fn stream_mode(stream: Option<bool>, options: Option<&StreamOptions>) -> Result<Option<StreamMode>, ApiError> {
    let stream = stream.unwrap_or(false);
    let Some(options) = options else { return Ok(stream.then_some(StreamMode { include_usage: false })) };
    if !stream {
        return Err(ApiError::invalid("stream_options", "is only allowed with 'stream': true"));
    }
    if options.continuous_usage_stats == Some(true) {
        return Err(ApiError::unsupported("stream_options.continuous_usage_stats", ""));
    }
    if options.include_obfuscation == Some(true) {
        return Err(ApiError::unsupported("stream_options.include_obfuscation", ""));
    }
    Ok(Some(StreamMode { include_usage: options.include_usage.unwrap_or(false) }))
}

fn stop_strings(stop: Option<Stop>, has_tokenizer: bool) -> Result<Vec<String>, ApiError> {
    let strings = stop.map(Stop::into_vec).unwrap_or_default();
    if strings.len() > MAX_STOP_STRINGS {
        return Err(ApiError::invalid("stop", format!("must have at most {MAX_STOP_STRINGS} strings, got {}", strings.len())));
    }
    if let Some(index) = strings.iter().position(String::is_empty) {
        return Err(ApiError::invalid("stop", format!("must not have empty strings; string {index} is empty")));
    }
    if let Some(long) = strings.iter().find(|s| s.len() > MAX_STOP_BYTES) {
        return Err(ApiError::invalid("stop", format!("must have strings of at most {MAX_STOP_BYTES} bytes, got one of {}", long.len())));
    }
    if !strings.is_empty() && !has_tokenizer {
        return Err(ApiError::unsupported("stop", "it runs without a tokenizer, so there is no text to look at"));
    }
    Ok(strings)
}

/// A fresh seed: requests without one differ from each other.
fn random_seed() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // Six of the 128 bits are fixed; in the sum each bit varies.
    high.wrapping_add(low.rotate_left(32))
}
