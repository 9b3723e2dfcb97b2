//! Room on the host for bytes that are on their way to a device, used in turn: whoever knows that a device has read what was taken before some moment,
//! frees it.

/// Places are aligned to so many bytes.
const ALIGNMENT: u64 = 16;

/// Places in a room of some bytes. Positions only grow; a place is a position within the room.
#[derive(Debug)]
pub(super) struct Ring {
    capacity: u64,
    /// Where the next place begins.
    head: u64,
    /// Up to here the bytes are read.
    tail: u64,
}

/// A moment: what was taken before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Ring {
    /// Of a room that is free.
    pub(super) fn new(capacity: usize) -> Self {
        assert!((capacity as u64).is_multiple_of(ALIGNMENT), "a room of {capacity} bytes");
        Self { capacity: capacity as u64, head: 0, tail: 0 }
    }

    /// A place for `bytes` bytes, in one piece; `None` as long as what was taken before leaves no room for it, or where there is never any.
    pub(super) fn take(&mut self, bytes: usize) -> Option<usize> {
        if self.tail == self.head {
            self.clear();
        }
        let bytes = (bytes as u64).next_multiple_of(ALIGNMENT);
        let place = self.head % self.capacity;
        // What does not fit before the end of the room begins at its start.
        let start = if place + bytes > self.capacity { self.head + self.capacity - place } else { self.head };
        if start + bytes - self.tail > self.capacity {
            return None;
        }
        self.head = start + bytes;
        Some((start % self.capacity) as usize)
    }

    /// Now.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.head)
    }

    /// What was taken before `mark` is read.
    pub(super) fn free(&mut self, mark: Mark) {
        self.tail = self.tail.max(mark.0);
    }

    /// Everything is read.
    pub(super) fn clear(&mut self) {
        // The whole room is one piece again.
        self.head = self.head.next_multiple_of(self.capacity);
        self.tail = self.head;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn a_place_is_used_again_when_it_is_free() {
        let mut ring = Ring::new(64);
        assert_eq!((ring.take(20), ring.take(17)), (Some(0), Some(32)));
        let mark = ring.mark();
        assert_eq!(ring.take(1), None);
        ring.free(mark);
        // The first mark frees both; a later one that was made before frees nothing that was taken since.
        assert_eq!((ring.take(48), ring.take(16), ring.take(16)), (Some(0), Some(48), None));
        ring.free(mark);
        assert_eq!(ring.take(1), None);
        ring.clear();
        assert_eq!((ring.take(64), ring.take(65)), (Some(0), None));
    }

    #[test]
    fn what_does_not_fit_before_the_end_begins_at_the_start() {
        let mut ring = Ring::new(64);
        assert_eq!(ring.take(48), Some(0));
        let mark = ring.mark();
        assert_eq!(ring.take(16), Some(48));
        ring.free(mark);
        // The room's last bytes are still on their way.
        assert_eq!((ring.take(48), ring.take(16)), (Some(0), None));
        let mark = ring.mark();
        ring.free(mark);
        // Free as a whole it is one piece, from its start on.
        assert_eq!((ring.take(64), ring.take(1)), (Some(0), None));
    }

    proptest! {
        /// No two places that are in use share a byte, and all are in the room.
        #[test]
        fn places_in_use_do_not_overlap(steps in prop::collection::vec((1usize..270, 0u8..8), 1..200)) {
            let mut ring = Ring::new(256);
            let mut used: VecDeque<(usize, usize, Mark)> = VecDeque::new();
            for (bytes, action) in steps {
                match action {
                    0 => {
                        ring.clear();
                        used.clear();
                    }
                    1 | 2 => {
                        if let Some((_, _, mark)) = used.pop_front() {
                            ring.free(mark);
                        }
                    }
                    _ => {
                        if let Some(place) = ring.take(bytes) {
                            prop_assert!(place + bytes <= 256 && place % 16 == 0);
                            prop_assert!(used.iter().all(|&(other, length, _)| place + bytes <= other || other + length <= place));
                            used.push_back((place, bytes, ring.mark()));
                        } else {
                            prop_assert!(!used.is_empty() || bytes > 256);
                        }
                    }
                }
            }
        }
    }
}
