//! What only completions have: prompts in four forms, `echo`, the older log-probabilities.

use super::encode::Source;
use super::shared::{self, MAX_LOGPROBS, Parameters};
use super::{Bounds, range, tokens};
use crate::api::completion::CompletionRequest;
use crate::api::input::Prompt;
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
    pub max_tokens: Option<u64>,
    /// Log-probabilities with so many alternatives.
    pub logprobs: Option<u8>,
    /// Choices generated for each prompt; the `n` best are returned.
    pub best_of: u32,
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
    pub fn parse(mut request: CompletionRequest, bounds: &Bounds<'_>) -> Result<Self, ApiError> {
        let shared = request.take_shared();
        let echo = request.echo.unwrap_or(false);
        let max_tokens = max_tokens(request.max_tokens, echo)?;
        let logprobs = range::integer("logprobs", request.logprobs, 0..=MAX_LOGPROBS)?;
        let parameters = shared::resolve(shared, bounds)?;
        let best_of = best_of(&request, &parameters, bounds.max_choices)?;
        let sources = sources(request.prompt, request.add_special_tokens.unwrap_or(true), bounds)?;
        Ok(Self { parameters, sources, max_tokens, logprobs, best_of, echo })
    }
}

fn max_tokens(value: Option<i64>, echo: bool) -> Result<Option<u64>, ApiError> {
    if value == Some(0) && !echo {
        return Err(ApiError::invalid("max_tokens", "must be at least 1, got 0 (0 is allowed with 'echo' only)"));
    }
    range::integer("max_tokens", value, i64::from(!echo)..=i64::MAX)
}

/// How many choices are generated of which the `n` best are returned.
fn best_of(request: &CompletionRequest, shared: &Parameters, max_choices: usize) -> Result<u32, ApiError> {
    let most = i64::try_from(max_choices).unwrap_or(i64::MAX);
    let Some(best_of) = range::integer::<u32>("best_of", request.best_of, 1..=most)? else { return Ok(shared.n) };
    if best_of < shared.n {
        return Err(ApiError::invalid("best_of", format!("must be at least 'n' ({}), got {best_of}", shared.n)));
    }
    if best_of > shared.n && shared.stream.is_some() {
        return Err(ApiError::invalid("best_of", "must equal 'n' with 'stream': which choices are best is known at the end only"));
    }
    Ok(best_of)
}

fn sources(prompt: Option<Prompt>, add_special_tokens: bool, bounds: &Bounds<'_>) -> Result<Vec<Source>, ApiError> {
    let text_source = |text| Source::Text { text, add_special_tokens };
    let sources: Vec<Source> = match prompt {
        None => return Err(ApiError::Missing { param: "prompt".to_owned() }),
        Some(Prompt::Text(text)) => vec![text_source(text)],
        Some(Prompt::Texts(texts)) => texts.into_iter().map(text_source).collect(),
        Some(Prompt::Tokens(ids)) => vec![Source::Tokens(tokens::ids("prompt", &ids, bounds.vocab_size)?)],
        Some(Prompt::TokenLists(lists)) => {
            let list = |(i, ids): (usize, &Vec<i64>)| tokens::ids(format!("prompt[{i}]"), ids, bounds.vocab_size).map(Source::Tokens);
            lists.iter().enumerate().map(list).collect::<Result<_, _>>()?
        }
    };
    for (index, source) in sources.iter().enumerate() {
        if source.is_empty() {
            let param = if sources.len() == 1 { "prompt".to_owned() } else { format!("prompt[{index}]") };
            return Err(ApiError::invalid(param, "must not be empty"));
        }
    }
    if !bounds.has_tokenizer && sources.iter().any(|s| matches!(s, Source::Text { .. })) {
        return Err(ApiError::invalid("prompt", "must be token ids: this server runs without a tokenizer"));
    }
    Ok(sources)
}
