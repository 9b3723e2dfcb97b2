//! What the backend keeps on the device.

use super::device::{At, Device, DeviceError, Half};
use crate::ops::PageShape;
use half::{bf16, f16};

/// A vector of f32.
#[derive(Debug)]
pub struct GpuVector<M> {
    pub(super) memory: M,
    pub(super) length: usize,
}

/// f32 activations.
#[derive(Debug)]
pub struct GpuBuffer<M> {
    pub(super) memory: M,
    /// How many there are.
    pub(super) values: usize,
}

/// Activations in 16 bits.
#[derive(Debug)]
pub struct GpuOperand<M> {
    pub(super) memory: M,
    pub(super) values: usize,
}

/// Keys and values `[num_blocks, block_size, kv_heads, head_dim]` in 16 bits.
#[derive(Debug)]
pub struct GpuPages<M> {
    pub(super) shape: PageShape,
    pub(super) keys: M,
    pub(super) values: M,
}

/// Cosine and sine of every angle: `[positions, head_dim / 2, 2]` f32.
#[derive(Debug)]
pub struct GpuRope<M> {
    pub(super) memory: M,
    pub(super) head_dim: usize,
    pub(super) positions: usize,
}

impl Half {
    /// The bytes of a value, rounded to nearest.
    pub(super) fn bytes(self, value: f32) -> [u8; 2] {
        match self {
            Self::Bf16 => bf16::from_f32(value).to_ne_bytes(),
            Self::F16 => f16::from_f32(value).to_ne_bytes(),
        }
    }

    /// The value of two bytes.
    pub(super) fn value(self, bytes: [u8; 2]) -> f32 {
        match self {
            Self::Bf16 => bf16::from_ne_bytes(bytes).to_f32(),
            Self::F16 => f16::from_ne_bytes(bytes).to_f32(),
        }
    }
}

/// Numbers as bytes.
pub(super) fn bytes_of(words: &[u32]) -> &[u8] {
    // SAFETY: numbers are bytes, and bytes need no alignment: all of them are in the middle.
    unsafe { words.align_to().1 }
}

/// Numbers as bytes to be written: any bytes are numbers.
pub(super) fn bytes_of_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: as above, both ways.
    unsafe { values.align_to_mut().1 }
}

/// Uploads f32 values to new memory.
pub(super) fn upload_values<D: Device>(device: &D, values: &[f32], what: &'static str) -> Result<D::Memory, DeviceError> {
    let memory = device.allocate(size_of_val(values), what)?;
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    device.upload(&bytes, At::start(&memory))?;
    Ok(memory)
}

/// Downloads `count` f32 values.
#[cfg(test)]
pub(super) fn download_values<D: Device>(device: &D, memory: &D::Memory, count: usize) -> Result<Vec<f32>, DeviceError> {
    let mut bytes = vec![0; count * size_of::<f32>()];
    device.download(At::start(memory), &mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_ne_bytes(value)).collect())
}

/// Downloads `count` values of 16 bits.
pub(super) fn download_halves<D: Device>(device: &D, memory: &D::Memory, half: Half, count: usize) -> Result<Vec<f32>, DeviceError> {
    let mut bytes = vec![0; count * 2];
    device.download(At::start(memory), &mut bytes)?;
    Ok(bytes.as_chunks::<2>().0.iter().map(|&value| half.value(value)).collect())
}
