//! Zeroed memory on cache-line boundaries, and raw views of it that threads share.
//!
//! What is large lies in huge pages where the system gives them: a step streams through all weights, and with pages of 4 KiB the walks of the
//! page tables cost up to 40% of the bandwidth on a virtual machine.

use crate::ops::OpError;
use memmap2::{MmapMut, MmapOptions};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

const ALIGNMENT: usize = 64;

/// What the system's allocator gives without touching the memory: a larger alignment makes it write the zeros itself, and a KV cache of
/// gigabytes would be resident before its first token.
const ALLOCATOR_ALIGNMENT: usize = 16;

/// Size and alignment of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Where values lie.
enum Memory {
    /// Up to 64 bytes before the values.
    Heap(NonNull<u8>, Layout),
    /// In a map that others may share.
    Map(Arc<MmapMut>),
}

/// `len` values, zeroed by the system when first touched, aligned to 64 bytes.
pub struct Aligned<T> {
    /// Kept for its `Drop`.
    _memory: Memory,
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its memory as a Vec does.
unsafe impl<T: Send> Send for Aligned<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Sync> Sync for Aligned<T> {}

/// Types for which all-zero bytes are a value and which need no drop.
pub trait Plain: Copy + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for u32 {}
impl Plain for u16 {}
impl Plain for u8 {}

impl<T: Plain> Aligned<T> {
    /// Allocates `len` zeros.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    pub(super) fn zeroed(len: usize, what: &'static str) -> Result<Self, OpError> {
        let bytes = len.saturating_mul(size_of::<T>());
        let allocated = if bytes < HUGE_PAGE { on_heap(bytes) } else { in_map(bytes) };
        let (memory, start) = allocated.ok_or(OpError::Allocation { bytes, what })?;
        Ok(Self { _memory: memory, start: start.cast(), len })
    }

    pub(in crate::ops) fn as_slice(&self) -> &[T] {
        // SAFETY: `len` initialised values belong to self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and self is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A view that several threads may write through, each its own elements.
    pub(super) fn shared(&mut self) -> SharedMut<'_, T> {
        SharedMut { start: self.start.as_ptr(), len: self.len, borrow: PhantomData }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Self::Heap(base, layout) = self {
            // SAFETY: allocated with this layout; the values need no drop.
            unsafe { dealloc(base.as_ptr(), *layout) }
        }
    }
}

/// `bytes` zeroed bytes from the allocator, and where they start.
fn on_heap(bytes: usize) -> Option<(Memory, NonNull<u8>)> {
    let layout = Layout::from_size_align(bytes.checked_add(ALIGNMENT)?, ALLOCATOR_ALIGNMENT).ok()?;
    // SAFETY: the layout is not empty.
    let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
    let skip = base.as_ptr().align_offset(ALIGNMENT);
    // SAFETY: `skip` is below 64, and 64 bytes more than asked for were allocated.
    Some((Memory::Heap(base, layout), unsafe { base.add(skip) }))
}

/// `bytes` zeroed bytes in a map of their own, aligned to huge pages, and where they start. What does not fill a huge page stays in small
/// ones, so that no memory is wasted.
fn in_map(bytes: usize) -> Option<(Memory, NonNull<u8>)> {
    let mut map = MmapOptions::new().len(bytes.checked_add(HUGE_PAGE)?).map_anon().ok()?;
    let skip = map.as_ptr().align_offset(HUGE_PAGE);
    #[cfg(target_os = "linux")]
    if let Err(error) = map.advise_range(memmap2::Advice::HugePage, skip, bytes / HUGE_PAGE * HUGE_PAGE) {
        // A kernel without huge pages: everything works, a bit slower.
        tracing::debug!(%error, "no huge pages");
    }
    let start = NonNull::new(map.as_mut_ptr().wrapping_add(skip))?;
    Some((Memory::Map(Arc::new(map)), start))
}

/// Bytes of address space that an arena reserves at once.
const ARENA_CHUNK: usize = 256 << 20;

/// Memory for many matrices, one after the other, so that huge pages hold the ends of small ones too.
#[derive(Default)]
pub(super) struct Arena(Mutex<Option<Chunk>>);

/// The map that matrices are being taken from.
struct Chunk {
    map: Arc<MmapMut>,
    /// Where the rest starts, and its bytes.
    free: NonNull<u8>,
    left: usize,
}

// SAFETY: the rest belongs to nobody else, and is handed out piece by piece.
unsafe impl Send for Chunk {}

