//! Where in the text each token begins, in characters.

/// Counts characters while tokens come in whose text may be held back: an unfinished character, or a newline spelled as a byte, appears
/// only with a later token, but the next token begins after it all the same.
#[derive(Debug, Default)]
pub struct TextOffsets {
    /// Characters that came out.
    chars: u64,
    /// Bytes of tokens that did not come out yet.
    held: Vec<u8>,
}

impl TextOffsets {
    /// Counting starts after `chars` characters.
    pub fn starting_at(chars: u64) -> Self {
        Self { chars, held: Vec::new() }
    }

    /// Where the next token begins. An unfinished character belongs to the token that finishes it.
    pub fn next(&self) -> u64 {
        let complete = match std::str::from_utf8(&self.held) {
            Ok(text) => text.chars().count(),
            Err(error) => self.held[..error.valid_up_to()].iter().filter(|&&b| !is_continuation(b)).count(),
        };
        self.chars + complete as u64
    }

    /// A token of these `bytes` was taken and `text` came out.
    pub fn push(&mut self, bytes: &[u8], text: &str) {
        self.held.extend_from_slice(bytes);
        if text.is_empty() {
            // A space that the decoder drops at the start never comes out.
            if self.held == b" " && bytes == b" " {
                self.held.clear();
            }
            return;
        }
        self.chars += text.chars().count() as u64;
        let out = text.as_bytes();
        let dropped_space = usize::from(!self.held.starts_with(out) && self.held.first() == Some(&b' '));
        if self.held[dropped_space..].starts_with(out) {
            self.held.drain(..dropped_space + out.len());
        } else {
            // Replacement characters: what is out is no longer comparable with the bytes.
            self.held.clear();
        }
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tokens: &[(&[u8], &str)]) -> Vec<u64> {
        let mut offsets = TextOffsets::default();
        tokens
            .iter()
            .map(|(bytes, text)| {
                let at = offsets.next();
                offsets.push(bytes, text);
                at
            })
            .collect()
    }

    #[test]
    fn plain_tokens_count_characters_not_bytes() {
        assert_eq!(run(&[("é".as_bytes(), "é"), (b" b", " b"), (b"c", "c")]), [0, 1, 3]);
    }

    #[test]
    fn a_held_newline_counts_although_it_comes_later() {
        assert_eq!(run(&[(b"a", "a"), (b"\n", ""), (b"b", "\nb"), (b"c", "c")]), [0, 1, 2, 3]);
    }

    #[test]
    fn an_unfinished_character_counts_when_it_is_finished() {
        assert_eq!(run(&[(b"\xe2", ""), (b"\x82", ""), (b"\xac", "€"), (b"x", "x")]), [0, 0, 0, 1]);
    }

    #[test]
    fn a_dropped_leading_space_does_not_count() {
        assert_eq!(run(&[(b" Once", "Once"), (b" upon", " upon"), (b"", "")]), [0, 4, 9]);
    }

    #[test]
    fn replacement_characters_start_afresh() {
        assert_eq!(run(&[(b"\xff", ""), (b"a", "\u{fffd}a"), (b"b", "b")]), [0, 0, 2]);
    }
}
