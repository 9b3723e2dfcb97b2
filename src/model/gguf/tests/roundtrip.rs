//! What was written is what is read: configuration, tensors in both orders of rows, tokenizer, and no half files.

use super::{Draft, MetaValue, open_bytes, tiny};
use crate::model::gguf::write::{NewTensor, write};
use crate::model::gguf::{GgufError, file_tensors, metadata_of};
use crate::model::openelm::OpenElmConfig;
use crate::model::{ModelFiles, ModelSource, TokenizerSource};
use crate::ops::DType;
use std::collections::BTreeMap;
use std::path::Path;

/// Tensors of a model with values that all differ.
fn values(config: &OpenElmConfig) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let value = |index: usize, i: usize| (index * 100_000 + i) as f32 * 0.5;
    let tensors = config.tensors().into_iter().enumerate();
    tensors
        .map(|(index, (name, shape, _))| {
            let n = shape.iter().product();
            (name, (shape, (0..n).map(|i| value(index, i)).collect()))
        })
        .collect()
}

fn write_values(path: &Path, config: &OpenElmConfig, values: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
    let plan = file_tensors(config).unwrap();
    let tensor = |t: &crate::model::gguf::FileTensor| NewTensor { name: t.name.clone(), shape: t.shape.clone(), stored: DType::F32.into() };
    let tensors: Vec<_> = plan.iter().map(tensor).collect();
    let metadata = metadata_of(config, "test", (None, None)).unwrap();
    write::<GgufError>(path, &metadata, &tensors, |index, out| {
        let (plan, cols) = (&plan[index], *plan[index].shape.last().unwrap());
        for row in 0..plan.rows() {
            let values = &values[&plan.source].1[plan.source_row(row) * cols..][..cols];
            out.write_all(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn models_of_both_architectures_are_read_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let untied = OpenElmConfig { tied_head: false, eos_token_ids: vec![2, 5], bos_token_id: None, ..tiny(false) };
    let odd = OpenElmConfig { rope_theta: 100_000.0, norm_eps: 1e-5, eos_token_ids: vec![7, 2, 3], ..tiny(true) };
    for config in [tiny(true), tiny(false), untied, odd] {
        let (path, values) = (folder.path().join("model.gguf"), values(&config));
        write_values(&path, &config, &values);
        let files = ModelFiles::open(&ModelSource::File(path), TokenizerSource::Model).unwrap();
        assert_eq!(files.config().unwrap(), config);
        assert!(files.tokenizer.is_none() && files.tokenizer_config.is_none());
        assert!(files.checkpoint.names().eq(values.keys().map(String::as_str)));
        for (name, (shape, wanted)) in &values {
            let tensor = files.checkpoint.get(name).unwrap().unwrap();
            assert_eq!(&tensor.shape, shape, "{name}");
            assert!(tensor.data().unwrap().to_f32() == *wanted, "{name}: other values");
        }
        assert!(files.checkpoint.get("none").unwrap().is_none());
        assert!(files.checkpoint.identity().is_some());
    }
}

#[test]
fn models_that_no_architecture_describes_are_not_written() {
    for (config, part) in [
        (OpenElmConfig { ffn_with_glu: false, ..tiny(true) }, "no gate"),
        (OpenElmConfig { tied_head: false, ..tiny(true) }, "head of its own"),
        (OpenElmConfig { rope_theta: 0.1, ..tiny(true) }, "no 32-bit float"),
        (OpenElmConfig { eos_token_ids: vec![1, 2, 3, 4], ..tiny(true) }, "at most 3"),
    ] {
        let message = metadata_of(&config, "x", (None, None)).expect_err(part).to_string();
        assert!(message.contains("cannot be written as GGUF") && message.contains(part), "{message}");
    }
}

#[test]
fn a_file_that_fails_leaves_nothing_behind_and_spoils_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, "before").unwrap();
    let draft = Draft::tiny();
    let failed = write::<GgufError>(&path, &draft.metadata, &draft.tensors, |_, out| Ok(out.write_all(b"four")?));
    assert!(matches!(failed, Err(GgufError::Length { found: 4, wanted: 1024, .. })), "{failed:?}");
    let failed = write::<GgufError>(&path, &draft.metadata, &draft.tensors, |_, _| Err(std::io::Error::other("full").into()));
    assert!(failed.unwrap_err().to_string().contains("full"));
    let odd = [NewTensor { name: "a".into(), shape: vec![33], stored: crate::ops::BlockFormat::Q8_0.into() }];
    assert!(write::<GgufError>(&path, &draft.metadata, &odd, |_, _| Ok(())).unwrap_err().to_string().contains("`a` of shape [33]"));
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_order_of_metadata_is_kept_and_data_lie_on_the_alignment() {
    let mut draft = Draft::tiny();
    draft.metadata.rotate_left(3);
    draft.set("general.quantization_version", MetaValue::U32(2));
    let bytes = draft.bytes();
    let place = |key: &str| bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap();
    assert!(draft.metadata.iter().map(|(key, _)| place(key)).is_sorted());
    assert!(bytes.len().is_multiple_of(32));
    assert_eq!(open_bytes(bytes).unwrap().config, tiny(true));
}

#[test]
fn a_directory_with_one_file_is_that_file() {
    let folder = tempfile::tempdir().unwrap();
    let open = || ModelFiles::open(&ModelSource::Directory(folder.path().to_path_buf()), TokenizerSource::Model);
    write_values(&folder.path().join("a.gguf"), &tiny(true), &values(&tiny(true)));
    assert!(open().unwrap().config.name().ends_with("a.gguf"));
    std::fs::write(folder.path().join("b.GGUF"), "").unwrap();
    assert!(open().unwrap_err().to_string().contains("holds no config.json"));
    let missing = ModelFiles::open(&ModelSource::File(folder.path().join("none.gguf")), TokenizerSource::Model).unwrap_err();
    assert!(missing.to_string().contains("none.gguf: cannot be read"), "{missing}");
    let empty = ModelFiles::open(&ModelSource::File(folder.path().join("b.GGUF")), TokenizerSource::Model).unwrap_err();
    assert!(empty.to_string().contains("empty"), "{empty}");
}
