//! How the weights of a model will be stored, and what they take: known from the headers of its files.

use crate::model::openelm::OpenElmConfig;
use crate::model::{LoadError, ModelFiles, Storage};
use crate::ops::{BlockFormat, DType, WeightType};

/// What the operator asks of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightOptions {
    /// How matrices of numbers are stored; `None` = 16-bit checkpoints as they are, F32 ones as bf16.
    pub dtype: Option<DType>,
    /// Blocks that matrices of numbers are quantised to.
    pub quantization: Option<BlockFormat>,
    /// Whether matrices that are blocks in the checkpoint stay what they are; else they become numbers, for what computes with those alone.
    pub keeps_blocks: bool,
}

impl Default for WeightOptions {
    /// As the checkpoint has them.
    fn default() -> Self {
        Self { dtype: None, quantization: None, keeps_blocks: true }
    }
}

/// How matrices are stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// What decides for each matrix.
    pub(super) storage: Storage,
    /// How the embedding lies in the checkpoint.
    pub(super) checkpoint_type: WeightType,
    /// Types of matrices, those with the most weights first.
    pub(super) types: Vec<WeightType>,
    /// Bytes of all weights.
    pub(super) bytes: u64,
    /// Matrices that stay numbers though blocks were asked for.
    pub(super) not_quantised: usize,
}

impl Plan {
    /// Looks at every tensor that `config` calls for. What is missing or of another shape is found when the weights are loaded.
    pub(super) fn new(files: &ModelFiles, config: &OpenElmConfig, options: WeightOptions) -> Result<Self, LoadError> {
        let checkpoint_type = files.checkpoint_type(config)?;
        let dtype = options.dtype.unwrap_or_else(|| Storage::dtype_of(checkpoint_type));
        let storage = Storage { quantization: options.quantization, keeps_blocks: options.keeps_blocks, ..dtype.into() };
        let mut plan = Self { storage, checkpoint_type, types: Vec::new(), bytes: 0, not_quantised: 0 };
        let mut weights: Vec<(WeightType, u64)> = Vec::new();
        let mut is_quantised = false;
        for (name, shape, _) in config.tensors() {
            let [rows, cols] = *shape else {
                plan.bytes += shape.iter().map(|&n| n as u64 * 4).sum::<u64>();
                continue;
            };
            let found = files.checkpoint.get(&name)?.map_or(checkpoint_type, |tensor| tensor.weight_type());
            let stored = storage.of(found, cols);
            plan.bytes += rows as u64 * stored.row_bytes(cols).unwrap_or(0) as u64;
            is_quantised |= matches!((found, stored), (WeightType::Scalar(_), WeightType::Blocks(_)));
            plan.not_quantised += usize::from(options.quantization.is_some() && matches!(stored, WeightType::Scalar(_)));
            match weights.iter_mut().find(|(known, _)| *known == stored) {
                Some((_, count)) => *count += (rows * cols) as u64,
                None => weights.push((stored, (rows * cols) as u64)),
            }
        }
        if !is_quantised {
            // What changes nothing must not change the fingerprint or the name of packed weights.
            plan.storage.quantization = None;
        }
        weights.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        plan.types = weights.into_iter().map(|(stored, _)| stored).collect();
        Ok(plan)
    }
}
