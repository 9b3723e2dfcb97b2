//! The pool, the tables and the prefix cache as one: every change of a block table goes through [`KvCache`].

use super::block_pool::{BlockPool, Reuse};
use super::prefix_cache::{Inserted, PrefixCache};
use super::{BlockId, BlockTable, CacheScope, Fault, Faults, InvariantViolation, audit};

/// Size of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheConfig {
    /// Blocks in the pool.
    pub num_blocks: usize,
    /// Tokens in a block, at least 1.
    pub block_size: usize,
    /// Whether computed blocks can be found again by their tokens.
    pub enable_prefix_caching: bool,
}

/// Cached blocks for the beginning of a text. They are not held yet: use it before anything else changes the cache.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PrefixHit {
    /// The blocks in order of position.
    pub blocks: Vec<BlockId>,
    /// How many of them are free: adopting the hit takes so many out of the free list.
    pub num_free: usize,
}

/// Accounting of all blocks.
#[derive(Debug)]
pub struct KvCache {
    config: KvCacheConfig,
    pool: BlockPool,
    prefix: PrefixCache,
    faults: Faults,
}

impl KvCache {
    /// An empty cache. A block size of 0 is taken as 1.
    pub fn new(config: KvCacheConfig) -> Self {
        Self::with_faults(config, Faults::default())
    }

    pub(crate) fn with_faults(config: KvCacheConfig, faults: Faults) -> Self {
        let config = KvCacheConfig { block_size: config.block_size.max(1), ..config };
        let pool = BlockPool::with_faults(config.num_blocks, faults);
        let num_cacheable = if config.enable_prefix_caching { pool.num_blocks() } else { 0 };
        let prefix = PrefixCache::with_faults(num_cacheable, config.block_size, faults);
        Self { config, pool, prefix, faults }
    }

    /// Blocks in the pool.
    pub fn num_blocks(&self) -> usize {
        self.pool.num_blocks()
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.config.block_size
    }

    /// Blocks that nobody holds, the addressable ones among them included.
    pub fn num_free_blocks(&self) -> usize {
        self.pool.num_free()
    }

    /// Blocks that can be found by their tokens, held or free.
    pub fn num_cached_blocks(&self) -> usize {
        self.prefix.len()
    }

    /// Blocks that `num_tokens` positions fill, the last one perhaps in part.
    pub fn blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.config.block_size)
    }

    /// How many tables hold this block.
    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.pool.ref_count(block)
    }

    /// Whether this block can be found by its tokens.
    pub fn is_cached(&self, block: BlockId) -> bool {
        self.config.enable_prefix_caching && self.prefix.contains(block)
    }

    /// The longest beginning of `tokens` that is cached, in whole blocks.
    pub fn find_prefix(&self, scope: CacheScope, tokens: &[u32]) -> PrefixHit {
        let mut hit = PrefixHit::default();
        if !self.config.enable_prefix_caching {
            return hit;
        }
        for content in tokens.chunks_exact(self.config.block_size) {
            let Some(block) = self.prefix.get(hit.blocks.last().copied(), scope, content) else {
                break;
            };
            hit.num_free += usize::from(self.pool.ref_count(block) == 0);
            hit.blocks.push(block);
        }
        hit
    }

    /// Makes an empty table hold the blocks of `hit`.
    pub fn adopt(&mut self, table: &mut BlockTable, hit: PrefixHit) {
        debug_assert!(table.is_empty(), "a prefix is adopted by an empty table");
        for &block in &hit.blocks {
            self.pool.retain(block);
        }
        table.num_committed = hit.blocks.len();
        table.blocks = hit.blocks;
    }

    /// Makes `table` cover `num_tokens` positions, and appends the blocks taken for it to `new_blocks`. All or nothing: false when
    /// not enough blocks are free. Addressable blocks are evicted, the least recently used first.
    pub fn grow(&mut self, table: &mut BlockTable, num_tokens: usize, new_blocks: &mut Vec<BlockId>) -> bool {
        let missing = self.blocks_for(num_tokens).saturating_sub(table.len());
        if missing > self.pool.num_free() {
            return false;
        }
        for block in (0..missing).map_while(|_| self.pool.allocate()) {
            if self.config.enable_prefix_caching && !self.faults.has(Fault::EvictedStillCached) {
                self.prefix.remove(block);
            }
            table.blocks.push(block);
            if !self.faults.has(Fault::NewBlocksNotReported) {
                new_blocks.push(block);
            }
        }
        true
    }

    /// Makes the full blocks of `table` findable; `computed` are the tokens from position 0 whose keys and values are really there.
    ///
    /// A block that holds the same as a cached one is exchanged for that one: its holder keeps the same content, the memory is
    /// freed, and the chain of its later blocks continues from the block that can be found.
    pub fn commit(&mut self, table: &mut BlockTable, scope: CacheScope, computed: &[u32]) {
        if !self.config.enable_prefix_caching {
            return;
        }
        for content in computed.chunks_exact(self.config.block_size).skip(table.num_committed) {
            let index = table.num_committed;
            let Some(&block) = table.blocks.get(index) else { return };
            let parent = index.checked_sub(1).map(|before| table.blocks[before]);
            match self.prefix.insert(block, parent, scope, content) {
                Inserted::New { replaced: None } => {}
                Inserted::New { replaced: Some(loser) } => self.pool.reuse_first(loser),
                Inserted::Duplicate(cached) => {
                    self.pool.retain(cached);
                    self.pool.release(block, Reuse::First);
                    table.blocks[index] = cached;
                }
                // What follows cannot be found either.
                Inserted::NoParent => return,
            }
            table.num_committed += 1;
        }
    }

    /// Gives back all blocks of `table`; those that can be found stay so until they are reused. The end of a text is reused before its
    /// beginning, because the beginning is what others share and because without it the end cannot be found.
    pub fn release(&mut self, table: &mut BlockTable) {
        for &block in table.blocks.iter().rev() {
            let reuse = if self.is_cached(block) { Reuse::Last } else { Reuse::First };
            self.pool.release(block, reuse);
        }
        *table = BlockTable::default();
    }

    /// Makes these blocks unfindable, and with them whatever follows them in any text. Who holds some of them keeps them.
    pub fn forget(&mut self, blocks: &[BlockId]) {
        if !self.config.enable_prefix_caching {
            return;
        }
        for &block in blocks {
            if self.prefix.remove(block) {
                self.pool.reuse_first(block);
            }
        }
    }

    /// Checks every invariant, given all tables that hold blocks.
    ///
    /// # Errors
    /// The first [`InvariantViolation`] found: a defect of this program.
    pub fn audit<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) -> Result<(), InvariantViolation> {
        self.pool.audit()?;
        self.prefix.audit()?;
        audit::check_holders(&self.pool, tables)
    }
}
