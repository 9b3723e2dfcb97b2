//! A device that is lost after so many kernels, for tests: any other one, of which nothing can be had any more from then on.

use super::device::{At, Device, DeviceError, Launch, Product};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
pub(crate) struct FailingDevice<D: Device> {
    device: D,
    /// Kernels and products that can still be sent.
    left: Arc<AtomicU64>,
}

impl<D: Device> FailingDevice<D> {
    pub(crate) fn new(device: D, left: Arc<AtomicU64>) -> Self {
        Self { device, left }
    }

    fn count(&self, call: impl ToString) -> Result<(), DeviceError> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.map(drop).map_err(|_| DeviceError::Call { call: call.to_string(), detail: "the device is lost".to_owned() })
    }
}

impl<D: Device> Device for FailingDevice<D> {
    type Memory = D::Memory;
    type Recording = D::Recording;
    type Returning = D::Returning;

    const RECORDS: bool = D::RECORDS;

    fn recording_bytes(&self) -> u64 {
        self.device.recording_bytes()
    }

    fn description(&self) -> String {
        self.device.description()
    }

    fn arithmetic(&self) -> String {
        self.device.arithmetic()
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.device.free_bytes()
    }

    fn allocate(&self, bytes: usize, what: &'static str) -> Result<D::Memory, DeviceError> {
        self.device.allocate(bytes, what)
    }

    fn upload(&self, bytes: &[u8], to: At<'_, D::Memory>) -> Result<(), DeviceError> {
        self.device.upload(bytes, to)
    }

    fn download(&self, from: At<'_, D::Memory>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.device.download(from, bytes)
    }

    fn send_back(&self, from: At<'_, D::Memory>, bytes: usize) -> Result<D::Returning, DeviceError> {
        self.device.send_back(from, bytes)
    }

    fn receive(&self, returning: D::Returning, out: &mut [u8]) -> Result<(), DeviceError> {
        self.device.receive(returning, out)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.device.wait()
    }

    fn launch(&self, launch: &Launch<'_, D::Memory>) -> Result<(), DeviceError> {
        self.count(launch.kernel)?;
        self.device.launch(launch)
    }

    fn multiply(&self, product: &Product<'_, D::Memory>) -> Result<(), DeviceError> {
        self.count("a product")?;
        self.device.multiply(product)
    }

    fn multiply_swiglu(&self, product: &Product<'_, D::Memory>, out: At<'_, D::Memory>) -> Result<bool, DeviceError> {
        self.count("a product")?;
        self.device.multiply_swiglu(product, out)
    }

    fn begin_recording(&self) -> Result<(), DeviceError> {
        self.device.begin_recording()
    }

    fn end_recording(&self) -> Result<D::Recording, DeviceError> {
        self.device.end_recording()
    }

    fn replay(&self, recording: &D::Recording) -> Result<(), DeviceError> {
        self.count("a recording")?;
        self.device.replay(recording)
    }
}
