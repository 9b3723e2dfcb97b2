//! In the place of `cuda` in a build without that feature.

use super::absent::AbsentDevice;
use super::device::DeviceError;

/// A CUDA device, which this build knows nothing of.
pub type CudaDevice = AbsentDevice<Cuda>;

/// Its kind.
#[derive(Debug)]
pub enum Cuda {}

impl CudaDevice {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// Always: this build has no CUDA.
    pub fn open(_ordinal: usize) -> Result<Self, DeviceError> {
        Err(DeviceError::Absent("this build has no CUDA: build it with `cargo build --release --features cuda`".to_owned()))
    }
}
