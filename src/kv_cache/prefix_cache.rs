//! Finds a block by what it holds: its tokens, everything before them, and the scope in which they may be shared.
//!
//! Cached blocks form chains: an entry names its parent, the block before it. Its digest is a hash of the parent's digest, the scope and
//! the tokens, and finds the entry in O(1). The digest decides nothing: an entry matches only if its tokens, its scope and its parent
//! are equal, so by induction a chain that matches is the same text from position 0. Whoever can make two prompts collide gains
//! nothing but a miss.
//!
//! Parents are compared by *serial*, a number that is never used twice. A block may be evicted and filled with other tokens while
//! a child of the old content is still here: the child's parent serial then matches nothing, and the child can no longer be found.

use super::{BlockId, Fault, Faults, InvariantViolation};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

/// Who may share cached blocks: only sequences of equal scope see each other's. An adapter id belongs here when there are adapters,
/// because keys and values depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CacheScope {
    /// Separates tenants, so that nobody learns from timing what others have asked.
    pub salt: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    digest: u64,
    serial: u64,
    /// Serial of the block before this one; `None` for the first block of a text.
    parent: Option<u64>,
    scope: CacheScope,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The block can be found from now on.
    New {
        /// A block of other content and equal digest, which can no longer be found.
        replaced: Option<BlockId>,
    },
    /// Another block holds the same already, and stays the one that is found.
    Duplicate(BlockId),
    /// The parent cannot be found any more, so neither could this block.
    NoParent,
}

/// The index from content to block. At most one entry a block and one a digest.
#[derive(Debug)]
pub struct PrefixCache {
    block_size: usize,
    /// `[num_blocks]`
    entries: Vec<Option<Entry>>,
    /// `[num_blocks, block_size]`: token ids of the entries.
    tokens: Vec<u32>,
    /// Never iterated but in the audit, where the order does not matter.
    by_digest: HashMap<u64, BlockId, BuildHasherDefault<DefaultHasher>>,
    next_serial: u64,
    faults: Faults,
}

impl PrefixCache {
    /// An empty cache over `num_blocks` blocks of `block_size` tokens.
    pub fn new(num_blocks: usize, block_size: usize) -> Self {
        Self::with_faults(num_blocks, block_size, Faults::default())
    }

    pub(crate) fn with_faults(num_blocks: usize, block_size: usize, faults: Faults) -> Self {
        Self {
            block_size,
            entries: vec![None; num_blocks],
            tokens: vec![0; num_blocks * block_size],
            by_digest: HashMap::with_capacity_and_hasher(num_blocks, BuildHasherDefault::default()),
            next_serial: 0,
            faults,
        }
    }

    /// Blocks that can be found.
    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// Whether no block can be found.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// Whether this block has an entry.
    pub fn contains(&self, block: BlockId) -> bool {
        self.entries[block.index()].is_some()
    }

    /// The block that holds `tokens` (one block's worth) directly after `parent`, itself a result of this function or `None` at
    /// position 0.
    pub fn get(&self, parent: Option<BlockId>, scope: CacheScope, tokens: &[u32]) -> Option<BlockId> {
        let (parent_serial, digest) = self.link(parent, scope, tokens)?;
        let block = *self.by_digest.get(&digest)?;
        self.matches(block, parent_serial, scope, tokens).then_some(block)
    }

    /// Makes `block` findable. The newest of two contents with one digest wins, the other becomes unfindable.
    pub fn insert(&mut self, block: BlockId, parent: Option<BlockId>, scope: CacheScope, tokens: &[u32]) -> Inserted {
        let Some((parent_serial, digest)) = self.link(parent, scope, tokens) else {
            return Inserted::NoParent;
        };
        let replaced = self.by_digest.get(&digest).copied();
        if let Some(other) = replaced {
            if self.matches(other, parent_serial, scope, tokens) {
                return Inserted::Duplicate(other);
            }
            self.remove(other);
        }
        self.next_serial += 1;
        self.entries[block.index()] = Some(Entry { digest, serial: self.next_serial, parent: parent_serial, scope });
        let at = block.index() * self.block_size;
        self.tokens[at..at + self.block_size].copy_from_slice(tokens);
        self.by_digest.insert(digest, block);
        Inserted::New { replaced }
    }

    /// Makes `block` unfindable, and with it whatever follows it. Whether it was findable.
    pub fn remove(&mut self, block: BlockId) -> bool {
        let Some(entry) = self.entries[block.index()].take() else {
            return false;
        };
        self.by_digest.remove(&entry.digest);
        true
    }

    /// Serial of the parent and digest of the content; `None` when the parent is not in the cache.
    fn link(&self, parent: Option<BlockId>, scope: CacheScope, tokens: &[u32]) -> Option<(Option<u64>, u64)> {
        debug_assert_eq!(tokens.len(), self.block_size, "only full blocks are cached");
        let parent = match parent {
            Some(block) => Some(self.entries[block.index()]?),
            None => None,
        };
        let mut hasher = DefaultHasher::new();
        parent.map(|entry| entry.digest).hash(&mut hasher);
        if !self.faults.has(Fault::ScopeIgnored) {
            scope.hash(&mut hasher);
        }
        tokens.hash(&mut hasher);
        Some((parent.map(|entry| entry.serial), self.faults.narrow_digest(hasher.finish())))
    }

    fn matches(&self, block: BlockId, parent: Option<u64>, scope: CacheScope, tokens: &[u32]) -> bool {
        let Some(entry) = self.entries[block.index()] else {
            return false;
        };
        let at = block.index() * self.block_size;
        let same_tokens = self.tokens[at..at + self.block_size] == *tokens || self.faults.has(Fault::TokensNotCompared);
        let same_parent = entry.parent == parent || self.faults.has(Fault::ParentNotCompared);
        let same_scope = entry.scope == scope || self.faults.has(Fault::ScopeIgnored);
        same_tokens && same_parent && same_scope
    }

    /// Checks the index against the entries.
    pub(super) fn audit(&self) -> Result<(), InvariantViolation> {
        let mut num_entries = 0;
        for (index, entry) in self.entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            num_entries += 1;
            let found = self.by_digest.get(&entry.digest).map(|block| block.index());
            if found != Some(index) {
                return Err(InvariantViolation(format!("block {index} is cached but its digest finds {found:?}")));
            }
            if entry.parent.is_some_and(|parent| parent >= entry.serial) {
                return Err(InvariantViolation(format!("block {index} is cached before its parent")));
            }
        }
        if num_entries != self.by_digest.len() {
            return Err(InvariantViolation(format!("{num_entries} blocks cached, {} digests", self.by_digest.len())));
        }
        Ok(())
    }
}
