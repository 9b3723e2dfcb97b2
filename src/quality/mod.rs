//! What fewer bits cost: perplexity on a text, and the KL divergence of the next token's distribution from the same model in f32.
//!
//! `cli` calls [`compare`] with a reference, candidates, and windows of tokens, which [`cut`] takes from a text and [`make_up`] lets the
//! reference say. Every window is read by all of them side by side.
//!
//! With `p` the reference's and `q` a candidate's distribution after the same tokens, and `t` the token that follows in the text, over all
//! scored positions: perplexity `exp(-mean ln q(t))`, and divergence `mean sum_i p_i ln(p_i / q_i)` in nats. Logits are f32, all of this is f64.

mod read;
mod statistics;
mod text;

pub use read::{Reader, ReaderOptions};
pub use statistics::{Mean, Perplexity, Score};
pub use text::{Source, cut, make_up};

use crate::generation::TokenId;
use crate::model::LoadError;
use crate::ops::OpError;
use crate::sampling::SamplingError;
use statistics::{Distribution, divergence};
use std::ops::Range;
use std::sync::OnceLock;

/// Rows whose logits are compared at a time.
const ROWS: usize = 32;

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum QualityError {
    /// A model cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no memory for a model's activations.
    #[error(transparent)]
    Memory(#[from] OpError),
    /// The text is shorter than one window.
    #[error("the text has {found} tokens, and a window takes {wanted}")]
    ShortText {
        /// Its tokens.
        found: usize,
        /// Those of a window.
        wanted: usize,
    },
    /// The model cannot say a token.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A model gives logits that are no numbers.
    #[error("logits at position {position} of window {window} are not finite")]
    NotFinite {
        /// The index of the candidate; `None` for the reference.
        candidate: Option<usize>,
        /// The window.
        window: usize,
        /// The position in it.
        position: usize,
    },
}

/// The positions of a window of `length` tokens that are scored: those of its second half that a token follows. All of them have half a
/// window of context at least, and llama.cpp's perplexity is that of the same positions.
pub fn scored(length: usize) -> Range<usize> {
    length / 2..length.saturating_sub(1).max(length / 2)
}

/// How many windows of `length` tokens have `count` scored positions.
pub fn windows_for(count: usize, length: usize) -> usize {
    count.div_ceil(scored(length).len().max(1))
}

/// The perplexity of the reference, and the scores of the candidates in their order. `done` is told of every window.
///
/// # Errors
/// [`QualityError::NotFinite`].
///
/// # Panics
/// For a candidate with another number of tokens than the reference, and for windows with tokens beyond it.
pub fn compare(
    reference: &mut Reader,
    candidates: &mut [Reader],
    windows: &[Vec<TokenId>],
    mut done: impl FnMut(usize),
) -> Result<(Perplexity, Vec<Score>), QualityError> {
    let vocabulary = reference.vocab_size();
    assert!(candidates.iter().all(|candidate| candidate.vocab_size() == vocabulary), "candidates have the reference's vocabulary");
    let (mut perplexity, mut scores) = (Perplexity::default(), vec![Score::default(); candidates.len()]);
    let (mut truth, mut found) = (Vec::new(), Vec::new());
    for (window, tokens) in windows.iter().enumerate() {
        reference.read(tokens);
        candidates.iter_mut().for_each(|candidate| candidate.read(tokens));
        let positions = scored(tokens.len());
        for start in positions.clone().step_by(ROWS) {
            let rows = start..positions.end.min(start + ROWS);
            let broken = |candidate, row| QualityError::NotFinite { candidate, window, position: start + row };
            reference.logits(rows.clone(), &mut truth);
            let truth = distributions(reference, &truth).map_err(|row| broken(None, row))?;
            let probabilities = by_row(reference, truth.len(), |row| truth[row].probabilities());
            let next = &tokens[rows.start + 1..=rows.end];
            truth.iter().zip(next).for_each(|(p, &token)| perplexity.add(p, token));
            for (index, (candidate, score)) in candidates.iter_mut().zip(&mut scores).enumerate() {
                candidate.logits(rows.clone(), &mut found);
                let found = distributions(candidate, &found).map_err(|row| broken(Some(index), row))?;
                let far = by_row(candidate, found.len(), |row| divergence(&truth[row], &probabilities[row], &found[row]));
                for (row, &token) in next.iter().enumerate() {
                    score.add((&truth[row], &found[row], far[row]), token);
                }
            }
        }
        done(window + 1);
    }
    Ok((perplexity, scores))
}

/// The distributions of rows of logits that `model` gave, or the first row that has none.
fn distributions<'a>(model: &Reader, logits: &'a [f32]) -> Result<Vec<Distribution<'a>>, usize> {
    let rows: Vec<&[f32]> = logits.chunks_exact(model.vocab_size()).collect();
    let found = by_row(model, rows.len(), |row| Distribution::new(rows[row]));
    found.into_iter().enumerate().map(|(row, found)| found.ok_or(row)).collect()
}

/// `task` of every row, on the threads of `model`.
fn by_row<T: Send + Sync>(model: &Reader, count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    model.for_each(count, &|row| drop(results[row].set(task(row))));
    results.into_iter().map(|result| result.into_inner().expect("every row is done")).collect()
}

#[cfg(test)]
mod tests;
