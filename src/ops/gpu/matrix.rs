//! Weights on the device: `[outputs, inputs]`, row-major, in 16 bits.

use super::device::{At, Device, DeviceError, Half};
use crate::ops::{DType, OpError, TensorData, WeightType};

/// Bytes that are converted and uploaded at once.
const PIECE: usize = 16 << 20;

/// A matrix of weights.
#[derive(Debug)]
pub struct GpuMatrix<M> {
    pub(super) memory: M,
    /// Rows.
    pub(super) outputs: usize,
    /// Columns.
    pub(super) inputs: usize,
}

impl<M> GpuMatrix<M> {
    /// Converts the rows of `source` and uploads them, some at a time.
    pub(super) fn upload<D: Device<Memory = M>>(device: &D, source: &TensorData<'_>, half: Half) -> Result<Self, OpError> {
        let (outputs, inputs) = (source.rows(), source.cols());
        let row_bytes = inputs * 2;
        let memory = device.allocate(outputs * row_bytes, "weights")?;
        let rows_at_once = (PIECE / row_bytes.max(1)).max(1);
        let mut values = vec![0.0; inputs];
        let mut bytes = Vec::with_capacity(rows_at_once.min(outputs) * row_bytes);
        for first in (0..outputs).step_by(rows_at_once) {
            bytes.clear();
            for row in first..outputs.min(first + rows_at_once) {
                source.read(row, 0, &mut values);
                for &value in &values {
                    bytes.extend_from_slice(&rounded(half, value)?);
                }
            }
            device.upload(&bytes, At { memory: &memory, offset: first * row_bytes })?;
        }
        Ok(Self { memory, outputs, inputs })
    }
}

/// A weight in 16 bits; an error where it has none.
fn rounded(half: Half, value: f32) -> Result<[u8; 2], OpError> {
    let bytes = half.bytes(value);
    if half.value(bytes).is_infinite() {
        return Err(OpError::Range { value, stored: WeightType::Scalar(half.dtype()) });
    }
    Ok(bytes)
}

/// The 16-bit type of weights stored as said.
///
/// # Errors
/// [`OpError::Device`] for other types: the caller should have asked for these.
pub(super) fn half_of(stored: WeightType) -> Result<Half, OpError> {
    match stored {
        WeightType::Scalar(DType::Bf16) => Ok(Half::Bf16),
        WeightType::Scalar(DType::F16) => Ok(Half::F16),
        other => Err(OpError::Device(format!("weights in {other} are not computed with on a GPU: use bfloat16 or float16"))),
    }
}

impl From<DeviceError> for OpError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Memory { bytes, what } => Self::Allocation { bytes, what },
            other => Self::Device(other.to_string()),
        }
    }
}
