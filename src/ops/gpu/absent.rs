//! In the place of a device that the build has no part for: there is none.

use super::device::{At, Device, DeviceError, Launch, Product};
use std::convert::Infallible;
use std::marker::PhantomData;

/// A device of a kind that this build knows nothing of.
#[derive(Debug)]
pub struct AbsentDevice<Kind>(Infallible, PhantomData<Kind>);

impl<Kind: Send + Sync + 'static> Device for AbsentDevice<Kind> {
    type Memory = Infallible;
    type Recording = Infallible;
    type Returning = Infallible;

    const RECORDS: bool = false;

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

    fn send_back(&self, _from: At<'_, Infallible>, _bytes: usize) -> Result<Infallible, DeviceError> {
        match self.0 {}
    }

    fn receive(&self, returning: Infallible, _out: &mut [u8]) -> Result<(), DeviceError> {
        match returning {}
    }

    #[cfg(test)]
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
