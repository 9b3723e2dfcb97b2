//! Dtypes and borrowed tensors, as a checkpoint gives them.

use half::{bf16, f16};

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE.
    F32,
    /// 16-bit brain float.
    Bf16,
    /// 16-bit IEEE.
    F16,
}

impl DType {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        })
    }
}

/// A matrix `[rows, cols]` as it lies in a checkpoint: row-major, little-endian, of any alignment.
#[derive(Clone, Copy, Debug)]
pub struct TensorData<'a> {
    dtype: DType,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl<'a> TensorData<'a> {
    /// Wraps `bytes`; `None` when their number is not `rows * cols` values of `dtype`.
    pub fn new(dtype: DType, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let wanted = rows.checked_mul(cols)?.checked_mul(dtype.bytes())?;
        (bytes.len() == wanted).then_some(Self { dtype, rows, cols, bytes })
    }

    /// How the values are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of rows (outputs of a linear layer).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs of a linear layer).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Widens values of one row, from column `from` on, to f32.
    pub fn read(&self, row: usize, from: usize, out: &mut [f32]) {
        let size = self.dtype.bytes();
        let bytes = &self.bytes[(row * self.cols + from) * size..][..out.len() * size];
        match self.dtype {
            DType::F32 => widen::<4>(bytes, out, f32::from_le_bytes),
            DType::Bf16 => widen::<2>(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            DType::F16 => widen::<2>(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        }
    }

    /// All values as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, out) in out.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.read(row, 0, out);
        }
        out
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = convert(*bytes);
    }
}
