//! Files made by the writer, and what reading makes of them, whole and damaged.

mod damaged;
mod formats;
mod roundtrip;
mod structure;
mod tokenizer;

use super::write::{MetaValue, Metadata, NewTensor, write};
use super::{GgufBytes, GgufError, GgufModel, file_tensors, metadata_of, open};
use crate::model::openelm::{LayerShape, OpenElmConfig};
use crate::ops::{DType, WeightType};

/// A model of two layers that differ.
fn tiny(normalize_qk: bool) -> OpenElmConfig {
    OpenElmConfig {
        model_dim: 32,
        head_dim: 16,
        vocab_size: 8,
        max_context_length: 64,
        rope_theta: 10_000.0,
        norm_eps: 1e-6,
        normalize_qk,
        ffn_with_glu: true,
        tied_head: true,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        layers: vec![LayerShape { q_heads: 2, kv_heads: 1, ffn_dim: 32 }, LayerShape { q_heads: 4, kv_heads: 2, ffn_dim: 64 }],
    }
}

/// Metadata and tensors, to be changed before they are written.
struct Draft {
    metadata: Metadata,
    tensors: Vec<NewTensor>,
}

impl Draft {
    fn of(config: &OpenElmConfig) -> Self {
        let stored = WeightType::from(DType::F32);
        let tensors = file_tensors(config).unwrap().into_iter();
        let tensors = tensors.map(|tensor| NewTensor { name: tensor.name, shape: tensor.shape, stored }).collect();
        Self { metadata: metadata_of(config, "tiny", (None, None)).unwrap(), tensors }
    }

    fn tiny() -> Self {
        Self::of(&tiny(true))
    }

    /// Replaces or adds a key.
    fn set(&mut self, key: &str, value: MetaValue) -> &mut Self {
        match self.metadata.iter_mut().find(|(name, _)| name == key) {
            Some(entry) => entry.1 = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
        self
    }

    fn remove(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(name, _)| name != key);
        self
    }

    fn tensor(&mut self, name: &str) -> &mut NewTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// The file, all values 0.25.
    fn bytes(&self) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write::<GgufError>(&path, &self.metadata, &self.tensors, |index, out| {
            let bytes = self.tensors[index].bytes().unwrap() as usize;
            Ok(out.write_all(&0.25_f32.to_le_bytes().repeat(bytes.div_ceil(4))[..bytes])?)
        })
        .unwrap();
        std::fs::read(&path).unwrap()
    }

    fn open(&self) -> Result<GgufModel, GgufError> {
        open_bytes(self.bytes())
    }
}

fn open_bytes(bytes: Vec<u8>) -> Result<GgufModel, GgufError> {
    open(GgufBytes::Owned(bytes), true)
}

/// The message of a refusal, which must have all of `parts`.
#[track_caller]
fn refused(result: Result<GgufModel, GgufError>, parts: &[&str]) {
    let message = result.expect_err("must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn text(value: &str) -> MetaValue {
    MetaValue::Text(value.to_owned())
}

fn texts(values: &[&str]) -> MetaValue {
    MetaValue::Texts(values.iter().map(|value| (*value).to_owned()).collect())
}
