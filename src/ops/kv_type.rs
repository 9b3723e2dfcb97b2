//! How keys and values are stored.

use super::DType;

/// How the keys and values of a layer are stored: as numbers, or in 8 bits with scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// Each value a number.
    Scalar(DType),
    /// Eight bits a value, from -127 to 127, and an f32 scale for every token and head, of K and of V: the largest magnitude among the
    /// `head_dim` values, divided by 127.
    Int8,
}

impl KvType {
    /// Bytes that K and V of one head keep of a token.
    pub fn head_bytes(self, head_dim: usize) -> usize {
        2 * match self {
            Self::Scalar(dtype) => head_dim * dtype.bytes(),
            Self::Int8 => head_dim + size_of::<f32>(),
        }
    }
}

impl From<DType> for KvType {
    fn from(dtype: DType) -> Self {
        Self::Scalar(dtype)
    }
}

impl std::fmt::Display for KvType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scalar(dtype) => dtype.fmt(f),
            Self::Int8 => f.write_str("int8"),
        }
    }
}
