//! Sparse changes of a row before a token is chosen: bias, penalties, tokens that may not be chosen; one for each token concerned.

use super::SampleSpec;
use crate::generation::{SamplingParams, TokenId};

/// What happens to the logit of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edit {
    /// The token; no other edit of the row has it.
    pub token: TokenId,
    /// Added first.
    pub bias: f32,
    /// How often the token stands in the output, where penalties ask.
    pub count: u32,
    /// It stands in what penalties look at.
    pub is_penalized: bool,
    /// It may not be chosen, whatever else is said of it.
    pub is_masked: bool,
}

impl Edit {
    /// The logit after the change: bias, then the repetition, frequency and presence penalties, then the mask. What overflows is held at the
    /// largest finite values.
    fn apply(&self, logit: f32, params: &SamplingParams) -> f32 {
        if self.is_masked {
            return f32::NEG_INFINITY;
        }
        let biased = (logit + self.bias).clamp(f32::MIN, f32::MAX);
        if !self.is_penalized {
            return biased;
        }
        let repeated = if biased > 0.0 { biased / params.repetition_penalty } else { biased * params.repetition_penalty };
        let frequent = repeated - params.frequency_penalty * self.count as f32;
        let penalized = if self.count > 0 { frequent - params.presence_penalty } else { frequent };
        penalized.clamp(f32::MIN, f32::MAX)
    }
}

/// The edits of one row at a time, found without a search: scratch that is reused from row to row.
#[derive(Debug, Default)]
pub struct Edits {
    /// By token: 1 + where in the list its edit stands; 0 = it has none.
    places: Vec<u32>,
    list: Vec<Edit>,
    /// Logits before the edits, in the order of the list.
    before: Vec<f32>,
}

impl Edits {
    /// For rows of `vocab_size` logits (other lengths work and let the buffers grow).
    pub fn new(vocab_size: usize) -> Self {
        Self { places: vec![0; vocab_size], ..Self::default() }
    }

    /// The edits that `spec` asks for in a row of `vocab_size` logits. Tokens outside of the row are passed over.
    pub fn collect(&mut self, spec: &SampleSpec<'_>, vocab_size: usize) -> &[Edit] {
        // Also those that a panic left behind.
        for edit in self.list.drain(..) {
            self.places[edit.token as usize] = 0;
        }
        if self.places.len() < vocab_size {
            self.places.resize(vocab_size, 0);
        }
        let params = spec.params;
        for &(token, bias) in params.logit_bias.iter() {
            self.edit(token, vocab_size, |edit| edit.bias = bias);
        }
        self.penalize(spec, vocab_size);
        let bad = params.bad_words.iter().filter_map(|word| word.split_last());
        let masked = bad.filter(|(_, before)| spec.output.ends_with(before)).map(|(last, _)| last);
        for &token in masked.chain(spec.forbidden) {
            self.edit(token, vocab_size, |edit| edit.is_masked = true);
        }
        &self.list
    }

    fn penalize(&mut self, spec: &SampleSpec<'_>, vocab_size: usize) {
        let params = spec.params;
        let is_repetition = params.repetition_penalty != 1.0;
        if is_repetition {
            for &token in spec.prompt {
                self.edit(token, vocab_size, |edit| edit.is_penalized = true);
            }
        }
        if is_repetition || params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
            for &token in spec.output {
                self.edit(token, vocab_size, |edit| {
                    edit.is_penalized = true;
                    edit.count += 1;
                });
            }
        }
    }

    /// Changes the edit of `token`, which is a new one where it has none.
    fn edit(&mut self, token: TokenId, vocab_size: usize, change: impl Fn(&mut Edit)) {
        if token as usize >= vocab_size {
            return;
        }
        let place = &mut self.places[token as usize];
        if *place == 0 {
            self.list.push(Edit { token, bias: 0.0, count: 0, is_penalized: false, is_masked: false });
            *place = self.list.len() as u32;
        }
        change(&mut self.list[*place as usize - 1]);
    }

    /// Applies what `spec` asks for.
    pub(super) fn apply(&mut self, logits: &mut [f32], spec: &SampleSpec<'_>) {
        self.collect(spec, logits.len());
        self.before.clear();
        for edit in &self.list {
            let logit = &mut logits[edit.token as usize];
            self.before.push(*logit);
            *logit = edit.apply(*logit, spec.params);
        }
    }

    /// Puts back what [`Self::apply`] changed.
    pub(super) fn undo(&self, logits: &mut [f32]) {
        for (edit, &before) in self.list.iter().zip(&self.before) {
            logits[edit.token as usize] = before;
        }
    }
}
