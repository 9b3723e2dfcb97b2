//! Sparse changes of a row before a token is chosen: bias, penalties, forbidden tokens. Every change is remembered and can be undone.

use super::SampleSpec;
use crate::generation::{SamplingParams, TokenId};

/// Bit of a count that says the prompt holds the token; the rest counts occurrences in the output.
const IN_PROMPT: u32 = 1 << 31;

/// Scratch for the changes of one row at a time.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    /// Per token of the vocabulary; all zero between rows.
    counts: Vec<u32>,
    /// Tokens whose count may not be zero.
    seen: Vec<TokenId>,
    /// (token, logit before), in the order of the changes.
    edits: Vec<(TokenId, f32)>,
}

impl Penalties {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self { counts: vec![0; vocab_size], ..Self::default() }
    }

    /// Applies logit bias, then the repetition, frequency and presence penalties, then the masks of bad words and of forbidden tokens.
    pub(super) fn apply(&mut self, logits: &mut [f32], spec: &SampleSpec<'_>) {
        self.edits.clear();
        for &(token, bias) in spec.params.logit_bias.iter() {
            self.edit(logits, token, |logit| logit + bias);
        }
        self.apply_penalties(logits, spec);
        for word in spec.params.bad_words.iter() {
            if let Some((last, _)) = word.split_last().filter(|(_, before)| spec.output.ends_with(before)) {
                self.edit(logits, *last, |_| f32::NEG_INFINITY);
            }
        }
        for &token in spec.forbidden {
            self.edit(logits, token, |_| f32::NEG_INFINITY);
        }
    }

    /// Puts back what [`Self::apply`] changed.
    pub(super) fn undo(&mut self, logits: &mut [f32]) {
        for (token, logit) in self.edits.drain(..).rev() {
            logits[token as usize] = logit;
        }
    }

    fn apply_penalties(&mut self, logits: &mut [f32], spec: &SampleSpec<'_>) {
        let params = spec.params;
        let repetition = params.repetition_penalty != 1.0;
        if !repetition && params.frequency_penalty == 0.0 && params.presence_penalty == 0.0 {
            return;
        }
        // Only a panic in the row before can have left any.
        self.forget();
        if repetition {
            self.count(spec.prompt, |count| count | IN_PROMPT, logits.len());
        }
        self.count(spec.output, |count| count + 1, logits.len());
        for index in 0..self.seen.len() {
            let token = self.seen[index];
            let count = self.counts[token as usize] & !IN_PROMPT;
            self.edit(logits, token, |logit| penalized(logit, count, params));
        }
        self.forget();
    }

    /// Sets the counts back to zero.
    fn forget(&mut self) {
        for token in self.seen.drain(..) {
            self.counts[token as usize] = 0;
        }
    }

    fn count(&mut self, tokens: &[TokenId], update: impl Fn(u32) -> u32, vocab_size: usize) {
        if self.counts.len() < vocab_size {
            self.counts.resize(vocab_size, 0);
        }
        for &token in tokens.iter().filter(|&&token| (token as usize) < vocab_size) {
            let count = &mut self.counts[token as usize];
            if *count == 0 {
                self.seen.push(token);
            }
            *count = update(*count);
        }
    }

    /// Changes one logit; ids outside the row are ignored. What overflows is held at the largest finite value.
    fn edit(&mut self, logits: &mut [f32], token: TokenId, change: impl Fn(f32) -> f32) {
        let Some(logit) = logits.get_mut(token as usize) else { return };
        self.edits.push((token, *logit));
        let changed = change(*logit);
        *logit = if changed == f32::NEG_INFINITY { changed } else { changed.min(f32::MAX) };
    }
}

/// The logit of a token that occurs in the prompt or the output, `count` times in the output.
fn penalized(logit: f32, count: u32, params: &SamplingParams) -> f32 {
    let repeated = if logit > 0.0 { logit / params.repetition_penalty } else { logit * params.repetition_penalty };
    let frequent = repeated - params.frequency_penalty * count as f32;
    let penalized = if count > 0 { frequent - params.presence_penalty } else { frequent };
    penalized.clamp(f32::MIN, f32::MAX)
}
