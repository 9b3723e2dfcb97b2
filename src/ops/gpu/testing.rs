//! Which devices tests run on: the emulated one, and instead of it a CUDA device where `OPENELM_TEST_DEVICE` says `cuda:N`
//! (`tests/device.sh` does).

use super::emulated::{Checks, EmulatedDevice};
use super::{CudaDevice, Device, GpuBackend, GpuOptions, Half};

/// Something to do with the backend on any device.
pub(crate) trait OnDevice {
    type Found;

    /// `make` opens the device anew.
    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) -> Self::Found;
}

/// How the backend under test is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) half: Half,
    pub(crate) is_batch_invariant: bool,
    /// Of the emulated device, every access of every kernel: some ten times slower.
    pub(crate) checks: Checks,
}

impl Setup {
    /// Everything checked.
    pub(crate) fn checked(half: Half) -> Self {
        Self { half, is_batch_invariant: false, checks: Checks::On }
    }

    /// Fast.
    pub(crate) fn unchecked(half: Half) -> Self {
        Self { checks: Checks::Off, ..Self::checked(half) }
    }

    /// Products of one shape.
    pub(crate) fn invariant(self) -> Self {
        Self { is_batch_invariant: true, ..self }
    }
}

/// Does it on the device under test.
pub(crate) fn on_device<T: OnDevice>(setup: Setup, what: &T) -> T::Found {
    let options = GpuOptions { half: setup.half, is_batch_invariant: setup.is_batch_invariant, threads: 1, positions: 512 };
    match std::env::var("OPENELM_TEST_DEVICE").ok().as_deref() {
        None => what.run(&|| GpuBackend::new(EmulatedDevice::new(setup.checks), options).unwrap()),
        Some(name) => {
            let ordinal: usize = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).expect("OPENELM_TEST_DEVICE is cuda:N");
            what.run(&|| GpuBackend::new(CudaDevice::open(ordinal).unwrap(), options).unwrap())
        }
    }
}
