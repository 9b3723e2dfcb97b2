//! Special tokens (`<s>`, `</s>`, `<|user|>`): where a text contains them as tokens, and which of them the templates may use.

use super::error::TokenizerError;
use crate::generation::TokenId;
use aho_corasick::{AhoCorasick, MatchKind};
use std::ops::Range;

/// The special tokens of a tokenizer. Its [`Default`] has none.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokens {
    tokens: Vec<SpecialToken>,
    /// Finds `tokens`, leftmost and longest first; none when there are no tokens.
    automaton: Option<AhoCorasick>,
    alphabet: Vec<char>,
    bos: Option<String>,
    eos: Option<String>,
}

/// One special token.
#[derive(Clone, Debug)]
pub(super) struct SpecialToken {
    pub(super) content: String,
    pub(super) id: TokenId,
    /// Which is no control token: unknown characters become it.
    pub(super) unknown: bool,
    pub(super) single_word: bool,
    /// Takes the white space on its left with it.
    pub(super) lstrip: bool,
    /// Takes the white space on its right with it.
    pub(super) rstrip: bool,
}

/// A stretch of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// To be encoded as text.
    Text(Range<usize>),
    /// A special token.
    Token(TokenId),
}

impl SpecialTokens {
    pub(super) fn new(tokens: Vec<SpecialToken>, bos: Option<String>, eos: Option<String>) -> Result<Self, TokenizerError> {
        let contents = tokens.iter().map(|token| token.content.as_str());
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(contents.clone())
            .map_err(|error| TokenizerError::InvalidTokenizer { detail: format!("its special tokens: {error}") })?;
        let mut alphabet: Vec<char> = contents.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        let automaton = Some(automaton).filter(|_| !tokens.is_empty());
        Ok(Self { tokens, automaton, alphabet, bos, eos })
    }

    /// Text of the beginning-of-sequence token.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos.as_deref()
    }

    /// Text of the end-of-sequence token.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos.as_deref()
    }

    /// The texts of all special tokens.
    pub fn contents(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().map(|token| token.content.as_str())
    }

    /// Every character that stands in a special token, white space aside; ascending.
    pub(super) fn alphabet(&self) -> &[char] {
        &self.alphabet
    }

    /// The special token with this id, unless it is the unknown token.
    pub(super) fn control_token(&self, id: TokenId) -> Option<&str> {
        self.tokens.iter().find(|token| token.id == id && !token.unknown).map(|token| token.content.as_str())
    }

    /// Occurrences of special tokens in `text` that do not overlap, as ranges.
    pub(super) fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        self.automaton.iter().flat_map(move |automaton| automaton.find_iter(text)).map(|found| found.range())
    }

    /// Splits `text` at its special tokens. A token counts only if none of its characters lies in `typed` (ascending, disjoint ranges).
    pub(super) fn split(&self, text: &str, typed: &[Range<usize>]) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut done = 0;
        let Some(automaton) = &self.automaton else { return text_segment(0..text.len()).into_iter().collect() };
        for run in gaps(text.len(), typed) {
            for found in automaton.find_iter(&text[run.clone()]) {
                let token = &self.tokens[found.pattern().as_usize()];
                let range = run.start + found.start()..run.start + found.end();
                if range.start < done || (token.single_word && !stands_alone(text, &range)) {
                    continue;
                }
                let before = &text[done..range.start];
                let start = done + if token.lstrip { before.trim_end().len() } else { before.len() };
                segments.extend(text_segment(done..start));
                segments.push(Segment::Token(token.id));
                let after = &text[range.end..];
                done = range.end + if token.rstrip { after.len() - after.trim_start().len() } else { 0 };
            }
        }
        segments.extend(text_segment(done..text.len()));
        segments
    }
}

fn text_segment(range: Range<usize>) -> Option<Segment> {
    (!range.is_empty()).then_some(Segment::Text(range))
}

/// The parts of `0..len` that lie in none of the ranges.
fn gaps(len: usize, ranges: &[Range<usize>]) -> impl Iterator<Item = Range<usize>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain(std::iter::once(len));
    starts.zip(ends).map(|(start, end)| start..end).filter(|gap| !gap.is_empty())
}

/// Whether no letter, digit or underscore touches the range.
fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    !text[..range.start].ends_with(is_word) && !text[range.end..].starts_with(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: TokenId, content: &str) -> SpecialToken {
        SpecialToken { content: content.to_owned(), id, unknown: false, single_word: false, lstrip: false, rstrip: false }
    }

    fn special(tokens: Vec<SpecialToken>) -> SpecialTokens {
        SpecialTokens::new(tokens, None, None).unwrap()
    }

    #[test]
    fn the_longest_token_wins_unless_its_end_was_typed() {
        let tokens = special(vec![token(1, "<a>"), token(2, "<a>b")]);
        assert_eq!(tokens.split("x<a>b", &[]), [Segment::Text(0..1), Segment::Token(2)]);
        assert_eq!(tokens.split("x<a>b", std::slice::from_ref(&(4..5))), [Segment::Text(0..1), Segment::Token(1), Segment::Text(4..5)]);
        assert_eq!(tokens.split("x<a>b", std::slice::from_ref(&(1..2))), [Segment::Text(0..5)]);
        assert_eq!(tokens.split("", &[]), []);
    }

    #[test]
    fn white_space_and_word_rules_are_kept() {
        let tokens = special(vec![
            SpecialToken { lstrip: true, ..token(1, "<l>") },
            SpecialToken { rstrip: true, ..token(2, "<r>") },
            SpecialToken { single_word: true, ..token(3, "w") },
        ]);
        assert_eq!(tokens.split("a  <l> b", &[]), [Segment::Text(0..1), Segment::Token(1), Segment::Text(6..8)]);
        assert_eq!(tokens.split("<r>  <l>", &[]), [Segment::Token(2), Segment::Token(1)]);
        assert_eq!(tokens.split("aw w", &[]), [Segment::Text(0..3), Segment::Token(3)]);
    }

    #[test]
    fn without_special_tokens_all_is_text() {
        assert_eq!(SpecialTokens::default().split("<s>", &[]), [Segment::Text(0..3)]);
    }
}
