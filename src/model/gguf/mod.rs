//! GGUF files: llama.cpp's format of a model in one file, with weights, configuration and tokenizer.
//!
//! [`crate::model::files`] opens them. A file is untrusted: `open` takes any bytes and gives a model or an error that names what is wrong.
//! The parts in the order of reading: [`file`](self) its structure, `config` the model it describes, `tensors` where the model's tensors lie,
//! `tokenizer` its tokenizer as the JSON that everything else reads. [`mod@write`] makes such files.
//!
//! **Architecture invariant:** no memory is taken for a number that a file claims; what is taken is bounded by the bytes that are there.
//! Tensors stay where they lie until they are asked for.

mod config;
mod cursor;
mod error;
mod export;
mod file;
mod layout;
mod metadata;
mod tensors;
mod tokenizer;
mod types;
mod value;
pub mod write;

#[cfg(test)]
mod tests;

pub use error::GgufError;
pub use export::{FileTensor, file_tensors, metadata_of};
use tokenizer::TokenizerJson;
pub(crate) use types::TensorType;

use super::tensor::{Rows, Tensor};
use crate::model::openelm::OpenElmConfig;
use crate::ops::MappedFile;
use std::collections::BTreeMap;
use tensors::StoredTensor;

/// The bytes of a file.
pub(super) enum GgufBytes {
    /// Mapped.
    Mapped(MappedFile),
    /// In memory.
    Owned(Vec<u8>),
}

impl std::fmt::Debug for GgufBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GgufBytes({})", self.as_slice().len())
    }
}

impl GgufBytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.as_slice(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A model in one file.
#[derive(Debug)]
pub(super) struct GgufModel {
    pub(super) config: OpenElmConfig,
    /// `None` where the file has none.
    pub(super) tokenizer: Option<TokenizerJson>,
    pub(super) weights: GgufWeights,
}

/// The tensors of a file under the names of a Hugging Face checkpoint.
#[derive(Debug)]
pub(super) struct GgufWeights {
    bytes: GgufBytes,
    table: BTreeMap<String, StoredTensor>,
}

/// Reads a model. The tokenizer is read only if it is wanted: one of a kind that is not served can be replaced.
///
/// # Errors
/// The first thing that is wrong, with its key or tensor.
pub(super) fn open(bytes: GgufBytes, wants_tokenizer: bool) -> Result<GgufModel, GgufError> {
    let gguf = file::Gguf::parse(bytes.as_slice())?;
    let (architecture, config) = config::read(&gguf)?;
    let table = tensors::table(&gguf, &config, architecture)?;
    let tokenizer = if wants_tokenizer { tokenizer::read(&gguf)? } else { None };
    Ok(GgufModel { config, tokenizer, weights: GgufWeights { bytes, table } })
}

/// Reads a file in memory and every value in it: what fuzzers and tests of damaged files call.
///
/// # Errors
/// As for a file that is served.
pub fn exercise(bytes: Vec<u8>) -> Result<(), GgufError> {
    let model = open(GgufBytes::Owned(bytes), true)?;
    for name in model.weights.names() {
        std::hint::black_box(model.weights.get("", name).and_then(|tensor| Some(tensor.data()?.to_f32())));
    }
    Ok(())
}

impl GgufWeights {
    /// The names of all tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(String::as_str)
    }

    /// A tensor by its name; `file` is the file's, for messages.
    pub(super) fn get<'a>(&'a self, file: &'a str, name: &str) -> Option<Tensor<'a>> {
        let stored = self.table.get(name)?;
        let bytes = self.bytes.as_slice();
        let rows =
            |part: &tensors::StoredRows| Rows { kind: part.kind, shape: part.shape, order: part.order, bytes: &bytes[part.bytes.clone()] };
        Some(Tensor::stacked(file, stored.shape.clone(), stored.parts.iter().map(rows).collect()))
    }

    /// How many tensors are stored in which format, and which of these are widened since no kernel reads them, for the log.
    pub(super) fn formats(&self) -> String {
        let mut counts = BTreeMap::<String, usize>::new();
        for part in self.table.values().flat_map(|tensor| &tensor.parts) {
            let widened = if matches!(part.kind, TensorType::Foreign(_)) { ", widened" } else { "" };
            *counts.entry(format!("{}{widened}", part.kind)).or_default() += 1;
        }
        counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join("; ")
    }
}
