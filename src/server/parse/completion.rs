//! What only completions have: prompts in four forms, `echo`, the older log-probabilities.

use super::encode::Source;
use super::shared::{MAX_LOGPROBS, Parameters, SharedFields};
use super::{Bounds, range};
use crate::api::completion::CompletionRequest;
use crate::api::input::Prompt;
use crate::generation::TokenId;
use crate::server::error::ApiError;

/// Tokens of a completion whose request does not say.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// A completion request, checked but for what needs the number of prompt tokens.
#[derive(Debug)]
pub struct Completion {
    /// What both APIs have.
    pub parameters: Parameters,
    /// The prompts, none empty.
    pub sources: Vec<Source>,
    /// How many tokens were asked for; `None`: the default, cut to what the context has left.
    pub max_tokens: Option<u32>,
    /// Log-probabilities with so many alternatives.
    pub logprobs: Option<u8>,
    /// Begin with the prompt.
    pub echo: bool,
}

impl Completion {
    /// Tokens when the request does not say.
    pub const DEFAULT_MAX_TOKENS: u32 = DEFAULT_MAX_TOKENS;

    /// Checks a request.
    ///
    /// # Errors
    /// 400 with the parameter at fault; 404 for another model.
    pub fn parse(request: CompletionRequest, bounds: &Bounds<'_>) -> Result<Self, ApiError> {
        let echo = request.echo.unwrap_or(false);
        let max_tokens = max_tokens(request.max_tokens, echo)?;
        let logprobs = range::integer("logprobs", request.logprobs, 0..=MAX_LOGPROBS)?;
        check_best_of(&request, bounds.max_choices)?;
        let sources = sources(request.prompt, bounds)?;
        let shared = SharedFields {
            model: request.model,
            temperature: request.temperature,
            top_p: request.top_p,
            top_k: request.top_k,
            min_p: request.min_p,
            n: request.n,
            stop: request.stop,
            seed: request.seed,
            stream: request.stream,
            stream_options: request.stream_options,
            presence_penalty: request.presence_penalty,
            frequency_penalty: request.frequency_penalty,
            repetition_penalty: request.repetition_penalty,
            logit_bias: request.logit_bias,
            ignore_eos: request.ignore_eos,
            min_tokens: request.min_tokens,
            return_token_ids: request.return_token_ids,
            service_tier: request.service_tier,
        };
        Ok(Self { parameters: shared.resolve(bounds)?, sources, max_tokens, logprobs, echo })
    }
}

fn max_tokens(value: Option<i64>, echo: bool) -> Result<Option<u32>, ApiError> {
    if value == Some(0) && !echo {
        return Err(ApiError::invalid("max_tokens", "must be at least 1, got 0 (0 is allowed with 'echo' only)"));
    }
    // Above u32 the request cannot fit any context; the error about the context says so better than one about a range.
    Ok(range::integer::<i64>("max_tokens", value, 0..=i64::MAX)?.map(|v| u32::try_from(v).unwrap_or(u32::MAX)))
}

fn check_best_of(request: &CompletionRequest, max_choices: usize) -> Result<(), ApiError> {
    let Some(best_of) = range::integer::<i64>("best_of", request.best_of, 1..=i64::try_from(max_choices).unwrap_or(i64::MAX))? else {
        return Ok(());
    };
    let n = request.n.unwrap_or(1);
    match best_of.cmp(&n) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(ApiError::invalid("best_of", format!("must be at least 'n' ({n}), got {best_of}"))),
        std::cmp::Ordering::Greater => Err(ApiError::unsupported("best_of", "only a value equal to 'n' is implemented")),
    }
}

fn sources(prompt: Option<Prompt>, bounds: &Bounds<'_>) -> Result<Vec<Source>, ApiError> {
    let sources: Vec<Source> = match prompt {
        None => return Err(ApiError::Missing { param: "prompt".to_owned() }),
        Some(Prompt::Text(text)) => vec![Source::Text(text)],
        Some(Prompt::Texts(texts)) => texts.into_iter().map(Source::Text).collect(),
        Some(Prompt::Tokens(ids)) => vec![tokens(&ids, "prompt".to_owned(), bounds.vocab_size)?],
        Some(Prompt::TokenLists(lists)) => {
            lists.iter().enumerate().map(|(i, ids)| tokens(ids, format!("prompt[{i}]"), bounds.vocab_size)).collect::<Result<_, _>>()?
        }
    };
    for (index, source) in sources.iter().enumerate() {
        if source.is_empty() {
            let param = if sources.len() == 1 { "prompt".to_owned() } else { format!("prompt[{index}]") };
            return Err(ApiError::invalid(param, "must not be empty"));
        }
    }
    if !bounds.has_tokenizer && sources.iter().any(|s| matches!(s, Source::Text(_))) {
        return Err(ApiError::invalid("prompt", "must be token ids: this server runs without a tokenizer"));
    }
    Ok(sources)
}

fn tokens(ids: &[i64], param: String, vocab_size: usize) -> Result<Source, ApiError> {
    let bad = ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= vocab_size));
    if let Some(id) = bad {
        let problem = format!("must have token ids between 0 and {}, got {id}", vocab_size.saturating_sub(1));
        return Err(ApiError::invalid(param, problem));
    }
    Ok(Source::Tokens(ids.iter().filter_map(|&id| TokenId::try_from(id).ok()).collect()))
}
