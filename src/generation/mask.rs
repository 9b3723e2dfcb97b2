//! Sets of tokens.

use super::TokenId;

const BITS: usize = u32::BITS as usize;

/// A set of token ids, one bit an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    words: Box<[u32]>,
}

impl TokenMask {
    /// The set of `ids`, of a vocabulary of `vocab_size`; larger ids are not taken in.
    pub fn of(ids: &[TokenId], vocab_size: usize) -> Self {
        let mut words = vec![0; vocab_size.div_ceil(BITS)].into_boxed_slice();
        for id in ids.iter().map(|&id| id as usize).filter(|&id| id < vocab_size) {
            words[id / BITS] |= 1 << (id % BITS);
        }
        Self { words }
    }

    /// The set without any token, of a vocabulary of `vocab_size`.
    pub fn none(vocab_size: usize) -> Self {
        Self::of(&[], vocab_size)
    }

    /// The set as bits: that of token `id` is bit `id % 32` of word `id / 32`.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Becomes the set of these bits: that of token `id` is bit `id % 32` of word `id / 32`. Words that are missing hold no token.
    pub fn set_words(&mut self, words: &[u32]) {
        let shared = words.len().min(self.words.len());
        self.words[..shared].copy_from_slice(&words[..shared]);
        self.words[shared..].fill(0);
    }

    /// Becomes the set of all tokens but `ids`.
    pub fn set_all_but(&mut self, ids: &[TokenId]) {
        self.words.fill(u32::MAX);
        for id in ids.iter().map(|&id| id as usize) {
            if let Some(word) = self.words.get_mut(id / BITS) {
                *word &= !(1 << (id % BITS));
            }
        }
    }

    /// Replaces the values of all tokens that are not in the set, `row[id]` being that of `id`.
    pub fn fill_others<T: Copy>(&self, row: &mut [T], value: T) {
        for (index, chunk) in row.chunks_mut(BITS).enumerate() {
            let word = self.words.get(index).copied().unwrap_or(0);
            match word {
                0 => chunk.fill(value),
                u32::MAX => {}
                _ => chunk.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0).for_each(|(_, slot)| *slot = value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mask = TokenMask::of(&[0, 31, 32, 69, 70, u32::MAX], 70);
        let mut row = vec![true; 200];
        mask.fill_others(&mut row, false);
        assert_eq!((0u32..).zip(row).filter_map(|(id, kept)| kept.then_some(id)).collect::<Vec<_>>(), [0, 31, 32, 69]);
    }

    #[test]
    fn a_set_becomes_another_one() {
        let kept = |mask: &TokenMask| {
            let mut row = vec![true; 70];
            mask.fill_others(&mut row, false);
            (0u32..).zip(row).filter_map(|(id, kept)| kept.then_some(id)).collect::<Vec<_>>()
        };
        let mut mask = TokenMask::none(70);
        assert!(kept(&mask).is_empty());
        mask.set_words(&[1 << 31, 1, 1 << 5, 7]);
        assert_eq!(kept(&mask), [31, 32, 69]);
        mask.set_words(&[2]);
        assert_eq!(kept(&mask), [1]);
        mask.set_all_but(&[0, 33, 1_000]);
        assert_eq!(kept(&mask).len(), 68);
        assert!(!kept(&mask).contains(&33));
    }

    #[test]
    fn a_full_word_and_a_row_beyond_the_set() {
        let mask = TokenMask::of(&(0..32).collect::<Vec<_>>(), 32);
        let mut row = vec![1; 40];
        mask.fill_others(&mut row, 0);
        assert_eq!(row.iter().sum::<i32>(), 32);
    }
}
