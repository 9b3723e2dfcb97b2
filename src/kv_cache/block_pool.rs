//! The blocks of the pool: holders per block, and the free blocks in the order in which they will be reused.
//!
//! The free list is a doubly linked list inside the array of blocks, so taking the first, appending, prepending and taking one out
//! of the middle (a prefix hit on a free block) are all O(1) and allocate nothing after start.

use super::{BlockId, Fault, Faults, InvariantViolation};

/// When a block that became free should be handed out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Before all others: its content is of no use to anyone.
    First,
    /// After all others: its content may be hit again, so the free list is in least-recently-used order.
    Last,
}

/// One block, or the sentinel at the end of the array that closes the ring of free blocks.
#[derive(Clone, Copy, Debug)]
struct Slot {
    ref_count: u32,
    /// Neighbours in the ring of free blocks; a slot outside the ring points at itself.
    prev: u32,
    next: u32,
}

/// Reference counts and the ring of free blocks.
#[derive(Debug)]
pub struct BlockPool {
    /// `[num_blocks + 1]`; the last one is the sentinel.
    slots: Vec<Slot>,
    num_free: usize,
    faults: Faults,
}

impl BlockPool {
    /// A pool of `num_blocks` free blocks, to be handed out in ascending order.
    pub fn new(num_blocks: usize) -> Self {
        Self::with_faults(num_blocks, Faults::default())
    }

    pub(crate) fn with_faults(num_blocks: usize, faults: Faults) -> Self {
        let num_blocks = u32::try_from(num_blocks).unwrap_or(u32::MAX - 1).min(u32::MAX - 1);
        let slots = (0..=num_blocks).map(|index| Slot { ref_count: 0, prev: index, next: index }).collect();
        let mut pool = Self { slots, num_free: 0, faults };
        for index in 0..num_blocks {
            pool.link(index, Reuse::Last);
        }
        pool
    }

    /// Blocks in the pool.
    pub fn num_blocks(&self) -> usize {
        self.slots.len() - 1
    }

    /// Blocks that nobody holds.
    pub fn num_free(&self) -> usize {
        self.num_free
    }

    /// How many hold this block.
    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.slots[block.index()].ref_count
    }

    /// Takes the free block that is due for reuse; the caller is its one holder. `None` when no block is free.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let first = self.slots[self.sentinel()].next;
        if first as usize == self.sentinel() {
            return None;
        }
        self.unlink(first);
        self.slots[first as usize].ref_count = 1;
        Some(BlockId(first))
    }

    /// Adds a holder; a free block leaves the free list.
    pub fn retain(&mut self, block: BlockId) {
        if self.faults.has(Fault::RefNotTakenOnHit) {
            return;
        }
        if self.ref_count(block) == 0 && !self.faults.has(Fault::HitLeftInFreeList) {
            self.unlink(block.0);
        }
        self.slots[block.index()].ref_count += 1;
    }

    /// Takes a holder away; with the last one the block becomes free and is reused as `reuse` says. Releasing a block that nobody
    /// holds does nothing: the pool stays sound, and an audit of the holders shows the mistake.
    pub fn release(&mut self, block: BlockId, reuse: Reuse) {
        let slot = &mut self.slots[block.index()];
        if slot.ref_count == 0 {
            return;
        }
        slot.ref_count -= 1;
        let last_holder = if self.faults.has(Fault::FreedWhileShared) { 1 } else { 0 };
        if slot.ref_count <= last_holder {
            self.link(block.0, reuse);
        }
    }

    /// Moves a free block to the front of the free list, because its content is of no use any more.
    pub fn reuse_first(&mut self, block: BlockId) {
        if self.is_linked(block.0) {
            self.unlink(block.0);
            self.link(block.0, Reuse::First);
        }
    }

    /// The free blocks in the order in which they will be handed out.
    pub fn free_blocks(&self) -> impl Iterator<Item = BlockId> + '_ {
        let sentinel = self.sentinel() as u32;
        let mut at = self.slots[self.sentinel()].next;
        // Bounded by the number of blocks, so that an audit of a broken ring ends.
        (0..self.num_blocks()).map_while(move |_| {
            let block = (at != sentinel).then_some(BlockId(at));
            at = self.slots[at as usize].next;
            block
        })
    }

    /// Checks the ring against the counts.
    pub(super) fn audit(&self) -> Result<(), InvariantViolation> {
        let mut num_linked = 0;
        for block in self.free_blocks() {
            let slot = self.slots[block.index()];
            num_linked += 1;
            if slot.ref_count != 0 {
                return Err(InvariantViolation(format!("{block:?} is in the free list and held {} times", slot.ref_count)));
            }
            if self.slots[slot.next as usize].prev != block.0 || self.slots[slot.prev as usize].next != block.0 {
                return Err(InvariantViolation(format!("the free list is broken at {block:?}")));
            }
        }
        let num_unheld = self.slots[..self.sentinel()].iter().filter(|slot| slot.ref_count == 0).count();
        if num_linked != self.num_free || num_unheld != self.num_free {
            return Err(InvariantViolation(format!(
                "{} blocks free, {num_linked} in the list, {num_unheld} without holder",
                self.num_free
            )));
        }
        Ok(())
    }

    fn sentinel(&self) -> usize {
        self.slots.len() - 1
    }

    fn is_linked(&self, index: u32) -> bool {
        self.slots[index as usize].next != index
    }

    fn link(&mut self, index: u32, reuse: Reuse) {
        if self.is_linked(index) {
            return;
        }
        let sentinel = self.sentinel() as u32;
        let (prev, next) = match reuse {
            Reuse::First => (sentinel, self.slots[sentinel as usize].next),
            Reuse::Last => (self.slots[sentinel as usize].prev, sentinel),
        };
        self.slots[prev as usize].next = index;
        self.slots[next as usize].prev = index;
        let slot = &mut self.slots[index as usize];
        (slot.prev, slot.next) = (prev, next);
        self.num_free += 1;
    }

    fn unlink(&mut self, index: u32) {
        if !self.is_linked(index) {
            return;
        }
        let Slot { prev, next, .. } = self.slots[index as usize];
        self.slots[prev as usize].next = next;
        self.slots[next as usize].prev = prev;
        let slot = &mut self.slots[index as usize];
        (slot.prev, slot.next) = (index, index);
        self.num_free -= 1;
    }
}
