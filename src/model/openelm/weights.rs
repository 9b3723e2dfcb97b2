//! Checks the tensors of a checkpoint against the config and hands them to a backend, arranged already where that was kept.

use super::config::OpenElmConfig;
use crate::model::checkpoint::Checkpoint;
use crate::model::weight_cache::{PackedFile, PackedTensor};
use crate::model::{LoadError, LoadProgress, Storage, Tensor};
use crate::ops::{Backend, DType, MatrixRows, OpError, TensorData};
use std::cell::RefCell;

/// Where weights come from and what is noted while they are taken over.
pub struct WeightSource<'a> {
    /// The tensors as they were published.
    pub checkpoint: &'a Checkpoint,
    /// How matrices are stored.
    pub storage: Storage,
    /// The same tensors as the backend arranges them; what is not in it is taken from the checkpoint.
    pub packed: Option<&'a PackedFile>,
    /// Moved by the bytes taken from the checkpoint.
    pub progress: &'a LoadProgress,
    /// What the backend arranged, and whether any of it came from the checkpoint. `None` notes nothing.
    pub taken: Option<RefCell<Taken>>,
}

/// The weights that were taken over, as they can be kept.
#[derive(Debug, Default)]
pub struct Taken {
    /// All of them, in the order of loading. They share the memory of the model.
    pub tensors: Vec<PackedTensor>,
    /// How many came from the checkpoint.
    pub from_checkpoint: usize,
}

/// Reads tensors by name; only what the config calls for is ever asked.
pub(super) struct WeightReader<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) source: &'a WeightSource<'a>,
}

impl<B: Backend> WeightReader<'_, B> {
    /// Takes over a matrix.
    pub(super) fn matrix(&self, name: &str, rows: MatrixRows) -> Result<B::Matrix, LoadError> {
        let (tensor, data) = self.read(name)?;
        let shape = (data.rows(), data.cols());
        let stored = self.source.storage.of(data.stored(), data.cols());
        let packed = self.source.packed.and_then(|file| file.matrix(name, shape));
        let packed = packed.and_then(|bytes| self.backend.matrix_from_packed(shape, rows, stored, &bytes));
        let from_checkpoint = packed.is_none();
        let matrix = match packed {
            Some(matrix) => matrix,
            None => {
                let fail = |source| LoadError::Tensor { file: tensor.file.to_string(), tensor: name.to_string(), source };
                self.backend.matrix(&data, rows, stored).map_err(fail)?
            }
        };
        self.note(&tensor, from_checkpoint, || Some(PackedTensor::matrix(name, shape, self.backend.packed_bytes(&matrix)?)));
        Ok(matrix)
    }

    /// Takes over gains; they stay f32.
    pub(super) fn vector(&self, name: &str) -> Result<B::Vector, LoadError> {
        let (tensor, data) = self.read(name)?;
        let packed = self.source.packed.and_then(|file| file.vector(name, data.cols()));
        let from_checkpoint = packed.is_none();
        let values = packed.unwrap_or_else(|| data.to_f32());
        if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
            let source = OpError::Range { value, stored: DType::F32.into() };
            return Err(LoadError::Tensor { file: tensor.file.to_string(), tensor: name.to_string(), source });
        }
        self.note(&tensor, from_checkpoint, || Some(PackedTensor::vector(name, &values)));
        let fail = |source| LoadError::Tensor { file: tensor.file.to_string(), tensor: name.to_string(), source };
        self.backend.vector(&values).map_err(fail)
    }

    fn note(&self, tensor: &Tensor<'_>, from_checkpoint: bool, packed: impl FnOnce() -> Option<PackedTensor>) {
        if from_checkpoint {
            self.source.progress.add(tensor.byte_len());
        }
        if let Some(taken) = &self.source.taken {
            let mut taken = taken.borrow_mut();
            taken.tensors.extend(packed());
            taken.from_checkpoint += usize::from(from_checkpoint);
        }
    }

    fn read(&self, name: &str) -> Result<(Tensor<'_>, TensorData<'_>), LoadError> {
        let checkpoint = self.source.checkpoint;
        let missing = || LoadError::MissingTensor { file: checkpoint.files(), tensor: name.to_string(), wanted: Vec::new() };
        let tensor = checkpoint.get(name)?.ok_or_else(missing)?;
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
