//! A whole answer: everything a request's choices came to.

use super::choice::{Piece, TokenEntry};
use super::driver::Driver;
use crate::api::common::{FinishReason, Usage};
use crate::generation::TokenId;
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
            whole.text.push_str(&piece.text);
            whole.logprobs.extend(piece.logprobs);
            whole.tokens.extend(piece.tokens);
        }
        *finish = finish.or(output.progress.finish);
    }
    let choices = collected.into_iter().map(|(piece, finish)| {
        let finish = finish.ok_or_else(|| ApiError::Internal { detail: "a choice has no end".to_owned() })?;
        Ok(Collected { text: piece.text, logprobs: piece.logprobs, tokens: piece.tokens, finish })
    });
    Ok((choices.collect::<Result<_, ApiError>>()?, driver.usage()))
}
