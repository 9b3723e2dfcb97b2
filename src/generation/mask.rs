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
    fn a_full_word_and_a_row_beyond_the_set() {
        let mask = TokenMask::of(&(0..32).collect::<Vec<_>>(), 32);
        let mut row = vec![1; 40];
        mask.fill_others(&mut row, 0);
        assert_eq!(row.iter().sum::<i32>(), 32);
    }
}
