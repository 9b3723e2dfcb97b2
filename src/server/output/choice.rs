//! One choice: tokens in, pieces of the answer out.

use super::calls::{CallPiece, CallReader};
use super::offsets::TextOffsets;
use crate::api::common::{FinishReason, PromptProgress};
use crate::generation::{self, StopCriteria, TokenId, TokenLogprobs, Usage};
use crate::server::parse::{OutputPlan, PromptPlan};
use crate::tokenizer::{Detokenizer, StopMatcher, StopOutcome, Tokenizer};
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
    /// One entry per token of the prompt, if asked for; in the first piece.
    pub prompt_scores: Vec<Option<TokenLogprobs>>,
    /// Calls of tools.
    pub calls: Vec<CallPiece>,
}

impl Piece {
    /// Adds what comes behind it.
    pub fn append(&mut self, next: Self) {
        let Self { text, logprobs, tokens, prompt_scores, calls } = next;
        self.text.push_str(&text);
        self.logprobs.extend(logprobs);
        self.tokens.extend(tokens);
        self.prompt_scores.extend(prompt_scores);
        self.calls.extend(calls);
    }

    /// Whether it adds nothing a client could see.
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.calls.is_empty() && self.logprobs.is_empty() && self.prompt_scores.is_empty()
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
    /// How far the prompt is computed.
    pub prefill: Option<PromptProgress>,
}

/// The state of one choice.
#[derive(Debug)]
pub struct Choice {
    text: Option<TextState>,
    stop: StopCriteria,
    /// What comes before the first token, until it was sent.
    prompt: Option<PromptState>,
    wants_tokens: bool,
    skips_special: bool,
    /// Finds calls in the text, if there may be any.
    calls: Option<CallReader>,
    includes_stop: bool,
    offsets: TextOffsets,
    usage: Usage,
    /// Tokens between two pieces.
    interval: usize,
    /// What was not handed out yet, once the first piece was.
    held: Option<Piece>,
}

/// Text of the tokens, and where it ends.
#[derive(Debug)]
struct TextState {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
}

impl TextState {
    /// Looks for stop strings in more text. One that is found is part of the text if it is to be included.
    fn push(&mut self, text: &str, includes_stop: bool) -> StopOutcome {
        let mut outcome = self.matcher.push(text);
        if let Some(stop) = outcome.matched.filter(|_| includes_stop).and_then(|index| self.matcher.strings().get(index)) {
            outcome.text.push_str(stop);
        }
        outcome
    }
}

/// The bytes that a token adds to the text.
fn text_bytes(tokenizer: &Tokenizer, token: TokenId, skips_special: bool) -> Vec<u8> {
    if skips_special && tokenizer.is_special(token) { Vec::new() } else { tokenizer.token_bytes(token) }
}

/// The scores with `count` alternatives each: they may have been computed with more.
fn likeliest(mut scores: Vec<Option<TokenLogprobs>>, count: u8) -> Vec<Option<TokenLogprobs>> {
    scores.iter_mut().flatten().for_each(|entry| entry.top.truncate(usize::from(count)));
    scores
}

/// What an answer says of the prompt.
#[derive(Debug)]
struct PromptState {
    /// Its text, to be echoed.
    echo: Option<String>,
    tokens: Arc<[TokenId]>,
    scores: Vec<Option<TokenLogprobs>>,
    /// Alternatives of each token that is echoed, and of each token of the prompt's own log-probabilities.
    tops: (Option<u8>, Option<u8>),
}

