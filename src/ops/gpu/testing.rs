//! Which devices tests run on: the emulated one with the kernels of each language, or the one that `OPENELM_TEST_DEVICE` names: `emulated-cuda`,
//! `emulated-metal`, `cuda:N` (`tests/device.sh` does), `metal`.

use super::emulated::{Checks, EmulatedDevice, Language};
use super::{CudaDevice, Device, GpuBackend, GpuOptions, Half, MetalDevice};

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

/// Does it on every device under test; what was found, by device.
pub(crate) fn on_devices<T: OnDevice>(setup: Setup, what: &T) -> Vec<(String, T::Found)> {
    names().into_iter().map(|name| (name.clone(), on_device(&name, setup, what))).collect()
}

fn names() -> Vec<String> {
    std::env::var("OPENELM_TEST_DEVICE").map_or_else(|_| Language::ALL.map(emulated).to_vec(), |name| vec![name])
}

fn emulated(language: Language) -> String {
    format!("emulated-{}", language.name())
}

fn on_device<T: OnDevice>(name: &str, setup: Setup, what: &T) -> T::Found {
    with_device(name, setup.checks, &Backed(what, setup))
}

/// Something to do with a device itself.
pub(crate) trait OnBareDevice {
    type Found;

    /// `make` opens the device anew.
    fn run<D: Device>(&self, make: &dyn Fn() -> D) -> Self::Found;
}

/// Does it on every device under test, without checks; what was found, by device.
pub(crate) fn on_bare_devices<T: OnBareDevice>(what: &T) -> Vec<(String, T::Found)> {
    names().into_iter().map(|name| (name.clone(), with_device(&name, Checks::Off, what))).collect()
}

struct Backed<'a, T>(&'a T, Setup);

impl<T: OnDevice> OnBareDevice for Backed<'_, T> {
    type Found = T::Found;

    fn run<D: Device>(&self, make: &dyn Fn() -> D) -> T::Found {
        let Setup { half, is_batch_invariant, .. } = self.1;
        let options = GpuOptions { half, is_batch_invariant, threads: 1, positions: 512 };
        self.0.run(&|| GpuBackend::new(make(), options).unwrap())
    }
}

fn with_device<T: OnBareDevice>(name: &str, checks: Checks, what: &T) -> T::Found {
    if let Some(language) = Language::ALL.into_iter().find(|&language| emulated(language) == name) {
        return what.run(&|| EmulatedDevice::new(language, checks));
    }
    if name == "metal" {
        return what.run(&|| MetalDevice::open().unwrap());
    }
    let ordinal: usize = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).expect("OPENELM_TEST_DEVICE names a device");
    what.run(&|| CudaDevice::open(ordinal).unwrap())
}
