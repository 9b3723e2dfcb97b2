//! Memory of a Metal device: buffers that the host and the GPU share.

use crate::ops::gpu::device::{At, DeviceError};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLBuffer, MTLDevice, MTLResourceOptions};
use std::ptr::NonNull;

/// An object that has one of Metal's interfaces.
pub(super) type Object<Interface> = Retained<ProtocolObject<Interface>>;

/// Memory of the host and the device.
#[derive(Debug)]
pub struct MetalMemory {
    buffer: Object<dyn MTLBuffer>,
    bytes: usize,
}

// SAFETY: a buffer belongs to no thread; its bytes are touched by `read` and `write` alone, whose callers see to it that nobody else does.
unsafe impl Send for MetalMemory {}
// SAFETY: as above.
unsafe impl Sync for MetalMemory {}

impl MetalMemory {
    /// Takes `bytes` bytes. Metal clears them and aligns them to a page; the order of dispatches that touch them is kept by Metal too, since
    /// buffers taken from the device itself are tracked.
    pub(super) fn new(device: &Object<dyn MTLDevice>, bytes: usize, what: &'static str) -> Result<Self, DeviceError> {
        // Metal takes no allocation of nothing.
        let bytes = bytes.max(1);
        let fits = bytes <= device.maxBufferLength();
        let buffer = fits.then(|| device.newBufferWithLength_options(bytes, MTLResourceOptions::StorageModeShared)).flatten();
        Ok(Self { buffer: buffer.ok_or(DeviceError::Memory { bytes, what })?, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn buffer(&self) -> &ProtocolObject<dyn MTLBuffer> {
        &self.buffer
    }

    /// Copies into it.
    ///
    /// # Safety
    /// The GPU does not use it meanwhile.
    pub(super) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        check(At { memory: self, offset }, bytes.len());
        // SAFETY: the buffer is shared, so its bytes have this address; so many are there, and only this function writes to them.
        unsafe { self.buffer.contents().cast::<u8>().add(offset).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) }
    }

    /// Copies out of it.
    ///
    /// # Safety
    /// The GPU does not use it meanwhile.
    pub(super) unsafe fn read(&self, offset: usize, bytes: &mut [u8]) {
        check(At { memory: self, offset }, bytes.len());
        // SAFETY: as in `write`.
        unsafe { self.buffer.contents().cast::<u8>().add(offset).copy_to_nonoverlapping(NonNull::from(&mut *bytes).cast(), bytes.len()) }
    }
}

/// # Panics
/// When there are fewer than `bytes` bytes.
pub(super) fn check(at: At<'_, MetalMemory>, bytes: usize) {
    let end = at.offset.checked_add(bytes);
    assert!(end.is_some_and(|end| end <= at.memory.bytes), "{bytes} bytes at {} of {}", at.offset, at.memory.bytes);
}