impl Choice {
    /// A choice of `prompt`.
    pub fn new(plan: &OutputPlan, prompt: &PromptPlan, tokenizer: Option<&Arc<Tokenizer>>) -> Self {
        let decoded = || tokenizer.map(|tokenizer| tokenizer.decode(&prompt.tokens, plan.skip_special_tokens));
        let echo = plan.echo.then(|| prompt.text.clone().or_else(decoded).unwrap_or_default());
        let text = tokenizer.map(|tokenizer| TextState {
            tokenizer: tokenizer.clone(),
            detokenizer: Detokenizer::after_prompt(tokenizer.clone(), &prompt.tokens, plan.skip_special_tokens),
            matcher: StopMatcher::new(plan.stop_strings.clone()),
        });
        let echoed_chars = echo.as_ref().map_or(0, |text| text.chars().count() as u64);
        let prompt_tokens = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        Self {
            text,
            stop: prompt.stop.clone(),
            prompt: (echo.is_some() || plan.prompt_logprobs.is_some()).then(|| PromptState {
                tops: (plan.logprobs.filter(|_| plan.echo), plan.prompt_logprobs),
                echo,
                tokens: prompt.tokens.clone(),
                scores: Vec::new(),
            }),
            wants_tokens: plan.return_token_ids,
            skips_special: plan.skip_special_tokens,
            calls: plan.calls.map(CallReader::new),
            includes_stop: plan.include_stop,
            offsets: TextOffsets::starting_at(echoed_chars),
            usage: Usage { prompt_tokens, ..Usage::default() },
            interval: plan.stream.map_or(1, |stream| stream.interval as usize),
            held: None,
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
        if let Some(prompt) = &mut self.prompt {
            prompt.scores.extend(scores);
        }
    }

    /// A generated token.
    pub fn token(&mut self, token: TokenId, logprobs: Option<TokenLogprobs>) -> Progress {
        let mut piece = self.take_prompt();
        self.usage.completion_tokens += 1;
        let offset = self.offsets.next();
        let ends = self.stop.is_stop_token(token, self.usage.completion_tokens);
        let (text, stopped) = self.text_of(token, ends);
        if logprobs.is_some() {
            piece.logprobs.push(TokenEntry { token, offset, logprobs });
        }
        self.read(&text, &mut piece);
        piece.tokens.push(token);
        self.progress(piece, stopped.then_some(FinishReason::Stop))
    }

    /// The text that `token` lets out, and whether it completes a stop string. A token that ends the sequence has no text, unless it is to be
    /// included.
    fn text_of(&mut self, token: TokenId, ends: bool) -> (String, bool) {
        let Some(state) = self.text.as_mut().filter(|_| !ends || self.includes_stop) else { return (String::new(), false) };
        let decoded = state.detokenizer.push(token);
        self.offsets.push(&text_bytes(&state.tokenizer, token, self.skips_special), &decoded);
        if self.usage.completion_tokens <= self.stop.min_tokens {
            // As with stop tokens: nothing ends the sequence before `min_tokens`, and a stop string must lie behind them.
            return (decoded, false);
        }
        let outcome = state.push(&decoded, self.includes_stop);
        (outcome.text, outcome.matched.is_some())
    }

    /// The sequence ended by itself.
    pub fn finished(&mut self, reason: generation::FinishReason, usage: Usage) -> Progress {
        self.usage = usage;
        let mut piece = self.take_prompt();
        let mut finish = match reason {
            generation::FinishReason::Stop => FinishReason::Stop,
            generation::FinishReason::Length => FinishReason::Length,
        };
        if let Some(state) = &mut self.text {
            let rest = state.detokenizer.finish();
            let outcome = state.push(&rest, self.includes_stop);
            let mut text = outcome.text;
            match outcome.matched {
                Some(_) => finish = FinishReason::Stop,
                None => text.push_str(&state.matcher.flush()),
            }
            self.read(&text, &mut piece);
        }
        self.progress(piece, Some(finish))
    }

    /// Adds text to a piece, calls in it as such.
    fn read(&mut self, text: &str, piece: &mut Piece) {
        let Some(reader) = &mut self.calls else { return piece.text.push_str(text) };
        let read = reader.push(text);
        piece.text.push_str(&read.text);
        piece.calls.extend(read.calls);
    }

    fn progress(&mut self, mut piece: Piece, mut finish: Option<FinishReason>) -> Progress {
        if let (Some(reader), Some(reason)) = (&mut self.calls, &mut finish) {
            piece.text.push_str(&reader.finish().text);
            if reader.has_whole_calls() && *reason == FinishReason::Stop {
                *reason = FinishReason::ToolCalls;
            }
        }
        if let Some(held) = self.held.take() {
            let next = std::mem::replace(&mut piece, held);
            piece.append(next);
            if finish.is_none() && piece.tokens.len() < self.interval {
                self.held = Some(piece);
                return Progress::default();
            }
        }
        let visible = !piece.is_empty() || (self.wants_tokens && !piece.tokens.is_empty());
        self.held = (visible && self.interval > 1).then(Piece::default);
        Progress { piece: visible.then_some(piece), finish, prefill: None }
    }

    /// What is said of the prompt, the first time; all its log-probabilities have come before anything else does.
    fn take_prompt(&mut self) -> Piece {
        let Some(PromptState { echo, tokens, scores, tops: (echoed, own) }) = self.prompt.take() else { return Piece::default() };
        // Copied only where both were asked for.
        let (for_echo, for_own) = match (echoed, own) {
            (Some(_), Some(_)) => (scores.clone(), scores),
            (Some(_), None) => (scores, Vec::new()),
            (None, _) => (Vec::new(), scores),
        };
        let logprobs = echoed.map(|count| self.score(likeliest(for_echo, count), &tokens)).unwrap_or_default();
        let prompt_scores = own.map(|count| likeliest(for_own, count)).unwrap_or_default();
        Piece { text: echo.unwrap_or_default(), logprobs, tokens: Vec::new(), prompt_scores, calls: Vec::new() }
    }

    fn score(&self, scores: Vec<Option<TokenLogprobs>>, tokens: &[TokenId]) -> Vec<TokenEntry> {
        let mut offsets = TextOffsets::default();
        let mut text = self.text.as_ref().map(|state| (&state.tokenizer, Detokenizer::new(state.tokenizer.clone(), self.skips_special)));
        let entries = scores.into_iter().zip(tokens).map(|(logprobs, &token)| {
            let offset = offsets.next();
            if let Some((tokenizer, detokenizer)) = &mut text {
                offsets.push(&text_bytes(tokenizer, token, self.skips_special), &detokenizer.push(token));
            }
            TokenEntry { token, offset, logprobs }
        });
        entries.collect()
    }
}
