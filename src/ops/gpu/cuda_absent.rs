//! In the place of `cuda` in a build without that feature: there is no device.

use super::device::{At, Device, DeviceError, Launch, Product};
use std::convert::Infallible;

/// A CUDA device, which this build knows nothing of.
#[derive(Debug)]
pub struct CudaDevice(Infallible);

impl CudaDevice {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// Always: this build has no CUDA.
    pub fn open(_ordinal: usize) -> Result<Self, DeviceError> {
        Err(DeviceError::Absent("this build has no CUDA: build it with `cargo build --release --features cuda`".to_owned()))
    }
}

impl Device for CudaDevice {
    type Memory = Infallible;
    type Recording = Infallible;

    fn description(&self) -> String {
        match self.0 {}
    }

    fn arithmetic(&self) -> String {
        match self.0 {}
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        match self.0 {}
    }

    fn allocate(&self, _bytes: usize, _what: &'static str) -> Result<Infallible, DeviceError> {
        match self.0 {}
    }

    fn upload(&self, _bytes: &[u8], _to: At<'_, Infallible>) -> Result<(), DeviceError> {
        match self.0 {}
    }

    fn download(&self, _from: At<'_, Infallible>, _bytes: &mut [u8]) -> Result<(), DeviceError> {
        match self.0 {}
    }

    fn wait(&self) -> Result<(), DeviceError> {
        match self.0 {}
    }

    fn launch(&self, _launch: &Launch<'_, Infallible>) -> Result<(), DeviceError> {
        match self.0 {}
    }

    fn multiply(&self, _product: &Product<'_, Infallible>) -> Result<(), DeviceError> {
        match self.0 {}
    }

    fn begin_recording(&self) -> Result<(), DeviceError> {
        match self.0 {}
    }

    fn end_recording(&self) -> Result<Infallible, DeviceError> {
        match self.0 {}
    }

    fn replay(&self, recording: &Infallible) -> Result<(), DeviceError> {
        match *recording {}
    }
}
