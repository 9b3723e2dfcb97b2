//! Zeroed memory on cache-line boundaries, and raw views of it that threads share.

use crate::ops::OpError;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;

const ALIGNMENT: usize = 64;

/// What the system's allocator gives without touching the memory: a larger alignment makes it write the zeros itself, and a KV cache of
/// gigabytes would be resident before its first token.
const ALLOCATOR_ALIGNMENT: usize = 16;

/// `len` values, zeroed by the system when first touched, aligned to 64 bytes.
pub struct Aligned<T> {
    /// What was allocated, up to 64 bytes before `start`.
    base: NonNull<u8>,
    layout: Layout,
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
impl Plain for u16 {}
impl Plain for u8 {}

impl<T: Plain> Aligned<T> {
    /// Allocates `len` zeros.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    pub(super) fn zeroed(len: usize, what: &'static str) -> Result<Self, OpError> {
        let bytes = len.saturating_mul(size_of::<T>()).saturating_add(ALIGNMENT);
        let refused = OpError::Allocation { bytes, what };
        let Ok(layout) = Layout::from_size_align(bytes, ALLOCATOR_ALIGNMENT) else { return Err(refused) };
        // SAFETY: the layout is not empty.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { return Err(refused) };
        let skip = base.as_ptr().align_offset(ALIGNMENT);
        // SAFETY: `skip` is below 64, and 64 bytes more than the values need were allocated.
        let start = unsafe { base.add(skip) }.cast();
        Ok(Self { base, layout, start, len })
    }

    pub(in crate::ops) fn as_slice(&self) -> &[T] {
        // SAFETY: `len` initialised values belong to self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and self is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    pub(super) fn as_ptr(&self) -> *const T {
        self.start.as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A view that several threads may write through, each its own elements.
    pub(super) fn shared(&mut self) -> SharedMut<'_, T> {
        SharedMut { start: self.start.as_ptr(), len: self.len, borrow: PhantomData }
    }
}

impl<T> Drop for Aligned<T> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the values need no drop.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
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
        for len in [0, 1, 15, 64, 100_003] {
            let mut values = Aligned::<f32>::zeroed(len, "a test").unwrap();
            assert_eq!(values.as_ptr() as usize % ALIGNMENT, 0);
            assert_eq!(values.as_slice().len(), len);
            assert!(values.as_slice().iter().all(|&v| v == 0.0));
            values.as_mut_slice().fill(1.0);
            assert_eq!(values.as_slice().iter().sum::<f32>(), len as f32);
        }
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
