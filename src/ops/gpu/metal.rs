//! Metal: Apple's GPUs, whose memory is the host's.
//!
//! Kernels are compiled by the system when the device is opened. Products are kernels too, with sums in f32.
//! **Compiles, kernels checked on the host, not run on a device.**
//!
//! What is sent goes into command buffers of one queue; one encoder runs its dispatches in order. Nothing waits except
//! [`Device::receive`], [`Device::download`], and uploads that cannot be encoded. An upload is a copy by the host where nothing is going on, as when a
//! model is loaded; else the GPU copies it from staging memory in its turn.
//!
//! Nothing is recorded: a list of dispatches would have to be encoded anew, and Metal's own recordings, indirect command buffers, take no 32-bit
//! arguments in place.

mod memory;
mod pipelines;
mod queue;

pub use memory::MetalMemory;

use super::device::{At, Device, DeviceError, Launch, Product};
use super::metal_product;
use super::ring::{Mark, Ring};
use memory::{Object, check};
use objc2::rc::autoreleasepool;
use objc2_foundation::{NSOperatingSystemVersion, NSProcessInfo};
use objc2_metal::{MTLCreateSystemDefaultDevice, MTLDevice, MTLGPUFamily};
use pipelines::Pipelines;
use queue::Queue;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};

// Whoever asks Metal for the default device must be linked with it.
#[link(name = "CoreGraphics", kind = "framework")]
unsafe extern "C" {}

/// The first macOS whose Metal has bfloat.
const OLDEST_MACOS: isize = 14;
/// Bytes that are on their way to the GPU without anyone waiting for them.
const STAGING: usize = 4 << 20;
/// Least bytes of a landing: answers of any usual step fit, and the two that a model's first steps take are all there will be.
const LEAST_LANDING: usize = 1 << 20;
/// The families of GPUs that kernels are made for, the newest first: 7 is the M1, the first with products of SIMD groups.
const FAMILIES: [(MTLGPUFamily, u32); 4] =
    [(MTLGPUFamily::Apple10, 10), (MTLGPUFamily::Apple9, 9), (MTLGPUFamily::Apple8, 8), (MTLGPUFamily::Apple7, 7)];

/// The GPU and its queue.
pub struct MetalDevice {
    device: Object<dyn MTLDevice>,
    pipelines: Pipelines,
    queue: Mutex<Queue>,
    staging: MetalMemory,
    ring: Mutex<Ring>,
    /// Where bytes came back to that nobody waits for any more.
    landings: Mutex<Vec<MetalMemory>>,
    name: String,
    arithmetic: String,
}

/// Bytes that are on their way back.
#[derive(Debug)]
pub struct MetalReturning {
    landing: MetalMemory,
    bytes: usize,
    /// The command buffer that brings them.
    sent: u64,
    /// What was staged before them.
    staged: Mark,
}

const NO_RECORDINGS: &str = "nothing is recorded on Metal";

fn call(call: impl Into<String>, detail: impl ToString) -> DeviceError {
    DeviceError::Call { call: call.into(), detail: detail.to_string() }
}

