//! The tensors of a file under the names of a Hugging Face checkpoint, each with the places it is put together from.

use super::GgufError;
use super::file::Gguf;
use super::layout::{Architecture, Part, stacks};
use super::types::TensorType;
use crate::model::openelm::OpenElmConfig;
use crate::ops::RowOrder;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A tensor of the model.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    /// Its shape.
    pub(crate) shape: Vec<usize>,
    /// What lies below each other in it.
    pub(crate) parts: Vec<StoredRows>,
}

/// Some of its rows.
#[derive(Clone, Debug)]
pub(crate) struct StoredRows {
    pub(crate) kind: TensorType,
    /// Rows and columns; a vector is one row.
    pub(crate) shape: (usize, usize),
    pub(crate) order: RowOrder,
    /// Where they lie in the file.
    pub(crate) bytes: Range<usize>,
}

/// Finds every tensor that `config` calls for; there must be no others.
///
/// # Errors
/// The first one that is missing, of another shape, or not part of the model.
pub(super) fn table(
    gguf: &Gguf<'_>,
    config: &OpenElmConfig,
    architecture: Architecture,
) -> Result<BTreeMap<String, StoredTensor>, GgufError> {
    let mut surplus: BTreeSet<&str> = gguf.tensors.keys().copied().collect();
    let mut table = BTreeMap::new();
    for stack in stacks(config, architecture) {
        let parts = stack.parts.iter().map(|part| find(gguf, part)).collect::<Result<_, _>>()?;
        stack.parts.iter().for_each(|part| _ = surplus.remove(part.name.as_str()));
        table.insert(stack.name.clone(), StoredTensor { shape: stack.shape(), parts });
    }
    match surplus.first() {
        None => Ok(table),
        Some(first) => {
            Err(GgufError::SurplusTensor { tensor: super::error::show(first), count: surplus.len(), hint: hint(first, architecture) })
        }
    }
}

fn find(gguf: &Gguf<'_>, part: &Part) -> Result<StoredRows, GgufError> {
    let Part { name, shape, order, keys } = part;
    let missing = || GgufError::MissingTensor { tensor: name.clone(), wanted: shape.clone() };
    let entry = gguf.tensors.get(name.as_str()).ok_or_else(missing)?;
    if entry.shape != *shape {
        return Err(GgufError::Shape { tensor: name.clone(), found: entry.shape.clone(), wanted: shape.clone(), keys });
    }
    let shape = if let [rows, cols] = *shape.as_slice() { (rows, cols) } else { (1, shape[0]) };
    Ok(StoredRows { kind: entry.kind, shape, order: *order, bytes: entry.bytes.clone() })
}

fn hint(tensor: &str, architecture: Architecture) -> &'static str {
    if tensor.ends_with(".bias") {
        "biases are not computed"
    } else if tensor.starts_with("rope_") {
        "scaled rotary frequencies are not computed"
    } else if tensor.contains("_exps") || tensor.contains("ffn_gate_inp") {
        "experts are not computed"
    } else if architecture == Architecture::Llama && (tensor.contains("attn_q_norm") || tensor.contains("attn_k_norm")) {
        "norms of queries and keys are served for the architecture openelm only"
    } else {
        "check block_count and that the file is of one of the architectures openelm and llama"
    }
}
