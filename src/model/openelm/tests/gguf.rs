//! The golden checkpoints through GGUF files: the same weights are the same logits, bit for bit.

use super::golden::{all_logits, open};
use crate::model::quantize::{QuantizeOptions, quantize};
use crate::model::{ModelFiles, ModelSource, TokenizerSource};
use crate::ops::cpu::{CpuBackend, CpuKernels};
use crate::ops::reference::ReferenceBackend;
use crate::ops::{Backend, BlockFormat, DType, WeightType};
use std::path::Path;

/// Writes a checkpoint with its matrices as `stored`, by the plain rule.
fn write(path: &Path, files: &ModelFiles, stored: WeightType) {
    quantize(files, (path, "golden"), QuantizeOptions { stored, search: false, threads: 2, calibration: None }, |_, _| {}).unwrap();
}

fn bits(files: &ModelFiles, dtype: DType) -> Vec<u32> {
    bits_on(CpuBackend::new(CpuKernels::Portable, 2).unwrap(), files, dtype)
}

fn bits_on<B: Backend>(backend: B, files: &ModelFiles, dtype: DType) -> Vec<u32> {
    let ids: Vec<u32> = (0..48).map(|i| i * 7 % 300).collect();
    let logits = all_logits(backend, files, (dtype, dtype), &[(&ids, ids.len())]);
    logits[0].iter().map(|value| value.to_bits()).collect()
}

#[test]
fn golden_checkpoints_give_the_same_bits_through_gguf() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tiny-hd64-gqa4", "tiny-hd32-gqa2", "tiny-hd64-gqa4-bf16"] {
        let original = open(name);
        let path = folder.path().join(format!("{name}.gguf"));
        let embedding = original.checkpoint.get("transformer.token_embeddings.weight").unwrap().unwrap();
        write(&path, &original, embedding.weight_type());
        let files = ModelFiles::open(&ModelSource::File(path), TokenizerSource::Model).unwrap();
        assert_eq!(files.config().unwrap(), original.config().unwrap(), "{name}");
        for dtype in [DType::F32, DType::Bf16] {
            assert!(bits(&files, dtype) == bits(&original, dtype), "{name} {dtype}: other logits");
        }
    }
}

#[test]
fn quantised_files_are_the_values_of_their_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let open_file = |path: &Path| ModelFiles::open(&ModelSource::File(path.to_path_buf()), TokenizerSource::Model).unwrap();
    let original = open("tiny-hd64-gqa4");
    for format in [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4_1] {
        let (blocks, widened) = (folder.path().join("blocks.gguf"), folder.path().join("widened.gguf"));
        write(&blocks, &original, format.into());
        let files = open_file(&blocks);
        assert_eq!(files.checkpoint.get("transformer.layers.0.ffn.proj_1.weight").unwrap().unwrap().weight_type(), format.into());
        write(&widened, &files, DType::F32.into());
        // The reference multiplies the values of blocks; other backends round activations too.
        let bits = |files: &ModelFiles| bits_on(ReferenceBackend, files, DType::F32);
        assert!(bits(&files) == bits(&open_file(&widened)), "{format}: other logits");
        assert!(bits(&files) != bits(&original), "{format}: nothing was quantised");
    }
}
