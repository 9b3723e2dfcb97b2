//! The last step: prompts in token ids and resolved parameters become one [`GenerationRequest`] per choice, and the plan of the answer.

use super::encode::Encoded;
use super::limits::Truncation;
use super::shared::{Parameters, StreamMode};
use super::{Bounds, Caller};
use crate::generation::{GenerationRequest, StopCriteria, TokenId};
use crate::server::error::{ApiError, ContextLengthError};
use crate::server::output::calls::Calling;
use crate::tokenizer::StopStrings;
use std::sync::Arc;

/// How many tokens to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxTokens {
    /// As many as the named parameter says, whatever that is; an error if they do not fit.
    Given(&'static str, u64),
    /// So many, or as many as fit.
    AtMost(u32),
}

/// What to generate for the prompts, beside the shared parameters.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// How many tokens.
    pub max_tokens: MaxTokens,
    /// Log-probabilities with so many alternatives.
    pub logprobs: Option<u8>,
    /// Choices generated for each prompt, at least `n`.
    pub best_of: u32,
    /// Begin each text with its prompt, and score the prompt if `logprobs` is set.
    pub echo: bool,
    /// How calls of tools stand in the text, if it may have any.
    pub calls: Option<Calling>,
}

/// What the answer must look like.
#[derive(Clone, Debug)]
pub struct OutputPlan {
    /// The name of the model as the client wrote it.
    pub model: String,
    /// Choices for each prompt; choice `c` of prompt `p` has the index `p * n + c`.
    pub n: u32,
    /// Choices generated for each prompt, of which the `n` best are returned.
    pub best_of: u32,
    /// The prompts.
    pub prompts: Vec<PromptPlan>,
    /// Strings that end a text.
    pub stop_strings: Arc<StopStrings>,
    /// Log-probabilities with so many alternatives.
    pub logprobs: Option<u8>,
    /// Begin each text with its prompt.
    pub echo: bool,
    /// Log-probabilities of the prompts, with so many alternatives.
    pub prompt_logprobs: Option<u8>,
    /// How calls of tools stand in texts, if they may have any.
    pub calls: Option<Calling>,
    /// Keep the stop string at the end of a text.
    pub include_stop: bool,
    /// Leave special tokens out of texts.
    pub skip_special_tokens: bool,
    /// Return ids as well.
    pub return_token_ids: bool,
    /// Write tokens of log-probabilities as `token_id:7`.
    pub tokens_as_ids: bool,
    /// `None`: one answer when everything is done.
    pub stream: Option<StreamMode>,
}

/// A prompt as the answer needs it.
#[derive(Clone, Debug)]
pub struct PromptPlan {
    /// Its tokens.
    pub tokens: Arc<[TokenId]>,
    /// Its text, if the client sent one.
    pub text: Option<String>,
    /// When its choices end.
    pub stop: StopCriteria,
}

/// Everything a request came to.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// One request per choice, in the order of their indices.
    pub requests: Vec<GenerationRequest>,
    /// What the answer must look like.
    pub plan: OutputPlan,
}

/// Refuses more choices than allowed; before the prompts are encoded.
///
/// # Errors
/// 400, naming `n` or `best_of`, or the prompts if each has one choice.
pub fn check_choices((n, best_of): (u32, u32), prompts: usize, bounds: &Bounds<'_>) -> Result<(), ApiError> {
    let choices = prompts.saturating_mul(best_of as usize);
    if choices <= bounds.max_choices {
        return Ok(());
    }
    let param = match (n, best_of) {
        (_, 1) => "prompt",
        (n, best_of) if best_of > n => "best_of",
        _ => "n",
    };
    let problem = format!("asks for {choices} choices ({prompts} prompts × {best_of}); at most {} are allowed", bounds.max_choices);
    Err(ApiError::invalid(param, problem))
}

