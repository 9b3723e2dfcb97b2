//! One step's rows, packed without padding: what every operation indexes by.

/// Marks a token that a task of the step before is still choosing: the rest of the number is the task's index. Only for a backend that answers
/// tasks ([`Backend::answer`](super::Backend::answer)).
pub const AWAITED_TOKEN: u32 = 1 << 31;

/// Where one sequence's rows lie in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedSequence {
    /// Its first row.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Absolute position of the first row.
    pub start: usize,
    /// Where its block table starts in the flattened tables.
    table: usize,
}

impl PackedSequence {
    /// Where its block table starts in [`PackedBatch::tables`].
    pub fn table_start(&self) -> usize {
        self.table
    }
}

/// The rows of a step. Row `r` belongs to one sequence and has an absolute position in it.
#[derive(Debug, Default)]
pub struct PackedBatch {
    block_size: usize,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    sequence_of_row: Vec<u32>,
    sequences: Vec<PackedSequence>,
    tables: Vec<u32>,
}

impl PackedBatch {
    /// An empty batch over blocks of `block_size` tokens.
    pub fn new(block_size: usize) -> Self {
        Self { block_size, ..Self::default() }
    }

    /// Removes all rows, keeping the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequence_of_row.clear();
        self.sequences.clear();
        self.tables.clear();
    }

    /// Appends `tokens` at positions `start..`, stored through `block_table`.
    ///
    /// # Panics
    /// When the table does not cover the positions: the scheduler promises that it does.
    pub fn push(&mut self, tokens: &[u32], start: usize, block_table: impl ExactSizeIterator<Item = u32>) {
        let needed = (start + tokens.len()).div_ceil(self.block_size);
        assert!(block_table.len() >= needed, "block table of {} blocks does not cover {needed}", block_table.len());
        let index = self.sequences.len() as u32;
        self.sequences.push(PackedSequence { first_row: self.tokens.len(), rows: tokens.len(), start, table: self.tables.len() });
        self.tables.extend(block_table.take(needed));
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((start..start + tokens.len()).map(|p| p as u32));
        self.sequence_of_row.extend(std::iter::repeat_n(index, tokens.len()));
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Token id of every row, or an [`AWAITED_TOKEN`].
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Absolute position of every row.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The sequences in order.
    pub fn sequences(&self) -> &[PackedSequence] {
        &self.sequences
    }

    /// The block tables of all sequences, one after the other.
    pub fn tables(&self) -> &[u32] {
        &self.tables
    }

    /// Highest block index any table names.
    pub fn max_block(&self) -> Option<u32> {
        self.tables.iter().copied().max()
    }

    /// Blocks of the sequence that `row` belongs to, covering positions `0..=positions[row]`.
    pub fn table_of_row(&self, row: usize) -> &[u32] {
        let sequence = &self.sequences[self.sequence_of_row[row] as usize];
        let blocks = self.positions[row] as usize / self.block_size + 1;
        &self.tables[sequence.table..][..blocks]
    }

    /// Rows in the batch of the sequence that `row` belongs to.
    pub fn rows_beside(&self, row: usize) -> usize {
        self.sequences[self.sequence_of_row[row] as usize].rows
    }

    /// Physical (block, offset in the block) where `row` is stored.
    pub fn slot_of_row(&self, row: usize) -> (usize, usize) {
        let position = self.positions[row] as usize;
        let table = self.table_of_row(row);
        (table[position / self.block_size] as usize, position % self.block_size)
    }
}
