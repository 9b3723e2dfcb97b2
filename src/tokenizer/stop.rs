//! Stop strings in streamed text.
//!
//! Every stop string is matched by Knuth, Morris and Pratt's automaton over bytes, all side by side. The longest of their states is the
//! longest end of the text that may still become a stop string: that much is held back, all before it is let go. UTF-8 makes bytes safe:
//! what equals the beginning of a string also begins at a character.

use std::sync::Arc;

/// Stop strings, compiled once and shared by every text that is searched for them.
#[derive(Debug, Default)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
}

impl StopStrings {
    /// Compiles `stops`; empty ones never match.
    pub fn new(stops: Vec<String>) -> Self {
        Self { patterns: stops.into_iter().map(Pattern::new).collect() }
    }

    /// The stop string with this index, as given.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.patterns.get(index).map(|pattern| pattern.text.as_str())
    }
}

/// Finds the first stop string in a text that comes in pieces, and holds back what may be the beginning of one.
///
/// The first one is the one that is complete first; of those complete at the same byte, the longest. So the result does not depend on
/// how the text was cut into pieces.
#[derive(Debug)]
pub struct StopMatcher {
    strings: Arc<StopStrings>,
    /// For each string, the length of its longest proper prefix that the text so far ends with.
    states: Vec<u32>,
    /// Text not let go yet is `pending[released..]`.
    pending: String,
    released: usize,
    matched: Option<usize>,
}

/// What one piece of text brought.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StopOutcome {
    /// Text that is certainly not part of a stop string; the text before it when one was found.
    pub text: String,
    /// Index of the stop string found, in the order they were given. Once found, every further call returns it with no text.
    pub matched: Option<usize>,
}

impl StopMatcher {
    /// Looks for any of `strings`.
    pub fn new(strings: Arc<StopStrings>) -> Self {
        Self { states: vec![0; strings.patterns.len()], strings, pending: String::new(), released: 0, matched: None }
    }

    /// What it looks for.
    pub fn strings(&self) -> &StopStrings {
        &self.strings
    }

    /// Takes the next piece of text. The work is linear in its length, times the number of stop strings.
    pub fn push(&mut self, piece: &str) -> StopOutcome {
        if self.matched.is_some() {
            return StopOutcome { text: String::new(), matched: self.matched };
        }
        for (index, byte) in piece.bytes().enumerate() {
            if let Some((pattern, length)) = self.advance(byte) {
                self.matched = Some(pattern);
                let end = self.pending.len() + index + 1;
                self.pending.push_str(piece);
                let text = self.pending[self.released..end - length].to_owned();
                (self.pending, self.released) = (String::new(), 0);
                return StopOutcome { text, matched: self.matched };
            }
        }
        self.pending.push_str(piece);
        let held = self.states.iter().copied().max().unwrap_or(0) as usize;
        StopOutcome { text: self.release(self.pending.len() - held), matched: None }
    }

    /// The text is over and nothing matched: returns what was held back. Empty after a match.
    pub fn flush(&mut self) -> String {
        self.states.fill(0);
        self.release(self.pending.len())
    }

    /// Feeds one byte to every automaton; the pattern that ends here and its length, if one does.
    fn advance(&mut self, byte: u8) -> Option<(usize, usize)> {
        let mut found: Option<(usize, usize)> = None;
        for (index, (pattern, state)) in self.strings.patterns.iter().zip(&mut self.states).enumerate() {
            if pattern.advance(state, byte) && found.is_none_or(|(_, length)| length < pattern.text.len()) {
                found = Some((index, pattern.text.len()));
            }
        }
        found
    }

    /// Lets go the text up to `end`. The buffer is compacted only when half of it is gone, so that each byte moves a constant number of
    /// times.
    fn release(&mut self, end: usize) -> String {
        let text = self.pending[self.released..end].to_owned();
        self.released = end;
        if self.released * 2 >= self.pending.len() {
            self.pending.drain(..self.released);
            self.released = 0;
        }
        text
    }
}

