//! A tensor as a checkpoint holds it: its shape, and the rows that lie below each other in it, each in their own format.
//!
//! [`super::checkpoint`] makes them; the decoder takes their values, the runner hashes their bytes. Nothing is read before that.

use super::gguf::TensorType;
use crate::ops::{DType, RowOrder, TensorData, TensorRows, WeightType};
use std::borrow::Cow;

/// A tensor of the checkpoint.
pub struct Tensor<'a> {
    /// The file it lies in.
    pub file: &'a str,
    /// Its shape.
    pub shape: Vec<usize>,
    parts: Vec<Rows<'a>>,
}

/// Some rows as they lie in the file.
pub(super) struct Rows<'a> {
    pub(super) kind: TensorType,
    /// Rows and columns; a vector is one row.
    pub(super) shape: (usize, usize),
    pub(super) order: RowOrder,
    pub(super) bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// Of one part, row after row.
    pub(super) fn plain(file: &'a str, shape: Vec<usize>, dtype: DType, bytes: &'a [u8]) -> Self {
        let matrix = match *shape.as_slice() {
            [rows, cols] => (rows, cols),
            [cols] => (1, cols),
            _ => (0, 0), // no matrix: its shape is refused before its values are asked for
        };
        let part = Rows { kind: TensorType::Direct(dtype.into()), shape: matrix, order: RowOrder::Plain, bytes };
        Self { file, shape, parts: vec![part] }
    }

    /// Of parts below each other, at least one.
    pub(super) fn stacked(file: &'a str, shape: Vec<usize>, parts: Vec<Rows<'a>>) -> Self {
        Self { file, shape, parts }
    }

    /// How its values are stored, as [`TensorData::stored`] would say. A format without kernels counts as the f32 it becomes.
    pub fn weight_type(&self) -> WeightType {
        WeightType::of_parts(self.parts.iter().map(|part| part.kind.weight_type()))
    }

    /// As a matrix; a vector is one row. `None` when its shape is neither.
    pub fn data(&self) -> Option<TensorData<'a>> {
        let rows = |part: &Rows<'a>| {
            let bytes = match part.kind {
                TensorType::Direct(_) => Cow::Borrowed(part.bytes),
                TensorType::Foreign(foreign) => Cow::Owned(foreign.to_f32(part.bytes, part.shape.1)?),
            };
            TensorRows::new(part.kind.weight_type(), part.shape, part.order, bytes)
        };
        let cols = self.parts.first()?.shape.1;
        TensorData::stacked(cols, self.parts.iter().map(rows).collect::<Option<_>>()?)
    }

    /// Bytes it takes in the file.
    pub fn byte_len(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Its bytes as stored, one slice a part.
    pub fn bytes(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.parts.iter().map(|part| part.bytes)
    }

    /// How its bytes become values, for hashing: equal texts and bytes are equal tensors.
    pub fn encoding(&self) -> String {
        let of_part = |part: &Rows<'_>| match part.order {
            RowOrder::Plain if self.parts.len() == 1 => part.kind.to_string(),
            RowOrder::Plain => format!("{} rows of {}", part.shape.0, part.kind),
            RowOrder::InterleavedHalves { head_dim } => format!("{} rows of {} in heads of {head_dim}", part.shape.0, part.kind),
        };
        self.parts.iter().map(of_part).collect::<Vec<_>>().join(", ")
    }
}
