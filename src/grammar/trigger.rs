//! Sequences that are free until they write a marker, and follow a form from there on.
//!
//! A token may end the marker and say more. If that is no beginning of the form, the token is not allowed where it would end the marker:
//! so whatever stands behind a marker follows the form, and readers of the text need not guess.

use super::follow::{Followed, Following};
use crate::generation::{Constraint, ConstraintState, TokenId, TokenMask};
use llguidance::toktrie::TokEnv;
use std::fmt;
use std::sync::Arc;

/// A form behind a marker.
pub(super) struct Triggered(Arc<Inner>);

struct Inner {
    form: Followed,
    marker: Marker,
    /// By the number of bytes of the marker that were written: tokens that would end the marker and go on wrongly.
    banned: Vec<Box<[TokenId]>>,
    environment: TokEnv,
    vocab_size: usize,
}

impl Triggered {
    /// `form` behind `marker`.
    pub(super) fn new(form: Followed, marker: &[u8], environment: TokEnv, vocab_size: usize) -> Self {
        let marker = Marker::new(marker);
        let mut state = form.state();
        let trie = environment.tok_trie();
        let mut is_banned = |written: usize, token: TokenId| match marker.walk(written, trie.token(token)) {
            Walk::Found { rest } if !rest.is_empty() => !state.accepts(&trie.greedy_tokenize(rest)),
            _ => false,
        };
        let tokens = 0..vocab_size as TokenId;
        let banned = (0..marker.bytes.len()).map(|written| tokens.clone().filter(|&token| is_banned(written, token)).collect()).collect();
        Self(Arc::new(Inner { form, banned, marker, environment, vocab_size }))
    }
}

impl Triggered {
    /// Whether the form is better compiled anew.
    pub(super) fn is_spent(&self) -> bool {
        self.0.form.is_spent()
    }
}

impl Constraint for Triggered {
    fn begin(&self) -> Box<dyn ConstraintState> {
        let mask = TokenMask::none(self.0.vocab_size);
        Box::new(Waiting { inner: self.0.clone(), phase: Phase::Free { written: 0 }, mask, is_masked: false })
    }
}

impl fmt::Debug for Triggered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Triggered").field("marker", &self.0.marker).finish_non_exhaustive()
    }
}

/// How far one sequence is.
struct Waiting {
    inner: Arc<Inner>,
    phase: Phase,
    mask: TokenMask,
    is_masked: bool,
}

enum Phase {
    /// Anything may come; so many bytes of the marker were written.
    Free { written: usize },
    /// The marker was written.
    Form(Box<Following>),
}

impl ConstraintState for Waiting {
    fn prepare(&mut self) -> Result<(), String> {
        match &mut self.phase {
            Phase::Form(form) => form.prepare(),
            Phase::Free { written } => {
                let banned = &self.inner.banned[*written];
                self.is_masked = !banned.is_empty();
                if self.is_masked {
                    self.mask.set_all_but(banned);
                }
                Ok(())
            }
        }
    }

    fn mask(&self) -> Option<&TokenMask> {
        match &self.phase {
            Phase::Form(form) => form.mask(),
            Phase::Free { .. } => self.is_masked.then_some(&self.mask),
        }
    }

    fn accept(&mut self, token: TokenId) -> Result<bool, String> {
        let written = match &mut self.phase {
            Phase::Form(form) => return form.accept(token),
            Phase::Free { written } => *written,
        };
        let trie = self.inner.environment.tok_trie();
        match self.inner.marker.walk(written, trie.token(token)) {
            Walk::Partial { written } => self.phase = Phase::Free { written },
            Walk::Found { rest } => {
                let mut form = self.inner.form.state();
                let is_complete = form.accept_all(&trie.greedy_tokenize(rest))?;
                self.phase = Phase::Form(Box::new(form));
                return Ok(is_complete);
            }
        }
        Ok(false)
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("is_free", &matches!(self.phase, Phase::Free { .. })).finish_non_exhaustive()
    }
}

/// Bytes to look for in a text that comes in pieces (Knuth, Morris and Pratt, 1977).
#[derive(Debug)]
struct Marker {
    bytes: Box<[u8]>,
    /// For each number of bytes that were found: how many of them a match that fails there may keep.
    fallback: Box<[usize]>,
}

/// What came of more text.
#[derive(Debug, PartialEq, Eq)]
enum Walk<'a> {
    /// So many bytes of the marker stand at its end.
    Partial { written: usize },
    /// The marker is in it, and this behind it.
    Found { rest: &'a [u8] },
}

impl Marker {
    fn new(bytes: &[u8]) -> Self {
        let mut fallback = vec![0; bytes.len() + 1];
        let mut kept = 0;
        for end in 1..bytes.len() {
            while kept > 0 && bytes[kept] != bytes[end] {
                kept = fallback[kept];
            }
            kept += usize::from(bytes[kept] == bytes[end]);
            fallback[end + 1] = kept;
        }
        Self { bytes: bytes.into(), fallback: fallback.into() }
    }

    fn walk<'a>(&self, mut written: usize, text: &'a [u8]) -> Walk<'a> {
        for (index, &byte) in text.iter().enumerate() {
            while written > 0 && self.bytes[written] != byte {
                written = self.fallback[written];
            }
            written += usize::from(self.bytes[written] == byte);
            if written == self.bytes.len() {
                return Walk::Found { rest: &text[index + 1..] };
            }
        }
        Walk::Partial { written }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_however_the_text_is_cut() {
        let marker = Marker::new(b"aabaac");
        for text in ["aabaac", "aabaabaac.", "xaaabaacyy", "aabaaaabaac"] {
            let end = text.find("aabaac").unwrap() + 6;
            for cut in 1..text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                let found = match marker.walk(0, first) {
                    Walk::Found { rest } => cut - rest.len(),
                    Walk::Partial { written } => match marker.walk(written, second) {
                        Walk::Found { rest } => text.len() - rest.len(),
                        Walk::Partial { .. } => panic!("{text} cut at {cut}"),
                    },
                };
                assert_eq!(found, end, "{text} cut at {cut}");
            }
        }
        assert_eq!(marker.walk(0, b"aabaab"), Walk::Partial { written: 3 });
        assert_eq!(marker.walk(2, b""), Walk::Partial { written: 2 });
    }
}
