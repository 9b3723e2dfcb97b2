//! How the matrices of a model are stored in memory: what the operator chose, and what a checkpoint holds already.

use crate::ops::{BLOCK_VALUES, BlockFormat, DType, WeightType};

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Matrices of numbers, unless they are quantised.
    pub dtype: DType,
    /// Blocks that matrices of numbers are quantised to.
    pub quantization: Option<BlockFormat>,
    /// Whether matrices that are blocks in the checkpoint stay what they are; else their values are stored as those of others.
    pub keeps_blocks: bool,
}

impl From<DType> for Storage {
    fn from(dtype: DType) -> Self {
        Self { dtype, quantization: None, keeps_blocks: true }
    }
}

impl Storage {
    /// Every matrix as f32, also those that are blocks in the checkpoint.
    pub fn widened() -> Self {
        Self { keeps_blocks: false, ..DType::F32.into() }
    }

    /// How matrices of numbers are stored where the operator says nothing: 16-bit checkpoints as they are, f32 ones and what is beside blocks
    /// as bf16.
    pub fn dtype_of(checkpoint: WeightType) -> DType {
        match checkpoint {
            WeightType::Scalar(DType::F32) | WeightType::Blocks(_) => DType::Bf16,
            WeightType::Scalar(dtype) => dtype,
        }
    }

    /// How a matrix is stored whose rows have `cols` weights, `found` in the checkpoint. Rows that blocks do not divide stay numbers.
    pub fn of(&self, found: WeightType, cols: usize) -> WeightType {
        match (found, self.quantization) {
            (WeightType::Blocks(_), _) if self.keeps_blocks => found,
            (_, Some(format)) if cols.is_multiple_of(BLOCK_VALUES) => format.into(),
            _ => self.dtype.into(),
        }
    }
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.quantization {
            Some(format) => write!(f, "{format}-{}", self.dtype),
            None => self.dtype.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_quantised_where_blocks_divide_them_and_blocks_stay() {
        let plain = Storage::from(DType::Bf16);
        let quantised = Storage { quantization: Some(BlockFormat::Q4_0), ..plain };
        let (float, q8) = (WeightType::from(DType::F32), WeightType::from(BlockFormat::Q8_0));
        assert_eq!([plain.of(float, 64), plain.of(q8, 64)], [DType::Bf16.into(), q8]);
        assert_eq!(
            [quantised.of(float, 64), quantised.of(float, 65), quantised.of(q8, 64)],
            [BlockFormat::Q4_0.into(), DType::Bf16.into(), q8]
        );
        let widened = Storage { keeps_blocks: false, ..plain };
        assert_eq!(
            [widened.of(q8, 64), Storage { keeps_blocks: false, ..quantised }.of(q8, 64)],
            [DType::Bf16.into(), BlockFormat::Q4_0.into()]
        );
        assert_eq!([plain.to_string(), quantised.to_string()], ["bfloat16", "q4_0-bfloat16"]);
    }
}
