//! The parameters that both APIs have.

use super::form::AskedForm;
use super::limits::{self, Truncation};
use super::{Bounds, logit_bias, range, tokens};
use crate::api::common::StreamOptions;
use crate::api::input::Stop;
use crate::api::shared::SharedRequest;
use crate::generation::{ConstraintRef, SamplingParams, TokenId};
use crate::server::error::ApiError;
use std::sync::Arc;
use std::time::Duration;

/// Most stop strings of a request (OpenAI allows 4; users want more).
const MAX_STOP_STRINGS: usize = 64;
/// Longest stop string: as much text may have to be held back in a stream.
const MAX_STOP_BYTES: usize = 4096;
/// Longest `cache_salt`.
const MAX_SALT_BYTES: usize = 1024;
/// Highest and lowest priority.
const MAX_PRIORITY: i64 = 100;
/// Most alternatives with a log-probability.
pub const MAX_LOGPROBS: i64 = 20;

/// How a streamed answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamMode {
    /// Whether a usage chunk was asked for.
    pub include_usage: bool,
    /// Whether every chunk carries the usage so far.
    pub continuous_usage: bool,
    /// Tokens between two chunks of a choice, at least 1.
    pub interval: u32,
    /// Whether chunks tell how far the prompt is computed.
    pub progress: bool,
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
    /// Keep the stop string at the end of a text.
    pub include_stop: bool,
    /// Words that are not generated, to be encoded.
    pub bad_words: Vec<String>,
    /// Tokens that end a text; empty with `ignore_eos`.
    pub eos_token_ids: Arc<[TokenId]>,
    /// Further tokens that end a text.
    pub stop_token_ids: Arc<[TokenId]>,
    /// No end before so many tokens.
    pub min_tokens: u32,
    /// `None`: one answer when everything is done.
    pub stream: Option<StreamMode>,
    /// Log-probabilities of the prompt, with so many alternatives.
    pub prompt_logprobs: Option<u8>,
    /// Return ids as well.
    pub return_token_ids: bool,
    /// Leave special tokens out of texts.
    pub skip_special_tokens: bool,
    /// Write tokens of log-probabilities as `token_id:7`.
    pub tokens_as_ids: bool,
    /// Cut prompts.
    pub truncation: Option<Truncation>,
    /// Time that the request may take.
    pub timeout: Option<Duration>,
    /// Tokens whose log-probabilities are listed.
    pub logprob_tokens: Arc<[TokenId]>,
    /// Who goes first.
    pub priority: i16,
    /// What the text must look like.
    pub form: Option<AskedForm>,
    /// The form, once it is compiled.
    pub constraint: Option<ConstraintRef>,
    /// Only prompts of the same salt share the prefix cache.
    pub cache_salt: Option<String>,
}

/// Checks everything and applies the defaults.
///
/// # Errors
/// 400 with the parameter at fault; 404 for another model.
pub fn resolve(request: SharedRequest, bounds: &Bounds<'_>) -> Result<Parameters, ApiError> {
    check_service_tier(request.service_tier.as_deref())?;
    let n = range::integer("n", request.n, 1..=i64::try_from(bounds.max_choices).unwrap_or(i64::MAX))?.unwrap_or(1);
    let min_tokens = range::integer("min_tokens", request.min_tokens, 0..=i64::from(u32::MAX))?.unwrap_or(0);
    let ignore_eos = request.ignore_eos.unwrap_or(false);
    let eos_token_ids = if ignore_eos { Arc::from([]) } else { bounds.defaults.eos_token_ids.clone().into() };
    let stream = stream_mode(&request)?;
    let prompt_logprobs = range::integer("prompt_logprobs", request.prompt_logprobs, 0..=MAX_LOGPROBS)?;
    if prompt_logprobs.is_some() && stream.is_some() {
        return Err(ApiError::invalid("prompt_logprobs", "is not allowed with 'stream': true"));
    }
    Ok(Parameters {
        sampling: sampling(&request, bounds)?,
        stream,
        prompt_logprobs,
        return_token_ids: request.return_token_ids.unwrap_or(false),
        include_stop: request.include_stop_str_in_output.unwrap_or(false),
        bad_words: tokens::bad_words(request.bad_words, bounds.has_tokenizer)?,
        stop_token_ids: tokens::stop_tokens(request.stop_token_ids.as_deref(), bounds)?,
        skip_special_tokens: request.skip_special_tokens.unwrap_or(true),
        tokens_as_ids: request.return_tokens_as_token_ids.unwrap_or(false),
        truncation: Truncation::parse(request.truncate_prompt_tokens, request.truncation_side.as_deref())?,
        timeout: limits::timeout(request.timeout_ms)?,
        logprob_tokens: tokens::logprob_tokens(request.logprob_token_ids.as_deref(), bounds)?,
        priority: range::integer("priority", request.priority, -MAX_PRIORITY..=MAX_PRIORITY)?.unwrap_or(0),
        constraint: None,
        form: AskedForm::parse(request.response_format, request.structured_outputs)?,
        cache_salt: cache_salt(request.cache_salt)?,
        model: resolve_model(request.model, bounds)?,
        stop_strings: stop_strings(request.stop, bounds.has_tokenizer)?,
        n,
        eos_token_ids,
        min_tokens,
    })
}

