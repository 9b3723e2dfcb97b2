//! One choice: tokens in, pieces of the answer out.

use super::offsets::TextOffsets;
use crate::api::common::FinishReason;
use crate::generation::{self, StopCriteria, TokenId, TokenLogprobs, Usage};
use crate::server::parse::{OutputPlan, PromptPlan};
use crate::tokenizer::{Detokenizer, StopMatcher, Tokenizer};
use std::sync::Arc;

/// What one event adds to a choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Text.
    pub text: String,
    /// One entry per token, if log-probabilities were asked for.
    pub logprobs: Vec<TokenEntry>,
    /// The tokens generated; not those of an echoed prompt.
    pub tokens: Vec<TokenId>,
}

impl Piece {
    /// Whether it adds nothing a client could see.
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.logprobs.is_empty()
    }
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEntry {
    /// The token.
    pub token: TokenId,
    /// Characters of the returned text before it.
    pub offset: u64,
    /// `None` for the first token of a prompt: nothing predicts it.
    pub logprobs: Option<TokenLogprobs>,
}

/// What came of an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// What to add.
    pub piece: Option<Piece>,
    /// Set once, with the last piece.
    pub finish: Option<FinishReason>,
}

/// The state of one choice.
#[derive(Debug)]
pub struct Choice {
    text: Option<TextState>,
    stop: StopCriteria,
    echo: Option<Echo>,
    wants_tokens: bool,
    offsets: TextOffsets,
    usage: Usage,
}

/// Text of the tokens, and where it ends.
#[derive(Debug)]
struct TextState {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
}

/// An echoed prompt that was not sent yet.
#[derive(Debug)]
struct Echo {
    text: String,
    tokens: Arc<[TokenId]>,
    scores: Vec<Option<TokenLogprobs>>,
}

impl Choice {
    /// A choice of `prompt`.
    pub fn new(plan: &OutputPlan, prompt: &PromptPlan, tokenizer: Option<&Arc<Tokenizer>>) -> Self {
        let echo = plan.echo.then(|| Echo {
            text: prompt.text.clone().or_else(|| tokenizer.map(|t| t.decode(&prompt.tokens, true))).unwrap_or_default(),
            tokens: prompt.tokens.clone(),
            scores: Vec::new(),
        });
        let text = tokenizer.map(|tokenizer| TextState {
            tokenizer: tokenizer.clone(),
            detokenizer: Detokenizer::after_prompt(tokenizer.clone(), &prompt.tokens, true),
            matcher: StopMatcher::new(plan.stop_strings.clone()),
        });
        let echoed_chars = echo.as_ref().map_or(0, |echo| echo.text.chars().count() as u64);
        let prompt_tokens = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        Self {
            text,
            stop: prompt.stop.clone(),
            echo,
            wants_tokens: plan.return_token_ids,
            offsets: TextOffsets::starting_at(echoed_chars),
            usage: Usage { prompt_tokens, ..Usage::default() },
        }
    }

    /// Sets `min_tokens`.
    #[cfg(test)]
    pub fn require(&mut self, min_tokens: u32) {
        self.stop.min_tokens = min_tokens;
    }

    /// The sequence is computed for the first time.
    pub fn scheduled(&mut self, cached_tokens: u32) {
        self.usage.cached_tokens = cached_tokens;
    }

    /// The tokens of this choice so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Log-probabilities of more of the prompt's tokens.
    pub fn prompt_logprobs(&mut self, scores: Vec<Option<TokenLogprobs>>) {
        if let Some(echo) = &mut self.echo {
            echo.scores.extend(scores);
        }
    }

    /// A generated token.
    pub fn token(&mut self, token: TokenId, logprobs: Option<TokenLogprobs>) -> Progress {
        let mut piece = self.take_echo();
        self.usage.completion_tokens += 1;
        let offset = self.offsets.next();
        let ends = self.stop.is_stop_token(token, self.usage.completion_tokens);
        let (text, stopped) = self.text_of(token, ends);
        if logprobs.is_some() {
            piece.logprobs.push(TokenEntry { token, offset, logprobs });
        }
        piece.text.push_str(&text);
        piece.tokens.push(token);
        self.progress(piece, stopped.then_some(FinishReason::Stop))
    }

    /// The text that `token` lets out, and whether it completes a stop string. A token that ends the sequence has no text.
    fn text_of(&mut self, token: TokenId, ends: bool) -> (String, bool) {
        let Some(state) = self.text.as_mut().filter(|_| !ends) else { return (String::new(), false) };
        let decoded = state.detokenizer.push(token);
        let bytes = if state.tokenizer.is_special(token) { Vec::new() } else { state.tokenizer.token_bytes(token) };
        self.offsets.push(&bytes, &decoded);
        if self.usage.completion_tokens <= self.stop.min_tokens {
            // As with stop tokens: nothing ends the sequence before `min_tokens`, and a stop string must lie behind them.
            return (decoded, false);
        }
        let outcome = state.matcher.push(&decoded);
        (outcome.text, outcome.matched.is_some())
    }

    /// The sequence ended by itself.
    pub fn finished(&mut self, reason: generation::FinishReason, usage: Usage) -> Progress {
        self.usage = usage;
        let mut piece = self.take_echo();
        let mut finish = match reason {
            generation::FinishReason::Stop => FinishReason::Stop,
            generation::FinishReason::Length => FinishReason::Length,
        };
        if let Some(state) = &mut self.text {
            let outcome = state.matcher.push(&state.detokenizer.finish());
            piece.text.push_str(&outcome.text);
            match outcome.matched {
                Some(_) => finish = FinishReason::Stop,
                None => piece.text.push_str(&state.matcher.flush()),
            }
        }
        self.progress(piece, Some(finish))
    }

    fn progress(&self, piece: Piece, finish: Option<FinishReason>) -> Progress {
        let visible = !piece.is_empty() || (self.wants_tokens && !piece.tokens.is_empty());
        Progress { piece: visible.then_some(piece), finish }
    }

    /// The echoed prompt, the first time; all its log-probabilities have come before anything else does.
    fn take_echo(&mut self) -> Piece {
        let Some(echo) = self.echo.take() else { return Piece::default() };
        let logprobs = self.score(echo.scores, &echo.tokens);
        Piece { text: echo.text, logprobs, tokens: Vec::new() }
    }

    fn score(&self, scores: Vec<Option<TokenLogprobs>>, tokens: &[TokenId]) -> Vec<TokenEntry> {
        let mut offsets = TextOffsets::default();
        let mut text = self.text.as_ref().map(|state| (&state.tokenizer, Detokenizer::new(state.tokenizer.clone(), true)));
        let entries = scores.into_iter().zip(tokens).map(|(logprobs, &token)| {
            let offset = offsets.next();
            if let Some((tokenizer, detokenizer)) = &mut text {
                let bytes = if tokenizer.is_special(token) { Vec::new() } else { tokenizer.token_bytes(token) };
                offsets.push(&bytes, &detokenizer.push(token));
            }
            TokenEntry { token, offset, logprobs }
        });
        entries.collect()
    }
}
