//! Accounting of KV blocks: who holds which block, and which blocks hold the keys and values of which tokens.
//!
//! A *block* is `block_size` consecutive token positions of one sequence in all layers. The runner owns the memory; this module
//! only hands out [`BlockId`]s. Its one caller is `scheduler`, through [`KvCache`]:
//!
//! * [`block_pool`] counts the holders of each block and orders the free ones by when they should be reused;
//! * [`block_table`] lists the blocks of one sequence;
//! * [`prefix_cache`] finds a block by the tokens it holds;
//! * [`cache`] ties the three together; `audit` checks every invariant and is what tests and the simulation run.
//!
//! A block has three states:
//!
//! ```text
//!             grow                      last holder releases
//!   free ────────────▶ held (1..n) ─────────────────────────▶ free, or free but addressable
//!    ▲                     ▲                                                │        │
//!    │                     └───────────── prefix hit (adopt) ───────────────┘        │
//!    └──────────────────────────────────── evicted on reuse ─────────────────────────┘
//! ```
//!
//! **Architecture invariant:** std only; no tensors, no clock, no I/O, and nothing depends on the iteration order of a hash map.
//! **Architecture invariant:** a block's tokens are found only after [`KvCache::commit`] was told that they have been computed.
//! **Architecture invariant:** equal hashes are never trusted: token ids, parent and scope are compared on every hit.
//!
//! It does not decide who gets blocks or who loses them (`scheduler` does) and knows nothing of bytes or layers (`runner` does).

mod audit;
pub mod block_pool;
pub mod block_table;
pub mod cache;
mod faults;
pub mod prefix_cache;

#[cfg(test)]
mod tests;

pub use audit::InvariantViolation;
pub use block_table::BlockTable;
pub use cache::{KvCache, KvCacheConfig, PrefixHit};
pub(crate) use faults::{Fault, Faults};
pub use prefix_cache::CacheScope;

/// Index of a physical block, the same in every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

impl BlockId {
    /// The same as an index into arrays of blocks.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
