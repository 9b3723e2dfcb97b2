//! The tokens that models are compared on: a text cut into windows, or text that a model makes up.

use super::{QualityError, Reader};
use crate::generation::{SamplingParams, TokenId};
use crate::sampling::{SampleSpec, Sampler};

/// What a text that a model makes up depends on, beside the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The first token of each window.
    pub bos: TokenId,
    /// Tokens that the model may not say: those that end a text.
    pub forbidden: Vec<TokenId>,
    /// Determines the text.
    pub seed: u64,
}

/// The first `number` windows of `length` tokens, or all there are; the first token of each is replaced by `bos`.
///
/// # Errors
/// [`QualityError::ShortText`].
pub fn cut(tokens: &[TokenId], bos: Option<TokenId>, (length, number): (usize, usize)) -> Result<Vec<Vec<TokenId>>, QualityError> {
    let mut windows: Vec<Vec<TokenId>> = tokens.chunks_exact(length).take(number).map(<[TokenId]>::to_vec).collect();
    if windows.is_empty() {
        return Err(QualityError::ShortText { found: tokens.len(), wanted: length });
    }
    for window in &mut windows {
        window[0] = bos.unwrap_or(window[0]);
    }
    Ok(windows)
}

/// `number` windows of `length` tokens that `model` says at temperature 1, without filters.
///
/// # Errors
/// [`QualityError::Sampling`].
pub fn make_up(model: &mut Reader, source: &Source, (length, number): (usize, usize)) -> Result<Vec<Vec<TokenId>>, QualityError> {
    let mut windows = vec![vec![source.bos]; number];
    let at_once = model.sequences();
    for (index, group) in windows.chunks_mut(at_once).enumerate() {
        continue_windows(model, (group, length), (source, index * at_once))?;
    }
    Ok(windows)
}

/// Lets the model continue the windows, side by side, until they have `length` tokens. `first` is the index of the first of them.
fn continue_windows(
    model: &mut Reader,
    (windows, length): (&mut [Vec<TokenId>], usize),
    (source, first): (&Source, usize),
) -> Result<(), QualityError> {
    let vocabulary = model.vocab_size();
    let params = SamplingParams { temperature: 1.0, seed: source.seed, ..SamplingParams::greedy() };
    let (mut sampler, mut logits) = (Sampler::new(vocabulary), Vec::new());
    for position in 0..length - 1 {
        let next: Vec<(&[TokenId], usize)> = windows.iter().map(|window| (&window[position..], position)).collect();
        model.step(&next);
        model.logits(0..windows.len(), &mut logits);
        for (index, (window, row)) in windows.iter_mut().zip(logits.chunks_exact_mut(vocabulary)).enumerate() {
            let (prompt_index, position) = ((first + index) as u32, position as u32 + 1);
            let spec = SampleSpec { prompt_index, position, forbidden: &source.forbidden, ..SampleSpec::new(&params) };
            window.push(sampler.sample(row, &spec)?.token);
        }
    }
    Ok(())
}