fn sampling(request: &SharedRequest, bounds: &Bounds<'_>) -> Result<SamplingParams, ApiError> {
    let defaults = bounds.defaults;
    let top_k = range::integer::<i64>("top_k", request.top_k, -1..=i64::MAX)?;
    let top_k = top_k.map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX));
    Ok(SamplingParams {
        temperature: range::float("temperature", request.temperature, 0.0..=2.0)?.or(defaults.temperature).unwrap_or(1.0),
        top_p: range::float("top_p", request.top_p, 0.0..=1.0)?.or(defaults.top_p).unwrap_or(1.0),
        top_k: top_k.or(defaults.top_k).unwrap_or(0),
        min_p: range::float("min_p", request.min_p, 0.0..=1.0)?.or(defaults.min_p).unwrap_or(0.0),
        presence_penalty: range::float("presence_penalty", request.presence_penalty, -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: range::float("frequency_penalty", request.frequency_penalty, -2.0..=2.0)?.unwrap_or(0.0),
        repetition_penalty: range::float("repetition_penalty", request.repetition_penalty, 0.01..=100.0)?
            .or(defaults.repetition_penalty)
            .unwrap_or(1.0),
        logit_bias: logit_bias::parse(request.logit_bias.as_ref(), bounds.vocab_size)?,
        allowed_tokens: tokens::allowed_tokens(request.allowed_token_ids.as_deref(), bounds)?,
        bad_words: Arc::from([]),
        seed: request.seed.map(i64::cast_unsigned).or(bounds.default_seed).unwrap_or_else(random_seed),
    })
}

/// The name that a client used, or the first one.
///
/// # Errors
/// 404 for another model.
pub fn resolve_model(asked: Option<String>, bounds: &Bounds<'_>) -> Result<String, ApiError> {
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

fn stream_mode(request: &SharedRequest) -> Result<Option<StreamMode>, ApiError> {
    let interval = range::integer("stream_interval", request.stream_interval, 1..=i64::from(u32::MAX))?;
    let options = StreamOptions::default();
    if !request.stream.unwrap_or(false) {
        let given = [
            ("stream_options", request.stream_options.is_some()),
            // 1 is what it is without.
            ("stream_interval", interval.is_some_and(|interval: u32| interval != 1)),
            ("return_progress", request.return_progress == Some(true)),
        ];
        return match given.iter().find(|(_, is_given)| *is_given) {
            Some((param, _)) => Err(ApiError::invalid(*param, "is only allowed with 'stream': true")),
            None => Ok(None),
        };
    }
    let options = request.stream_options.as_ref().unwrap_or(&options);
    if options.include_obfuscation == Some(true) {
        return Err(ApiError::unsupported("stream_options.include_obfuscation", ""));
    }
    let (include_usage, continuous_usage) = (options.include_usage.unwrap_or(false), options.continuous_usage_stats.unwrap_or(false));
    let (interval, progress) = (interval.unwrap_or(1), request.return_progress.unwrap_or(false));
    Ok(Some(StreamMode { include_usage, continuous_usage, interval, progress }))
}

fn cache_salt(salt: Option<String>) -> Result<Option<String>, ApiError> {
    match salt.as_deref().map(str::len) {
        Some(0) => Err(ApiError::invalid("cache_salt", "must not be empty")),
        Some(bytes) if bytes > MAX_SALT_BYTES => {
            Err(ApiError::invalid("cache_salt", format!("must have at most {MAX_SALT_BYTES} bytes, got {bytes}")))
        }
        _ => Ok(salt),
    }
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

/// A fresh seed: requests without one differ from each other. Below 2^63, so that it can be sent back as it is.
fn random_seed() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // Six of the 128 bits are fixed; in the sum each bit varies.
    high.wrapping_add(low.rotate_left(32)) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that the server told was refused when a client sent it back.
    #[test]
    fn fresh_seeds_can_be_sent_back() {
        let seeds: Vec<u64> = (0..1_000).map(|_| random_seed()).collect();
        assert!(seeds.iter().all(|&seed| i64::try_from(seed).is_ok()));
        assert!((0..63).all(|bit| seeds.iter().any(|seed| seed >> bit & 1 == 1) && seeds.iter().any(|seed| seed >> bit & 1 == 0)));
    }
}