/// Fits every prompt into the context and makes the requests.
///
/// # Errors
/// 400 if a prompt does not fit, or `min_tokens` is above the number of tokens to generate.
pub fn assemble(
    parameters: Parameters,
    encoded: Vec<Encoded>,
    wanted: Wanted,
    bounds: &Bounds<'_>,
    caller: &Caller,
) -> Result<Assembled, ApiError> {
    if wanted.logprobs.is_none() && !parameters.logprob_tokens.is_empty() {
        return Err(ApiError::invalid("logprob_token_ids", "is only allowed with 'logprobs'"));
    }
    let mut prompts = Vec::with_capacity(encoded.len());
    for mut prompt in encoded {
        if let Some(truncation) = parameters.truncation {
            truncate(&mut prompt, truncation, wanted.max_tokens, bounds.model.max_model_len);
        }
        let max_tokens = fit(&prompt, wanted.max_tokens, bounds.model.max_model_len)?;
        if parameters.min_tokens > max_tokens {
            let problem = format!("must be at most the number of tokens to generate ({max_tokens}), got {}", parameters.min_tokens);
            return Err(ApiError::invalid("min_tokens", problem));
        }
        let stop = StopCriteria {
            max_tokens,
            min_tokens: parameters.min_tokens,
            eos_token_ids: parameters.eos_token_ids.clone(),
            stop_token_ids: parameters.stop_token_ids.clone(),
        };
        prompts.push(PromptPlan { tokens: prompt.tokens, text: prompt.text, stop });
    }
    let requests = requests(&parameters, &prompts, wanted, caller);
    let plan = OutputPlan {
        model: parameters.model,
        n: parameters.n,
        best_of: wanted.best_of,
        prompts,
        stop_strings: Arc::new(StopStrings::new(parameters.stop_strings)),
        logprobs: wanted.logprobs,
        echo: wanted.echo,
        prompt_logprobs: parameters.prompt_logprobs,
        calls: wanted.calls,
        include_stop: parameters.include_stop,
        skip_special_tokens: parameters.skip_special_tokens,
        tokens_as_ids: parameters.tokens_as_ids,
        return_token_ids: parameters.return_token_ids,
        stream: parameters.stream,
    };
    Ok(Assembled { requests, plan })
}

fn requests(parameters: &Parameters, prompts: &[PromptPlan], wanted: Wanted, caller: &Caller) -> Vec<GenerationRequest> {
    let cache_salt = caller.cache_salt(parameters.cache_salt.as_deref());
    let choices = (0u32..).zip(prompts).flat_map(|(prompt_index, prompt)| (0..wanted.best_of).map(move |c| (prompt_index, c, prompt)));
    choices
        .map(|(prompt_index, choice_index, prompt)| GenerationRequest {
            request_id: caller.request_id.clone(),
            prompt: prompt.tokens.clone(),
            prompt_index,
            choice_index,
            sampling: parameters.sampling.clone(),
            constraint: parameters.constraint.clone(),
            logprob_tokens: parameters.logprob_tokens.clone(),
            reports_prefill: parameters.stream.is_some_and(|stream| stream.progress),
            priority: parameters.priority,
            stop: prompt.stop.clone(),
            // The best choices are found by them.
            logprobs: wanted.logprobs.or((wanted.best_of > parameters.n).then_some(0)),
            // The most of what either wants.
            prompt_logprobs: wanted.logprobs.filter(|_| wanted.echo).max(parameters.prompt_logprobs),
            cache_salt,
        })
        .collect()
}

/// Cuts a prompt. What is left of its text is unknown then.
fn truncate(prompt: &mut Encoded, truncation: Truncation, max_tokens: MaxTokens, max_model_len: usize) {
    let wanted = match max_tokens {
        MaxTokens::Given(_, wanted) => tokens(wanted),
        MaxTokens::AtMost(_) => 1,
    };
    let kept = truncation.cut(&prompt.tokens, max_model_len.saturating_sub(wanted));
    if kept.len() < prompt.tokens.len() && !kept.is_empty() {
        (prompt.tokens, prompt.text) = (kept.into(), None);
    }
}

/// The number of tokens to generate for a prompt.
fn fit(prompt: &Encoded, max_tokens: MaxTokens, max_model_len: usize) -> Result<u32, ApiError> {
    let prompt_tokens = prompt.tokens.len();
    let room = max_model_len.saturating_sub(prompt_tokens);
    let too_long = |param, max_tokens| {
        ApiError::ContextLength(ContextLengthError { param, prompt_tokens, at_least: false, max_tokens, max_model_len })
    };
    let (param, wanted, least) = match max_tokens {
        // Scoring alone generates nothing, so that a prompt may fill the context.
        MaxTokens::Given(param, wanted) => (param, tokens(wanted), tokens(wanted)),
        MaxTokens::AtMost(wanted) => (prompt.param, (wanted as usize).min(room), 1),
    };
    match u32::try_from(wanted) {
        Ok(max_tokens) if prompt_tokens <= max_model_len && least <= room => Ok(max_tokens),
        _ => Err(too_long(if room == 0 { prompt.param } else { param }, least)),
    }
}

fn tokens(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
