//! A runner without a model. Its KV cache is an array of slots that remember, instead of keys and values, the text up to their position.

use super::oracle;
use super::tracked::Tracked;
use crate::generation::TokenId;
use crate::kv_cache::BlockId;
use crate::scheduler::PlannedSequence;

#[derive(Debug)]
pub(super) struct ShadowKv {
    block_size: usize,
    /// `[num_blocks * block_size]`: the model's state at the position that was computed into the slot; `None` is garbage.
    slots: Vec<Option<u64>>,
}

impl ShadowKv {
    pub(super) fn new(num_blocks: usize, block_size: usize) -> Self {
        Self { block_size, slots: vec![None; num_blocks * block_size] }
    }

    /// Makes the content of a block garbage.
    pub(super) fn poison(&mut self, block: BlockId) {
        let at = block.index() * self.block_size;
        self.slots[at..at + self.block_size].fill(None);
    }

    /// Makes one position of a table garbage, as a row does that was computed for nothing.
    pub(super) fn spoil(&mut self, table: &[BlockId], position: usize) {
        let block = table[position / self.block_size];
        self.slots[block.index() * self.block_size + position % self.block_size] = None;
    }

    /// Computes the planned rows and returns the token that follows each sequence's last one.
    ///
    /// A position before `start` must be right before the step begins, whatever the other sequences of the step compute; and it must still be right
    /// after all rows were written, as the new ones must.
    pub(super) fn compute(&mut self, work: &[(&PlannedSequence, &Tracked)], vocab_size: u32) -> Result<Vec<TokenId>, String> {
        for &(planned, tracked) in work {
            self.expect(planned, tracked, planned.start)?;
        }
        for &(planned, tracked) in work {
            let before = planned.start.checked_sub(1).map(|position| self.slot(planned, position));
            let mut state = match before {
                Some(slot) => slot?.ok_or("reads garbage")?,
                None => oracle::root(tracked.salt),
            };
            for (offset, &token) in planned.tokens.iter().enumerate() {
                state = oracle::extend(state, token);
                let index = self.index(planned, planned.start + offset)?;
                self.slots[index] = Some(state);
            }
        }
        let mut next = Vec::with_capacity(work.len());
        for &(planned, tracked) in work {
            let end = planned.start + planned.tokens.len();
            self.expect(planned, tracked, end)?;
            let state = self.slot(planned, end - 1)?.ok_or("reads garbage")?;
            next.push(oracle::next_token(state, vocab_size));
        }
        Ok(next)
    }

    /// The first `num_positions` of a sequence must hold its own text.
    fn expect(&self, planned: &PlannedSequence, tracked: &Tracked, num_positions: usize) -> Result<(), String> {
        for position in 0..num_positions {
            let (found, expected) = (self.slot(planned, position)?, tracked.states[position]);
            ensure!(found.is_some(), "{:?} reads garbage at position {position}", planned.id);
            ensure!(found == Some(expected), "{:?} reads another text at position {position}", planned.id);
        }
        Ok(())
    }

    fn slot(&self, planned: &PlannedSequence, position: usize) -> Result<Option<u64>, String> {
        Ok(self.slots[self.index(planned, position)?])
    }

    fn index(&self, planned: &PlannedSequence, position: usize) -> Result<usize, String> {
        match planned.block_table.get(position / self.block_size) {
            Some(block) => Ok(block.index() * self.block_size + position % self.block_size),
            None => Err(format!("{:?} has no block for position {position}", planned.id)),
        }
    }
}
