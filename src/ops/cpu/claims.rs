//! Units of work that threads take one after the other: each its own share first, in order, then the last ones of whoever is behind.
//!
//! Shares are those of [`Part::range`], so that on a quiet machine every thread reads one stretch of memory. When another process takes a
//! core away, what is left of its share goes to the other threads instead of holding up the whole step. Every unit is done once; which
//! thread does it changes no result.

use super::lanes::Part;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is left of a share, `start << 32 | end`, on cache lines of its own.
#[repr(align(128))]
struct Share(AtomicU64);

/// The shares of all threads.
pub(super) struct Claims(Box<[Share]>);

fn pack(left: Range<usize>) -> u64 {
    (left.start as u64) << 32 | left.end as u64
}

fn unpack(left: u64) -> Range<usize> {
    (left >> 32) as usize..(left & 0xffff_ffff) as usize
}

impl Share {
    /// Takes the units that `choose` picks from what is left: the first or the last ones.
    #[inline(always)]
    fn take(&self, choose: impl Fn(Range<usize>) -> Range<usize>) -> Option<Range<usize>> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let left = unpack(seen);
            if left.is_empty() {
                return None;
            }
            let taken = choose(left.clone());
            let rest = if taken.start == left.start { taken.end..left.end } else { left.start..taken.start };
            // Relaxed: the units guard no memory; the pool's start and end of a job order everything else.
            match self.0.compare_exchange_weak(seen, pack(rest), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => seen = now,
            }
        }
    }
}

impl Claims {
    /// Shares out units `0..count`, fewer than 2^32, to `threads` threads.
    pub(super) fn new(threads: usize, count: usize) -> Self {
        debug_assert!(u32::try_from(count).is_ok());
        let share = |index| Share(AtomicU64::new(pack(Part { index, of: threads }.range(count))));
        Self((0..threads).map(share).collect())
    }

    /// The next units for the thread of `part`: up to `most` of its own, else the last one of another's.
    #[inline(always)]
    pub(super) fn next(&self, part: Part, most: usize) -> Option<Range<usize>> {
        let own = self.0[part.index].take(|left| left.start..left.end.min(left.start + most));
        own.or_else(|| self.steal(part))
    }

    #[cold]
    fn steal(&self, part: Part) -> Option<Range<usize>> {
        let mut others = (1..part.of).map(|distance| &self.0[(part.index + distance) % part.of]);
        others.find_map(|share| share.take(|left| left.end - 1..left.end))
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::ThreadPool;
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_share_is_taken_in_order_and_the_rest_of_another_from_its_end() {
        let claims = Claims::new(2, 10);
        let (slow, fast) = (Part { index: 0, of: 2 }, Part { index: 1, of: 2 });
        assert_eq!(claims.next(slow, 3), Some(0..3));
        assert_eq!([claims.next(fast, 3), claims.next(fast, 3)], [Some(5..8), Some(8..10)]);
        assert_eq!([claims.next(fast, 3), claims.next(slow, 3)], [Some(4..5), Some(3..4)]);
        assert_eq!([claims.next(fast, 3), claims.next(slow, 3)], [None, None]);
    }

    #[test]
    fn every_unit_is_taken_once_by_threads_that_race() {
        for (threads, count, most) in [(1, 7, 2), (2, 1000, 3), (4, 5, 8), (4, 3000, 1), (3, 0, 1)] {
            let pool = ThreadPool::new(threads).unwrap();
            for round in 0..50 {
                let taken: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                let claims = Claims::new(threads, count);
                pool.run(&|part| {
                    while let Some(units) = claims.next(part, most) {
                        units.for_each(|unit| _ = taken[unit].fetch_add(1, Ordering::Relaxed));
                    }
                });
                assert!(taken.iter().all(|t| t.load(Ordering::Relaxed) == 1), "{threads} threads, {count} units, round {round}");
            }
        }
    }

    #[test]
    fn a_thread_that_does_nothing_holds_nobody_up() {
        let (pool, claims) = (ThreadPool::new(3).unwrap(), Claims::new(3, 100));
        let done = AtomicUsize::new(0);
        pool.run(&|part| {
            while part.index != 1 && claims.next(part, 4).map(|units| done.fetch_add(units.len(), Ordering::Relaxed)).is_some() {}
        });
        assert_eq!(done.into_inner(), 100);
    }
}
