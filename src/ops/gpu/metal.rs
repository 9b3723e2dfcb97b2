//! Metal: Apple's GPUs, whose memory is the host's.
//!
//! Kernels are compiled by the system when the device is opened. Products are kernels too, with sums in f32.
//! **Compiles, kernels checked on the host, not run on a device.**
//!
//! What is sent goes into command buffers of one queue; one encoder runs its dispatches in order. Nothing waits except [`Device::wait`],
//! [`Device::download`], and uploads that cannot be encoded. An upload is a copy by the host where nothing is going on, as when a model is loaded
//! or a step begins; else the GPU copies it from memory of its own in its turn.
//!
//! Nothing is recorded: a list of dispatches would have to be encoded anew, and Metal's own recordings, indirect command buffers, take no 32-bit
//! arguments in place.

mod memory;
mod pipelines;
mod queue;

pub use memory::MetalMemory;

use super::device::{At, Device, DeviceError, Launch, Product};
use super::metal_product;
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
/// Most bytes of an upload that the GPU copies.
const MOST_STAGED: usize = 1 << 20;
/// The families of GPUs that kernels are made for, the newest first: 7 is the M1, the first with products of SIMD groups.
const FAMILIES: [(MTLGPUFamily, u32); 4] =
    [(MTLGPUFamily::Apple10, 10), (MTLGPUFamily::Apple9, 9), (MTLGPUFamily::Apple8, 8), (MTLGPUFamily::Apple7, 7)];

/// The GPU and its queue.
pub struct MetalDevice {
    device: Object<dyn MTLDevice>,
    pipelines: Pipelines,
    queue: Mutex<Queue>,
    name: String,
    arithmetic: String,
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
                arithmetic: arithmetic(&name, family, version),
                name,
                device,
            })
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory with these bytes, for the GPU to copy from.
    fn staged(&self, bytes: &[u8]) -> Result<MetalMemory, DeviceError> {
        let staged = MetalMemory::new(&self.device, bytes.len(), "an upload")?;
        // SAFETY: it is new: the GPU does not know of it.
        unsafe { staged.write(0, bytes) };
        Ok(staged)
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
            let is_whole = (bytes.len() | to.offset).is_multiple_of(4);
            if !queue.is_idle() && is_whole && (1..=MOST_STAGED).contains(&bytes.len()) {
                return queue.copy(&self.staged(bytes)?, to, bytes.len());
            }
            queue.wait()?;
            // SAFETY: nothing is going on, and nothing begins as long as the queue is held here.
            unsafe { to.memory.write(to.offset, bytes) };
            Ok(())
        })
    }

    fn wait(&self) -> Result<(), DeviceError> {
        autoreleasepool(|_| self.queue().wait())
    }

    fn download(&self, from: At<'_, MetalMemory>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let mut queue = self.queue();
        autoreleasepool(|_| queue.wait())?;
        // SAFETY: as in `upload`.
        unsafe { from.memory.read(from.offset, bytes) };
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