impl MetalDevice {
    /// Opens the GPU.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] without a GPU, [`DeviceError::Missing`] when it or macOS is too old, [`DeviceError::Call`] when the kernels cannot
    /// be compiled.
    pub fn open() -> Result<Self, DeviceError> {
        autoreleasepool(|_| {
            let device = MTLCreateSystemDefaultDevice().ok_or_else(|| DeviceError::Absent("no GPU that Metal knows".to_owned()))?;
            let (name, version) = (device.name().to_string(), NSProcessInfo::processInfo().operatingSystemVersion());
            let family = family(&device, &name, version)?;
            let queue = device.newCommandQueue().ok_or_else(|| call("newCommandQueue", "refused"))?;
            Ok(Self {
                pipelines: Pipelines::compile(&device)?,
                queue: Mutex::new(Queue::new(queue)),
                staging: MetalMemory::new(&device, STAGING, "uploads")?,
                ring: Mutex::new(Ring::new(STAGING)),
                landings: Mutex::default(),
                arithmetic: arithmetic(&name, family, version),
                name,
                device,
            })
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn landings(&self) -> MutexGuard<'_, Vec<MetalMemory>> {
        self.landings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all that was sent, after which nothing staged is read any more.
    fn wait_for_all(&self, queue: &mut Queue) -> Result<(), DeviceError> {
        queue.wait()?;
        self.ring().clear();
        Ok(())
    }

    /// Memory that nobody uses, of at least `bytes` bytes.
    fn landing(&self, bytes: usize) -> Result<MetalMemory, DeviceError> {
        let mut landings = self.landings();
        let free = landings.iter().position(|landing| landing.bytes() >= bytes);
        let new = || MetalMemory::new(&self.device, bytes.next_power_of_two().max(LEAST_LANDING), "what comes back");
        free.map_or_else(new, |index| Ok(landings.swap_remove(index)))
    }
}

/// The family of a GPU that will do.
fn family(device: &Object<dyn MTLDevice>, name: &str, version: NSOperatingSystemVersion) -> Result<u32, DeviceError> {
    if version.majorVersion < OLDEST_MACOS {
        return Err(DeviceError::Missing(format!(
            "macOS {} is too old for Metal with bfloat: {OLDEST_MACOS} is needed",
            version.majorVersion
        )));
    }
    let family = FAMILIES.iter().find(|(family, _)| device.supportsFamily(*family));
    let family = family.ok_or_else(|| DeviceError::Missing(format!("{name} is not of Apple's GPU family 7: an M1 or later is needed")))?;
    Ok(family.1)
}

/// The compiler is part of macOS, so its version is too.
fn arithmetic(name: &str, family: u32, version: NSOperatingSystemVersion) -> String {
    let NSOperatingSystemVersion { majorVersion: major, minorVersion: minor, patchVersion: patch } = version;
    format!("metal-{}-apple{family}-macos{major}.{minor}.{patch}", name.replace(' ', "_"))
}

impl Device for MetalDevice {
    type Memory = MetalMemory;
    type Recording = Infallible;
    type Returning = MetalReturning;

    const RECORDS: bool = false;

    fn description(&self) -> String {
        format!("metal {}", self.name)
    }

    fn arithmetic(&self) -> String {
        self.arithmetic.clone()
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(self.device.recommendedMaxWorkingSetSize().saturating_sub(self.device.currentAllocatedSize() as u64))
    }

    fn allocate(&self, bytes: usize, what: &'static str) -> Result<MetalMemory, DeviceError> {
        autoreleasepool(|_| MetalMemory::new(&self.device, bytes, what))
    }

    fn upload(&self, bytes: &[u8], to: At<'_, MetalMemory>) -> Result<(), DeviceError> {
        check(to, bytes.len());
        let mut queue = self.queue();
        autoreleasepool(|_| {
            // The GPU copies whole words.
            let is_whole = !bytes.is_empty() && (bytes.len() | to.offset).is_multiple_of(4);
            let place = if !queue.is_idle() && is_whole { self.ring().take(bytes.len()) } else { None };
            if let Some(place) = place {
                // SAFETY: what was at the place has been read, as the ring knows.
                unsafe { self.staging.write(place, bytes) };
                return queue.copy(At { memory: &self.staging, offset: place }, to, bytes.len());
            }
            self.wait_for_all(&mut queue)?;
            // SAFETY: nothing is going on, and nothing begins as long as the queue is held here.
            unsafe { to.memory.write(to.offset, bytes) };
            Ok(())
        })
    }

    #[cfg(test)]
    fn wait(&self) -> Result<(), DeviceError> {
        autoreleasepool(|_| self.wait_for_all(&mut self.queue()))
    }

    fn download(&self, from: At<'_, MetalMemory>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let mut queue = self.queue();
        autoreleasepool(|_| self.wait_for_all(&mut queue))?;
        // SAFETY: as in `upload`.
        unsafe { from.memory.read(from.offset, bytes) };
        Ok(())
    }

    fn send_back(&self, from: At<'_, MetalMemory>, bytes: usize) -> Result<MetalReturning, DeviceError> {
        check(from, bytes);
        let mut queue = self.queue();
        autoreleasepool(|_| {
            let landing = self.landing(bytes)?;
            if bytes > 0 {
                queue.copy(from, At::start(&landing), bytes)?;
            }
            Ok(MetalReturning { landing, bytes, sent: queue.commit(), staged: self.ring().mark() })
        })
    }

    fn receive(&self, returning: MetalReturning, out: &mut [u8]) -> Result<(), DeviceError> {
        let MetalReturning { landing, bytes, sent, staged } = returning;
        autoreleasepool(|_| self.queue().wait_for(sent))?;
        // SAFETY: the copy has ended, and nothing else is sent to a landing before it is back among those that nobody uses.
        unsafe { landing.read(0, &mut out[..bytes]) };
        self.ring().free(staged);
        self.landings().push(landing);
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_, MetalMemory>) -> Result<(), DeviceError> {
        autoreleasepool(|_| {
            let pipeline = self.pipelines.get(launch.kernel, launch.threads)?;
            self.queue().send(&pipeline, (launch.grid, launch.threads), launch.args)
        })
    }

    fn multiply(&self, product: &Product<'_, MetalMemory>) -> Result<(), DeviceError> {
        let Product { weight, x, out, rows, inputs, outputs, .. } = *product;
        check(weight, outputs * inputs * 2);
        check(x, rows * inputs * 2);
        check(out, rows * outputs * size_of::<f32>());
        metal_product::launches(product, |launch| self.launch(launch))
    }

    fn multiply_swiglu(&self, product: &Product<'_, MetalMemory>, out: At<'_, MetalMemory>) -> Result<bool, DeviceError> {
        let Product { weight, x, rows, inputs, outputs, .. } = *product;
        check(weight, outputs * inputs * 2);
        check(x, rows * inputs * 2);
        check(out, rows * (outputs / 2) * 2);
        metal_product::swiglu(product, out, |launch| self.launch(launch))
    }

    fn begin_recording(&self) -> Result<(), DeviceError> {
        Err(call("a recording", NO_RECORDINGS))
    }

    fn end_recording(&self) -> Result<Infallible, DeviceError> {
        Err(call("a recording", NO_RECORDINGS))
    }

    fn replay(&self, recording: &Infallible) -> Result<(), DeviceError> {
        match *recording {}
    }
}
