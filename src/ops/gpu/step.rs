//! What kernels need to know of a step, in one upload: token, position and slot of every row, block tables, and the items of attention.

use super::device::{At, Device, DeviceError};
use super::memory::bytes_of;
use crate::ops::{AWAITED_TOKEN, PackedBatch};

/// Queries (rows of a sequence times heads that share keys) that a block of the attention kernel takes at most.
pub(super) const MOST_QUERIES: usize = 32;
/// Warps of that block: so many queries go to the kernel for one query a warp.
pub(super) const WARPS: usize = 4;
/// `u32` values of an item: first row, rows, where the sequence's table starts, position of the first row.
const ITEM: usize = 4;

/// Largest step there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Rows.
    pub(super) rows: usize,
    /// Entries of block tables, all sequences together.
    pub(super) table_entries: usize,
}

impl Capacity {
    /// For sequences of up to `positions` tokens in blocks of at least 32.
    pub(super) fn new(rows: usize, positions: usize) -> Self {
        Self { rows, table_entries: rows.saturating_mul(positions.div_ceil(32)) }
    }

    fn values(self) -> usize {
        self.rows * (3 + ITEM) + self.table_entries
    }

    /// Bytes on the device.
    pub(super) fn bytes(self) -> usize {
        self.values() * size_of::<u32>()
    }

    /// Whether `other` fits as well.
    pub(super) fn covers(self, other: Self) -> bool {
        self.rows >= other.rows && self.table_entries >= other.table_entries
    }
}

/// Items of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Items {
    /// The first one.
    pub(super) first: usize,
    /// How many.
    pub(super) count: usize,
}

/// The current step, on the device.
pub(super) struct StepTables<D: Device> {
    memory: D::Memory,
    capacity: Capacity,
    /// The values as they are uploaded; each part has a fixed place.
    staged: Vec<u32>,
    /// Rows of the step.
    pub(super) rows: usize,
    /// Sequences with one row, whose heads fit one query a warp.
    pub(super) singles: Items,
    /// All others, in pieces of so many rows that [`MOST_QUERIES`] hold them.
    pub(super) pieces: Items,
    /// Highest position of the step.
    pub(super) last_position: usize,
    /// Highest block that a table names.
    pub(super) last_block: usize,
    /// Tokens in a block.
    pub(super) block_size: usize,
}

impl<D: Device> StepTables<D> {
    pub(super) fn new(device: &D, capacity: Capacity) -> Result<Self, DeviceError> {
        let memory = device.allocate(capacity.bytes(), "the tables of a step")?;
        let (singles, pieces) = (Items::default(), Items::default());
        Ok(Self {
            memory,
            capacity,
            staged: Vec::with_capacity(capacity.values()),
            rows: 0,
            singles,
            pieces,
            last_position: 0,
            last_block: 0,
            block_size: 0,
        })
    }

    /// Uploads what the rows of `batch` are; `group` query heads share a kv head, and the answers that tokens are awaited from have so many words.
    ///
    /// # Panics
    /// When the batch is larger than the capacity: the runner's limits keep it below.
    pub(super) fn upload(&mut self, device: &D, batch: &PackedBatch, (group, answer_words): (usize, usize)) -> Result<(), DeviceError> {
        let rows = batch.rows();
        let tables = batch.tables();
        assert!(self.capacity.covers(Capacity { rows, table_entries: tables.len() }), "a step of {rows} rows, {:?}", self.capacity);
        self.rows = rows;
        self.last_position = batch.positions().iter().copied().max().unwrap_or(0) as usize;
        self.block_size = batch.block_size();
        self.last_block = batch.max_block().unwrap_or(0) as usize;
        self.staged.clear();
        self.stage(0, batch.tokens().iter().map(|&token| placed(token, answer_words)));
        self.stage(1, batch.positions().iter().copied());
        self.stage(2, (0..rows).map(|row| slot(batch, row)));
        let (singles, pieces) = items(batch, group);
        self.singles = Items { first: 0, count: singles.len() };
        self.pieces = Items { first: singles.len(), count: pieces.len() };
        self.stage(3, singles.into_iter().chain(pieces).flatten());
        self.staged.resize(self.capacity.rows * (3 + ITEM), 0);
        self.staged.extend_from_slice(tables);
        device.upload(bytes_of(&self.staged), At::start(&self.memory))
    }

    /// Appends a part whose place is that of part `index`.
    fn stage(&mut self, index: usize, values: impl Iterator<Item = u32>) {
        self.staged.resize(index * self.capacity.rows, 0);
        self.staged.extend(values);
    }

    fn at(&self, values: usize) -> At<'_, D::Memory> {
        At { memory: &self.memory, offset: values * size_of::<u32>() }
    }

    /// Token id of every row, or [`AWAITED_TOKEN`] and the first word of the answer that has it.
    pub(super) fn tokens(&self) -> At<'_, D::Memory> {
        self.at(0)
    }

    /// Absolute position of every row.
    pub(super) fn positions(&self) -> At<'_, D::Memory> {
        self.at(self.capacity.rows)
    }

    /// Where every row's keys and values are stored: block times block size plus offset.
    pub(super) fn slots(&self) -> At<'_, D::Memory> {
        self.at(2 * self.capacity.rows)
    }

    /// Items of attention, from one on.
    pub(super) fn items(&self, items: Items) -> At<'_, D::Memory> {
        self.at(3 * self.capacity.rows + ITEM * items.first)
    }

    /// All block tables.
    pub(super) fn tables(&self) -> At<'_, D::Memory> {
        self.at((3 + ITEM) * self.capacity.rows)
    }
}

/// A token as kernels read it: an awaited one by the place of its answer instead of the number of its task.
fn placed(token: u32, answer_words: usize) -> u32 {
    if token & AWAITED_TOKEN == 0 {
        return token;
    }
    AWAITED_TOKEN | ((token & !AWAITED_TOKEN) * answer_words as u32)
}

fn slot(batch: &PackedBatch, row: usize) -> u32 {
    let (block, offset) = batch.slot_of_row(row);
    (block * batch.block_size() + offset) as u32
}

/// Items for one query a warp, and larger ones. How rows are put together changes no bit of a result.
fn items(batch: &PackedBatch, group: usize) -> (Vec<[u32; ITEM]>, Vec<[u32; ITEM]>) {
    let (mut singles, mut pieces) = (Vec::new(), Vec::new());
    let most = (MOST_QUERIES / group).max(1);
    for sequence in batch.sequences() {
        for from in (0..sequence.rows).step_by(most) {
            let rows = most.min(sequence.rows - from);
            let item = [sequence.first_row + from, rows, sequence.table_start(), sequence.start + from].map(|value| value as u32);
            if rows * group <= WARPS { singles.push(item) } else { pieces.push(item) }
        }
    }
    (singles, pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_cut_into_items_that_a_block_can_hold() {
        let mut batch = PackedBatch::new(32);
        batch.push(&[1], 40, [7, 3].into_iter());
        batch.push(&[0; 19], 30, [5, 6].into_iter());
        let (singles, pieces) = items(&batch, 4);
        assert_eq!(singles, [[0, 1, 0, 40]]);
        assert_eq!(pieces, [[1, 8, 2, 30], [9, 8, 2, 38], [17, 3, 2, 46]]);
        let (singles, pieces) = items(&batch, 2);
        assert_eq!((singles.len(), pieces), (1, vec![[1, 16, 2, 30], [17, 3, 2, 46]]));
        assert_eq!(slot(&batch, 0), 3 * 32 + 8);
    }
}
