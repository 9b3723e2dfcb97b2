//! The check of block counts against the tables that hold the blocks.

use super::BlockTable;
use super::block_pool::BlockPool;
use std::collections::BTreeMap;
use std::fmt;

/// Something that can never be true is. The text says what; the cause is a defect of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvariantViolation(pub String);

impl fmt::Display for InvariantViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant violated: {}", self.0)
    }
}

impl std::error::Error for InvariantViolation {}

/// Every block must be counted as often as it stands in a table, and at most once in each.
pub(super) fn check_holders<'a>(pool: &BlockPool, tables: impl Iterator<Item = &'a BlockTable>) -> Result<(), InvariantViolation> {
    let mut held = BTreeMap::new();
    for (holder, table) in tables.enumerate() {
        if table.num_committed > table.len() {
            return Err(InvariantViolation(format!("{} of {} blocks committed", table.num_committed, table.len())));
        }
        for &block in table.blocks() {
            let (count, last_holder) = held.entry(block).or_insert((0, usize::MAX));
            if *last_holder == holder {
                return Err(InvariantViolation(format!("{block:?} stands twice in one table")));
            }
            (*count, *last_holder) = (*count + 1, holder);
        }
    }
    for (&block, &(count, _)) in &held {
        if pool.ref_count(block) != count {
            return Err(InvariantViolation(format!("{block:?} is in {count} tables and counted {} times", pool.ref_count(block))));
        }
    }
    if held.len() + pool.num_free() != pool.num_blocks() {
        let (held, free, all) = (held.len(), pool.num_free(), pool.num_blocks());
        return Err(InvariantViolation(format!("{held} blocks in tables and {free} free are not all {all}")));
    }
    Ok(())
}
