//! Memory of the host that a CUDA device reads and writes by itself: what is on its way to it, and what is on its way back.

use super::device::DeviceError;
use super::ring::{Mark, Ring};
use cudarc::driver::{CudaContext, DriverError, result, sys};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Bytes that are on their way to the device without anyone waiting for them.
pub(super) const STAGING: usize = 4 << 20;

/// Least bytes of a landing: answers of any usual step fit, and the two that a model's first steps take are all there will be.
const LEAST_LANDING: usize = 1 << 20;

pub(super) fn failed(call: impl Into<String>) -> impl FnOnce(DriverError) -> DeviceError {
    |error| DeviceError::Call { call: call.into(), detail: error.to_string() }
}

/// Bytes in memory of the host that the device reads and writes itself, without a copy by the driver.
pub(super) struct PinnedBytes {
    context: Arc<CudaContext>,
    pointer: *mut u8,
    count: usize,
}

// SAFETY: it owns its memory, as a `Vec` does.
unsafe impl Send for PinnedBytes {}

impl PinnedBytes {
    fn new(context: &Arc<CudaContext>, count: usize) -> Result<Self, DeviceError> {
        let refused = |_| DeviceError::Memory { bytes: count, what: "memory of the host for copies" };
        // SAFETY: the context is current; the memory is owned by what is returned, and zeroed before anyone reads it.
        unsafe {
            let pointer = result::malloc_host(count.max(1), 0).map_err(refused)?.cast::<u8>();
            pointer.write_bytes(0, count.max(1));
            Ok(Self { context: Arc::clone(context), pointer, count })
        }
    }
}

impl Deref for PinnedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: so many initialised bytes are there for as long as `self`.
        unsafe { std::slice::from_raw_parts(self.pointer, self.count) }
    }
}

impl DerefMut for PinnedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; whoever lets the device use them, does not touch them before it has.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.count) }
    }
}

impl Drop for PinnedBytes {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the pointer came from `malloc_host` and is freed once; whoever let the device use it has waited for it.
            let _ = unsafe { result::free_host(self.pointer.cast()) };
        }
    }
}

/// What is on its way to the device: the driver reads it some time after an upload was asked for.
pub(super) struct Staging {
    bytes: PinnedBytes,
    pub(super) ring: Ring,
}

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, DeviceError> {
        Ok(Self { bytes: PinnedBytes::new(context, STAGING)?, ring: Ring::new(STAGING) })
    }

    /// The bytes at a place that the ring gave.
    pub(super) fn at(&mut self, place: usize, bytes: usize) -> &mut [u8] {
        &mut self.bytes[place..place + bytes]
    }
}

/// Where bytes come back to, and the event that tells when they have.
pub(super) struct Landing {
    bytes: PinnedBytes,
    event: sys::CUevent,
    /// The device may still write to it.
    is_awaited: bool,
}

// SAFETY: an event is a handle of the driver, which may be used from any thread with its context current; one thread has the landing at a time.
unsafe impl Send for Landing {}

impl Landing {
    /// With room for `bytes` bytes.
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, DeviceError> {
        let bytes = PinnedBytes::new(context, bytes.next_power_of_two().max(LEAST_LANDING))?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed("cuEventCreate"))?;
        Ok(Self { bytes, event, is_awaited: false })
    }

    /// Sends a copy of `bytes` bytes at `from`, of the device, behind what is in the stream.
    fn send(&mut self, from: sys::CUdeviceptr, bytes: usize, stream: sys::CUstream) -> Result<(), DeviceError> {
        self.is_awaited = true;
        // SAFETY: the source holds the bytes, as the caller has checked; they land in memory that nobody touches before the event.
        unsafe {
            if bytes > 0 {
                result::memcpy_dtoh_async(&mut self.bytes[..bytes], from, stream).map_err(failed("cuMemcpyDtoHAsync"))?;
            }
            result::event::record(self.event, stream).map_err(failed("cuEventRecord"))
        }
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        // SAFETY: the event was created with the landing.
        unsafe { result::event::synchronize(self.event) }.map_err(failed("cuEventSynchronize"))?;
        self.is_awaited = false;
        Ok(())
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.bytes.context.bind_to_thread().is_ok() {
            if self.is_awaited {
                let _ = self.wait();
            }
            // SAFETY: the event was created with the landing and is destroyed once.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// Bytes that are on their way back.
pub struct CudaReturning {
    landing: Landing,
    bytes: usize,
    /// What was staged before them.
    staged: Mark,
}

/// Landings that nobody uses.
#[derive(Default)]
pub(super) struct Landings(Vec<Landing>);

impl Landings {
    /// Sends bytes back, see [`Landing::send`].
    pub(super) fn send(
        &mut self,
        context: &Arc<CudaContext>,
        (from, bytes): (sys::CUdeviceptr, usize),
        stream: sys::CUstream,
        staged: Mark,
    ) -> Result<CudaReturning, DeviceError> {
        let free = self.0.iter().position(|landing| landing.bytes.len() >= bytes);
        let mut landing = free.map_or_else(|| Landing::new(context, bytes), |index| Ok(self.0.swap_remove(index)))?;
        landing.send(from, bytes, stream)?;
        Ok(CudaReturning { landing, bytes, staged })
    }

    /// Waits for bytes and copies them out. What was staged before is read then.
    pub(super) fn receive(&mut self, mut returning: CudaReturning, out: &mut [u8], ring: &mut Ring) -> Result<(), DeviceError> {
        returning.landing.wait()?;
        out.copy_from_slice(&returning.landing.bytes[..returning.bytes]);
        ring.free(returning.staged);
        self.0.push(returning.landing);
        Ok(())
    }
}
