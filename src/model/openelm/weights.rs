//! Checks the tensors of a checkpoint against the config and hands them to a backend.

use super::config::OpenElmConfig;
use crate::model::LoadError;
use crate::model::checkpoint::{Checkpoint, Tensor};
use crate::ops::{Backend, DType, TensorData};

/// Reads tensors by name; only what the config calls for is ever asked.
pub(super) struct WeightReader<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) checkpoint: &'a Checkpoint,
    /// How matrices are stored.
    pub(super) dtype: DType,
}

impl<B: Backend> WeightReader<'_, B> {
    /// Takes over a matrix.
    pub(super) fn matrix(&self, name: &str) -> Result<B::Matrix, LoadError> {
        let (tensor, data) = self.read(name)?;
        let fail = |source| LoadError::Tensor { file: tensor.file.to_string(), tensor: name.to_string(), source };
        self.backend.matrix(&data, self.dtype).map_err(fail)
    }

    /// Takes over the fused projection `[gate | up]`.
    pub(super) fn gate_up_matrix(&self, name: &str) -> Result<B::Matrix, LoadError> {
        let (tensor, data) = self.read(name)?;
        let fail = |source| LoadError::Tensor { file: tensor.file.to_string(), tensor: name.to_string(), source };
        self.backend.gate_up_matrix(&data, self.dtype).map_err(fail)
    }

    /// Takes over gains; they stay f32.
    pub(super) fn vector(&self, name: &str) -> Result<B::Vector, LoadError> {
        Ok(self.backend.vector(&self.read(name)?.1.to_f32()))
    }

    fn read(&self, name: &str) -> Result<(Tensor<'_>, TensorData<'_>), LoadError> {
        let missing = || LoadError::MissingTensor { file: self.checkpoint.files(), tensor: name.to_string(), wanted: Vec::new() };
        let tensor = self.checkpoint.get(name)?.ok_or_else(missing)?;
        let data = tensor.data().ok_or_else(missing)?;
        Ok((tensor, data))
    }
}

/// Checks that the checkpoint holds exactly the tensors that the config calls for, with the right shapes and known dtypes.
///
/// # Errors
/// The first difference, naming file, tensor, what was found and what is right.
pub(super) fn check(config: &OpenElmConfig, checkpoint: &Checkpoint) -> Result<(), LoadError> {
    let wanted = config.tensors();
    for (name, shape, key) in &wanted {
        let Some(tensor) = checkpoint.get(name)? else {
            return Err(LoadError::MissingTensor { file: checkpoint.files(), tensor: name.clone(), wanted: shape.clone() });
        };
        if tensor.shape != *shape {
            return Err(LoadError::Shape {
                file: tensor.file.to_string(),
                tensor: name.clone(),
                found: tensor.shape,
                wanted: shape.clone(),
                key: (*key).to_string(),
            });
        }
    }
    let known: std::collections::BTreeSet<&str> = wanted.iter().map(|(name, _, _)| name.as_str()).collect();
    let surplus: Vec<&str> = checkpoint.names().filter(|name| !known.contains(name)).collect();
    let Some(&first) = surplus.first() else { return Ok(()) };
    Err(LoadError::SurplusTensor {
        file: checkpoint.file_of(first).unwrap_or_default().to_string(),
        tensor: first.to_string(),
        count: surplus.len(),
        hint: hint(first, config),
    })
}

fn hint(tensor: &str, config: &OpenElmConfig) -> &'static str {
    if tensor == "lm_head.weight" {
        "set share_input_output_layers to false, or remove the tensor"
    } else if !config.normalize_qk && (tensor.contains("q_norm") || tensor.contains("k_norm")) {
        "set normalize_qk_projections to true"
    } else {
        "check num_transformer_layers and that config.json belongs to this checkpoint"
    }
}
