//! Formats of tensors: those that are computed with as they are, and those that become f32 when they are asked for.

use crate::ops::{BLOCK_VALUES, BlockFormat, DType, WeightType};
use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use std::borrow::Cow;

/// Names of ggml's types by number, for messages; empty where a number is not in use.
const NAMES: [&str; 40] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS",
    "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16", "", "", "",
    "TQ1_0", "TQ2_0", "", "", "", "MXFP4",
];

/// How the values of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorType {
    /// As products may read them.
    Direct(WeightType),
    /// In a format without kernels.
    Foreign(Foreign),
}

/// Formats that become f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    Q5_0,
    Q5_1,
    Q4K,
    Q5K,
    Q6K,
}

impl TensorType {
    /// The type with this number.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Direct(DType::F32.into()),
            1 => Self::Direct(DType::F16.into()),
            2 => Self::Direct(BlockFormat::Q4_0.into()),
            3 => Self::Direct(BlockFormat::Q4_1.into()),
            6 => Self::Foreign(Foreign::Q5_0),
            7 => Self::Foreign(Foreign::Q5_1),
            8 => Self::Direct(BlockFormat::Q8_0.into()),
            12 => Self::Foreign(Foreign::Q4K),
            13 => Self::Foreign(Foreign::Q5K),
            14 => Self::Foreign(Foreign::Q6K),
            30 => Self::Direct(DType::Bf16.into()),
            _ => return None,
        })
    }

    /// The number of a type that is written.
    pub(super) fn number_of(stored: WeightType) -> u32 {
        match stored {
            WeightType::Scalar(DType::F32) => 0,
            WeightType::Scalar(DType::F16) => 1,
            WeightType::Scalar(DType::Bf16) => 30,
            WeightType::Blocks(BlockFormat::Q4_0) => 2,
            WeightType::Blocks(BlockFormat::Q4_1) => 3,
            WeightType::Blocks(BlockFormat::Q8_0) => 8,
        }
    }

    /// The name of a number in parentheses, where it has one.
    pub(super) fn name_of(number: u32) -> String {
        match NAMES.get(number as usize) {
            Some(&name) if !name.is_empty() => format!(" ({name})"),
            _ => String::new(),
        }
    }

    /// Values of a block; 1 where values stand alone.
    pub(super) fn block_values(self) -> usize {
        match self {
            Self::Direct(WeightType::Scalar(_)) => 1,
            Self::Direct(WeightType::Blocks(_)) => BLOCK_VALUES,
            Self::Foreign(foreign) => foreign.ggml().block_size(),
        }
    }

    /// Bytes of a row of `values`; `None` when blocks do not divide them, or the number is too large.
    pub(super) fn row_bytes(self, values: usize) -> Option<usize> {
        match self {
            Self::Direct(stored) => stored.row_bytes(values),
            Self::Foreign(foreign) => {
                let ggml = foreign.ggml();
                values.is_multiple_of(ggml.block_size()).then(|| (values / ggml.block_size()).checked_mul(ggml.type_size()))?
            }
        }
    }

    /// What the values are once they are asked for.
    pub(crate) fn weight_type(self) -> WeightType {
        match self {
            Self::Direct(stored) => stored,
            Self::Foreign(_) => DType::F32.into(),
        }
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(stored) => stored.fmt(f),
            Self::Foreign(foreign) => f.write_str(match foreign {
                Foreign::Q5_0 => "q5_0",
                Foreign::Q5_1 => "q5_1",
                Foreign::Q4K => "q4_k",
                Foreign::Q5K => "q5_k",
                Foreign::Q6K => "q6_k",
            }),
        }
    }
}

/// Boundary that candle's blocks may need.
const ALIGNMENT: usize = 16;

impl Foreign {
    fn ggml(self) -> GgmlDType {
        match self {
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
        }
    }

    /// The values of rows of `cols`, as little-endian f32; `None` when the bytes are not whole rows.
    pub(crate) fn to_f32(self, bytes: &[u8], cols: usize) -> Option<Vec<u8>> {
        let stride = TensorType::Foreign(self).row_bytes(cols).filter(|&stride| stride > 0 && bytes.len().is_multiple_of(stride))?;
        let mut out = Vec::with_capacity((bytes.len() / stride).checked_mul(cols)?.checked_mul(4)?);
        // A row may lie on any boundary in the file, and candle takes blocks on their own only.
        let mut room = vec![0; stride + ALIGNMENT];
        let from = room.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        for row in bytes.chunks_exact(stride) {
            let aligned = &mut room[from..][..stride];
            aligned.copy_from_slice(row);
            let Ok(CpuStorage::F32(values)) = self.ggml().from_data(Cow::Borrowed(aligned)).dequantize(cols) else { return None };
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Some(out)
    }
}
