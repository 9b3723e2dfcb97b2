//! A whole answer: everything a request's choices came to.

use super::calls::CallPiece;
use super::choice::{Piece, TokenEntry};
use super::driver::Driver;
use crate::api::common::{FinishReason, Usage};
use crate::generation::{TokenId, TokenLogprobs};
use crate::server::error::ApiError;

/// A finished choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// Its text.
    pub text: String,
    /// One entry per token, if asked for.
    pub logprobs: Vec<TokenEntry>,
    /// The tokens generated.
    pub tokens: Vec<TokenId>,
    /// One entry per token of the prompt, if asked for.
    pub prompt_scores: Vec<Option<TokenLogprobs>>,
    /// Calls of tools, in the order of their indices: function and arguments.
    pub calls: Vec<(String, String)>,
    /// Why it ended.
    pub finish: FinishReason,
}

/// Waits for all choices, in the order of their indices.
///
/// # Errors
/// A sequence failed; the others are aborted when the driver is dropped.
pub async fn collect(mut driver: Driver, choices: usize) -> Result<(Vec<Collected>, Usage), ApiError> {
    let mut collected: Vec<(Piece, Option<FinishReason>)> = vec![(Piece::default(), None); choices];
    while let Some(output) = driver.next().await {
        let output = output?;
        let Some((whole, finish)) = collected.get_mut(output.choice as usize) else { continue };
        if let Some(piece) = output.progress.piece {
            whole.append(piece);
        }
        *finish = finish.or(output.progress.finish);
    }
    let choices = collected.into_iter().map(|(piece, finish)| {
        let finish = finish.ok_or_else(|| ApiError::Internal { detail: "a choice has no end".to_owned() })?;
        let Piece { text, logprobs, tokens, prompt_scores, calls } = piece;
        Ok(Collected { text, logprobs, tokens, prompt_scores, calls: whole_calls(calls), finish })
    });
    Ok((choices.collect::<Result<_, ApiError>>()?, driver.usage()))
}

fn whole_calls(pieces: Vec<CallPiece>) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    for piece in pieces {
        match (piece, calls.last_mut()) {
            (CallPiece::Begin { name, .. }, _) => calls.push((name, String::new())),
            (CallPiece::Arguments { text, .. }, Some((_, arguments))) => arguments.push_str(&text),
            (CallPiece::Arguments { .. }, None) => {}
        }
    }
    calls
}

/// The `n` best of each `best_of` choices in a row, best first: those with the highest log-probability a token.
pub fn best(choices: Vec<Collected>, (n, best_of): (usize, usize)) -> Vec<Collected> {
    if n == best_of {
        return choices;
    }
    let mut choices = choices.into_iter();
    let mut kept = Vec::new();
    loop {
        let mut group: Vec<Collected> = choices.by_ref().take(best_of).collect();
        if group.is_empty() {
            return kept;
        }
        // Stable: of equals the first stays first.
        group.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
        kept.extend(group.into_iter().take(n));
    }
}

impl Collected {
    /// Of the tokens generated; those of an echoed prompt stand before them.
    fn mean_logprob(&self) -> f64 {
        let generated = &self.logprobs[self.logprobs.len().saturating_sub(self.tokens.len())..];
        let sum: f64 = generated.iter().filter_map(|entry| entry.logprobs.as_ref()).map(|l| f64::from(l.chosen.logprob)).sum();
        if generated.is_empty() { 0.0 } else { sum / generated.len() as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::TokenLogprob;

    fn choice(text: &str, logprobs: &[f32]) -> Collected {
        let entry = |&logprob: &f32| {
            let chosen = TokenLogprob { token: 0, logprob };
            TokenEntry { token: 0, offset: 0, logprobs: Some(TokenLogprobs { chosen, rank: 1, top: Vec::new() }) }
        };
        // A token of the prompt that must not count.
        let entries = [-100.0].iter().chain(logprobs).map(entry).collect();
        Collected {
            text: text.into(),
            logprobs: entries,
            tokens: vec![0; logprobs.len()],
            prompt_scores: Vec::new(),
            calls: Vec::new(),
            finish: FinishReason::Stop,
        }
    }

    #[test]
    fn the_best_have_the_highest_logprob_a_token() {
        let choices = vec![
            choice("a", &[-1.0, -3.0]),
            choice("b", &[-1.5]),
            choice("c", &[-1.5, -1.5]),
            choice("d", &[-9.0]),
            choice("e", &[-0.1]),
            choice("f", &[]),
        ];
        let texts = |counts| best(choices.clone(), counts).into_iter().map(|choice| choice.text).collect::<String>();
        assert_eq!(texts((1, 3)), "bf");
        assert_eq!(texts((2, 3)), "bcfe");
        assert_eq!(texts((3, 3)), "abcdef");
    }
}
