//! In the place of `metal` in a build without that feature.

use super::absent::AbsentDevice;
use super::device::DeviceError;

/// A Metal device, which this build knows nothing of.
pub type MetalDevice = AbsentDevice<Metal>;

/// Its kind.
#[derive(Debug)]
pub enum Metal {}

impl MetalDevice {
    /// Opens the GPU.
    ///
    /// # Errors
    /// Always: this build has no Metal.
    pub fn open() -> Result<Self, DeviceError> {
        Err(DeviceError::Absent("this build has no Metal: on macOS, build it with `cargo build --release --features metal`".to_owned()))
    }
}