/// One stop string.
#[derive(Debug)]
struct Pattern {
    text: String,
    /// `borders[i]`: length of the longest proper prefix of `text[..=i]` that is also its suffix.
    borders: Vec<u32>,
}

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut borders: Vec<u32> = vec![0; bytes.len()];
        let mut length = 0;
        for index in 1..bytes.len() {
            while length > 0 && bytes[index] != bytes[length] {
                length = borders[length - 1] as usize;
            }
            length += usize::from(bytes[index] == bytes[length]);
            // A longer string would not fit a request; if it did, it would be searched for less cleverly.
            borders[index] = u32::try_from(length).unwrap_or(0);
        }
        Self { text, borders }
    }

    /// Whether the text ends with the whole string after this byte. `state` is how much of it the text ends with.
    fn advance(&self, state: &mut u32, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        if bytes.is_empty() {
            return false;
        }
        while *state > 0 && bytes[*state as usize] != byte {
            *state = self.borders[*state as usize - 1];
        }
        *state += u32::from(bytes[*state as usize] == byte);
        if (*state as usize) < bytes.len() {
            return false;
        }
        *state = self.borders[*state as usize - 1];
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(stops: Vec<String>) -> StopMatcher {
        StopMatcher::new(Arc::new(StopStrings::new(stops)))
    }

    #[test]
    fn texts_share_their_stop_strings() {
        let strings = Arc::new(StopStrings::new(vec!["a".repeat(4096); 64]));
        let matchers: Vec<StopMatcher> = (0..128).map(|_| StopMatcher::new(strings.clone())).collect();
        assert_eq!(Arc::strong_count(&strings), 129);
        assert!(matchers.iter().all(|matcher| matcher.states.len() == 64 && matcher.pending.capacity() == 0));
    }

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut matcher = matcher(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut texts = Vec::new();
        let mut matched = None;
        for piece in pieces {
            let outcome = matcher.push(piece);
            texts.push(outcome.text);
            matched = outcome.matched;
        }
        texts.push(matcher.flush());
        (texts, matched)
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_sent() {
        assert_eq!(run(&["\n\n"], &["one\n", "\ntwo", "three"]), (vec!["one".into(), "".into(), "".into(), "".into()], Some(0)));
    }

    #[test]
    fn a_prefix_that_fails_is_let_go() {
        assert_eq!(run(&["STOP"], &["aST", "OX", "ST"]), (vec!["a".into(), "STOX".into(), "".into(), "ST".into()], None));
    }

    #[test]
    fn only_the_part_that_can_still_match_is_held() {
        // After "ababa" + "c" fails for "ababd", "aba" of it may begin another match.
        assert_eq!(run(&["ababd"], &["abab", "a", "bd!"]), (vec!["".into(), "ab".into(), "".into(), "".into()], Some(0)));
    }

    #[test]
    fn first_complete_wins_and_of_those_the_longest() {
        assert_eq!(run(&["abcdef", "bcd"], &["abcdef"]), (vec!["a".into(), "".into()], Some(1)));
        assert_eq!(run(&["b", "ab"], &["xab"]), (vec!["x".into(), "".into()], Some(1)));
        assert_eq!(run(&["ab", "ab"], &["xab"]), (vec!["x".into(), "".into()], Some(0)));
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        // "é" and "è" share their first byte.
        assert_eq!(
            run(&["é!"], &["caf", "é", "è", "é", "!"]),
            (vec!["caf".into(), "".into(), "éè".into(), "".into(), "".into(), "".into()], Some(0))
        );
    }

    #[test]
    fn without_stop_strings_text_passes() {
        assert_eq!(run(&[], &["a", "b"]).0, ["a", "b", ""]);
        assert_eq!(run(&[""], &["a", "b"]), (vec!["a".into(), "b".into(), "".into()], None));
    }

    #[test]
    fn long_stop_strings_cost_linear_time() {
        let stop = "a".repeat(1_000_000) + "b";
        let mut matcher = matcher(vec![stop.clone(); 4]);
        let mut text = String::new();
        for _ in 0..200_000 {
            text += &matcher.push("aaaaaaaaaa").text;
        }
        let outcome = matcher.push("b");
        assert_eq!((text + &outcome.text).len(), 1_000_000);
        assert_eq!(outcome.matched, Some(0));
        assert_eq!(matcher.strings.get(0), Some(stop.as_str()));
    }

    /// The definition: of all occurrences, the one that ends first, of those the longest, of those the first in order.
    fn naive(stops: &[String], text: &str) -> (String, Option<usize>) {
        let occurrences = stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty()).filter_map(|(index, stop)| {
            let start = text.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        match occurrences.min() {
            Some((_, start, index)) => (text[..start].to_owned(), Some(index)),
            None => (text.to_owned(), None),
        }
    }

    /// The longest end of the text that is a proper prefix of a stop string.
    fn longest_held(stops: &[String], text: &str) -> usize {
        let prefixes = stops.iter().flat_map(|stop| (0..stop.len()).filter_map(move |end| stop.get(..end)));
        prefixes.filter(|prefix| text.ends_with(prefix)).map(str::len).max().unwrap_or(0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn equals_the_naive_search_however_the_text_is_cut(
            stops in prop::collection::vec("[abé🦙]{0,5}", 0..6),
            pieces in prop::collection::vec("[abé🦙]{0,4}", 0..20),
        ) {
            let text: String = pieces.concat();
            let (expected, index) = naive(&stops, &text);
            let mut matcher = matcher(stops.clone());
            let (mut seen, mut sent, mut matched) = (String::new(), String::new(), None);
            for piece in &pieces {
                let outcome = matcher.push(piece);
                seen += piece;
                sent += &outcome.text;
                matched = outcome.matched;
                if matched.is_none() {
                    prop_assert_eq!(seen.len() - sent.len(), longest_held(&stops, &seen));
                }
            }
            sent += &matcher.flush();
            prop_assert_eq!(matched, index);
            prop_assert_eq!(sent, expected);
        }
    }
}
