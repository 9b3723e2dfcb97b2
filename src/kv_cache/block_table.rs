//! The blocks of one sequence, in order of position.

use super::BlockId;

/// Position `p` of the sequence lies in block `blocks()[p / block_size]` at offset `p % block_size`.
///
/// Only [`super::KvCache`] changes a table, because each entry is a counted reference to a block. A table is not `Clone`, and must be
/// given back with [`super::KvCache::release`] before it is dropped.
#[derive(Debug, Default)]
pub struct BlockTable {
    pub(super) blocks: Vec<BlockId>,
    /// Leading blocks whose tokens were given to the prefix cache, or taken from it.
    pub(super) num_committed: usize,
}

impl BlockTable {
    /// The blocks in order of position.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether the sequence holds no block.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Leading blocks that went through the prefix cache.
    pub fn num_committed(&self) -> usize {
        self.num_committed
    }
}
