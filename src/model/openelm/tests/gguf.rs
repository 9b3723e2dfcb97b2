//! The golden checkpoints through GGUF files: the same weights are the same logits, bit for bit.

use super::golden::{all_logits, open};
use crate::model::gguf::write::{NewTensor, write};
use crate::model::gguf::{FileTensor, GgufError, file_tensors, metadata_of};
use crate::model::{ModelFiles, ModelSource};
use crate::ops::cpu::{CpuBackend, CpuKernels};
use crate::ops::reference::ReferenceBackend;
use crate::ops::{Backend, BlockFormat, DType, WeightType};
use std::path::Path;

/// Writes a checkpoint of matrices and vectors as they are, or its matrices as `format`.
fn write_gguf(path: &Path, files: &ModelFiles, format: Option<BlockFormat>) {
    let config = files.config().unwrap();
    let plan = file_tensors(&config).unwrap();
    let stored = |source: &str, shape: &[usize]| match format {
        Some(format) if shape.len() == 2 => format.into(),
        _ => files.checkpoint.get(source).unwrap().unwrap().weight_type(),
    };
    let tensor = |t: &FileTensor| NewTensor { name: t.name.clone(), shape: t.shape.clone(), stored: stored(&t.source, &t.shape) };
    let tensors: Vec<_> = plan.iter().map(tensor).collect();
    let metadata = metadata_of(&config, "golden", (files.tokenizer.as_ref(), files.tokenizer_config.as_ref())).unwrap();
    write::<GgufError>(path, &metadata, &tensors, |index, out| {
        let plan = &plan[index];
        let tensor = files.checkpoint.get(&plan.source).unwrap().unwrap();
        let data = tensor.data().unwrap();
        for row in 0..plan.rows() {
            let row = plan.source_row(row);
            match tensors[index].stored {
                WeightType::Scalar(dtype) => {
                    let stride = data.cols() * dtype.bytes();
                    out.write_all(&tensor.bytes().next().unwrap()[row * stride..][..stride])?;
                }
                WeightType::Blocks(format) => {
                    let mut block = vec![0; format.bytes()];
                    for i in 0..data.cols() / 32 {
                        format.pack(&data.block(row, i, format), &mut block);
                        out.write_all(&block)?;
                    }
                }
            }
        }
        Ok(())
    })
    .unwrap();
}

fn bits(files: &ModelFiles, dtype: DType) -> Vec<u32> {
    bits_on(CpuBackend::new(CpuKernels::Portable, 2).unwrap(), files, dtype)
}

fn bits_on<B: Backend>(backend: B, files: &ModelFiles, dtype: DType) -> Vec<u32> {
    let ids: Vec<u32> = (0..48).map(|i| i * 7 % 300).collect();
    let logits = all_logits(backend, files, dtype, &[(&ids, ids.len())]);
    logits[0].iter().map(|value| value.to_bits()).collect()
}

#[test]
fn golden_checkpoints_give_the_same_bits_through_gguf() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tiny-hd64-gqa4", "tiny-hd32-gqa2", "tiny-hd64-gqa4-bf16"] {
        let original = open(name);
        let path = folder.path().join(format!("{name}.gguf"));
        write_gguf(&path, &original, None);
        let files = ModelFiles::open(&ModelSource::File(path), None).unwrap();
        assert_eq!(files.config().unwrap(), original.config().unwrap(), "{name}");
        for dtype in [DType::F32, DType::Bf16] {
            assert!(bits(&files, dtype) == bits(&original, dtype), "{name} {dtype}: other logits");
        }
    }
}

/// A checkpoint's values after a trip through a file of blocks, as f32.
fn write_widened(path: &Path, files: &ModelFiles) {
    let plan = file_tensors(&files.config().unwrap()).unwrap();
    let tensor = |t: &FileTensor| NewTensor { name: t.name.clone(), shape: t.shape.clone(), stored: DType::F32.into() };
    let metadata = metadata_of(&files.config().unwrap(), "golden", (None, None)).unwrap();
    write::<GgufError>(path, &metadata, &plan.iter().map(tensor).collect::<Vec<_>>(), |index, out| {
        let data = files.checkpoint.get(&plan[index].source).unwrap().unwrap().data().unwrap();
        let mut values = vec![0.0; data.cols()];
        for row in 0..plan[index].rows() {
            data.read(plan[index].source_row(row), 0, &mut values);
            out.write_all(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn quantised_files_are_the_values_of_their_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let open_file = |path: &Path| ModelFiles::open(&ModelSource::File(path.to_path_buf()), None).unwrap();
    let original = open("tiny-hd64-gqa4");
    for format in [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4_1] {
        let (blocks, widened) = (folder.path().join("blocks.gguf"), folder.path().join("widened.gguf"));
        write_gguf(&blocks, &original, Some(format));
        let files = open_file(&blocks);
        assert_eq!(files.checkpoint.get("transformer.layers.0.ffn.proj_1.weight").unwrap().unwrap().weight_type(), format.into());
        write_widened(&widened, &files);
        // The reference multiplies the values of blocks; other backends round activations too.
        let bits = |files: &ModelFiles| bits_on(ReferenceBackend, files, DType::F32);
        assert!(bits(&files) == bits(&open_file(&widened)), "{format}: other logits");
        assert!(bits(&files) != bits(&original), "{format}: nothing was quantised");
    }
}