impl Arena {
    /// As [`Aligned::zeroed`], from the arena.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    pub(super) fn zeroed<T: Plain>(&self, len: usize, what: &'static str) -> Result<Aligned<T>, OpError> {
        let bytes = len.saturating_mul(size_of::<T>());
        if bytes >= usize::MAX / 2 {
            return Err(OpError::Allocation { bytes, what });
        }
        let size = bytes.next_multiple_of(ALIGNMENT);
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|chunk| chunk.left < size) {
            *current = Some(Chunk::new(size.max(ARENA_CHUNK)).ok_or(OpError::Allocation { bytes, what })?);
        }
        let Some(chunk) = current.as_mut() else { return Err(OpError::Allocation { bytes, what }) };
        let (memory, start) = (Memory::Map(chunk.map.clone()), chunk.free.cast());
        // SAFETY: `size` bytes are left.
        chunk.free = unsafe { chunk.free.add(size) };
        chunk.left -= size;
        Ok(Aligned { _memory: memory, start, len })
    }
}

impl Chunk {
    fn new(bytes: usize) -> Option<Self> {
        let bytes = bytes.checked_next_multiple_of(HUGE_PAGE)?;
        let (memory, free) = in_map(bytes)?;
        let Memory::Map(map) = &memory else { return None };
        Some(Self { map: map.clone(), free, left: bytes })
    }
}

/// Memory that the parts of one job write to, each its own elements.
#[derive(Clone, Copy)]
pub(super) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: access is unsafe and its conditions are stated there.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(super) fn of(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Pointer to element `offset`, checked to have `count` elements behind it.
    ///
    /// # Panics
    /// When they lie outside.
    #[inline(always)]
    pub(super) fn at(&self, offset: usize, count: usize) -> *mut T {
        assert!(offset <= self.len && count <= self.len - offset, "{count} elements at {offset} of {}", self.len);
        // SAFETY: just checked.
        unsafe { self.start.add(offset) }
    }

    /// Elements `offset..offset + count`.
    ///
    /// # Safety
    /// No other thread may touch them while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // distinct elements of one allocation, by the caller's promise
    pub(super) unsafe fn slice(&self, offset: usize, count: usize) -> &mut [T] {
        // SAFETY: inside the allocation by `at`, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, count), count) }
    }
}

/// Pointer to element `offset` of `slice`, checked to have `count` elements behind it.
///
/// # Panics
/// When they lie outside.
#[inline(always)]
pub(super) fn at<T>(slice: &[T], offset: usize, count: usize) -> *const T {
    slice[offset..][..count].as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_zeroed_and_writable_to_its_end() {
        for len in [0, 1, 15, 64, 100_003, HUGE_PAGE / 4, HUGE_PAGE / 2 + 7] {
            let mut values = Aligned::<f32>::zeroed(len, "a test").unwrap();
            assert_eq!(values.as_slice().as_ptr() as usize % ALIGNMENT, 0);
            assert_eq!(values.as_slice().len(), len);
            assert!(values.as_slice().iter().all(|&v| v == 0.0));
            values.as_mut_slice().fill(1.0);
            assert_eq!(values.as_slice().iter().sum::<f32>(), len as f32);
        }
    }

    #[test]
    fn an_arena_gives_disjoint_zeroed_memory() {
        let arena = Arena::default();
        let mut pieces: Vec<Aligned<u32>> = [1, 100, 0, HUGE_PAGE, 7].into_iter().map(|len| arena.zeroed(len, "a test").unwrap()).collect();
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert_eq!(piece.as_slice().as_ptr() as usize % ALIGNMENT, 0);
            assert!(piece.as_slice().iter().all(|&v| v == 0));
            piece.as_mut_slice().fill(i as u32 + 1);
        }
        drop(arena);
        pieces.remove(1);
        for (piece, value) in pieces.iter().zip([1, 3, 4, 5]) {
            assert!(piece.as_slice().iter().all(|&v| v == value));
        }
        assert!(matches!(Arena::default().zeroed::<u32>(usize::MAX / 2, "a test"), Err(OpError::Allocation { .. })));
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        assert!(matches!(Aligned::<f32>::zeroed(usize::MAX / 2, "a test"), Err(OpError::Allocation { what: "a test", .. })));
    }

    #[test]
    #[should_panic(expected = "3 elements at 2 of 4")]
    fn a_view_checks_its_bounds() {
        let mut values = Aligned::<f32>::zeroed(4, "a test").unwrap();
        values.shared().at(2, 3);
    }
}
