//! Bad checkpoints: each refusal names the file, the tensor or key, what was found and what would be right.

use super::golden::golden_dir;
use crate::model::{LoadError, ModelFiles, ModelSource, TokenizerSource};
use crate::runner::paged::{RunnerOptions, WeightOptions, load};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// A copy of the small golden checkpoint, to be damaged.
fn copy(name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in std::fs::read_dir(golden_dir(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "golden.json" {
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    dir
}

fn try_load(dir: &Path) -> Result<(), LoadError> {
    let files = ModelFiles::open(&ModelSource::Directory(dir.to_path_buf()), TokenizerSource::Model)?;
    load(&files, &RunnerOptions::default()).map(|_| ())
}

/// The refusal's text, which must contain all of `parts`.
fn refused(dir: &Path, parts: &[&str]) {
    let message = try_load(dir).expect_err("must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn edit_config(dir: &Path, edit: impl Fn(&mut Value)) {
    edit_json(&dir.join("config.json"), edit);
}

fn edit_json(path: &Path, edit: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Rewrites the header of a safetensors file; the data stay.
fn edit_header(path: &Path, edit: impl Fn(&mut Value)) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out.extend(&bytes[8 + length..]);
    std::fs::write(path, out).unwrap();
}

const SMALL: &str = "tiny-hd64-gqa4";
const SHARDED: &str = "tiny-hd64-gqa4-bf16";

#[test]
fn the_undamaged_copies_load() {
    for name in [SMALL, SHARDED] {
        try_load(copy(name).path()).unwrap();
    }
}

#[test]
fn a_path_that_is_no_model_is_refused() {
    let dir = TempDir::new().unwrap();
    refused(&dir.path().join("nowhere"), &["nowhere", "does not exist"]);
    refused(dir.path(), &["config.json"]);
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    refused(dir.path(), &["model.safetensors"]);
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let dir = copy(SMALL);
    edit_config(dir.path(), |c| c["share_input_output_layers"] = json!(false));
    refused(dir.path(), &["model.safetensors", "`lm_head.weight` is missing", "[384, 128]"]);
}

#[test]
fn a_surplus_tensor_is_named() {
    let dir = copy(SMALL);
    edit_config(dir.path(), |c| c["normalize_qk_projections"] = json!(false));
    refused(dir.path(), &["transformer.layers.0.attn.k_norm.weight", "6 such", "normalize_qk_projections"]);
    let dir = copy(SMALL);
    edit_config(dir.path(), |c| {
        c["num_transformer_layers"] = json!(2);
        for key in ["num_query_heads", "num_kv_heads", "ffn_multipliers"] {
            c[key].as_array_mut().unwrap().pop();
        }
    });
    refused(dir.path(), &["transformer.layers.2.attn.k_norm.weight", "num_transformer_layers"]);
}

#[test]
fn a_wrong_shape_names_the_keys_it_follows_from() {
    let dir = copy(SMALL);
    edit_config(dir.path(), |c| c["num_query_heads"][1] = json!(4));
    refused(dir.path(), &["transformer.layers.1.attn.qkv_proj.weight", "[768, 128]", "[512, 128]", "num_query_heads"]);
    let dir = copy(SMALL);
    edit_config(dir.path(), |c| c["vocab_size"] = json!(500));
    refused(dir.path(), &["token_embeddings", "[384, 128]", "[500, 128]", "vocab_size"]);
}

#[test]
fn a_dtype_that_is_not_served_is_named() {
    let dir = copy(SMALL);
    for dtype in ["I32", "F8_E4M3", "F64"] {
        edit_header(&dir.path().join("model.safetensors"), |h| h["transformer.norm.weight"]["dtype"] = json!(dtype));
        refused(dir.path(), &["model.safetensors", "transformer.norm.weight", dtype, "BF16"]);
    }
}

#[test]
fn a_truncated_file_is_named() {
    let dir = copy(SMALL);
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        refused(dir.path(), &["model.safetensors", &format!("it has {length} bytes"), "is the download complete?"]);
    }
    refused(dir.path(), &[&format!("where {} are called for", bytes.len())]);
    std::fs::write(&path, [&bytes[..], b"surplus"].concat()).unwrap();
    refused(dir.path(), &["model.safetensors", "not a valid safetensors file"]);
    std::fs::write(&path, [u64::MAX.to_le_bytes().as_slice(), &bytes[8..]].concat()).unwrap();
    refused(dir.path(), &["model.safetensors", "not a valid safetensors file"]);
}

#[test]
fn a_missing_shard_is_named() {
    let dir = copy(SHARDED);
    std::fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    refused(dir.path(), &["model.safetensors.index.json", "model-00002-of-00002.safetensors"]);
}

#[test]
fn a_bad_index_is_refused() {
    let index = "model.safetensors.index.json";
    for (value, part) in [(json!({}), "weight_map"), (json!({"weight_map": {}}), "empty"), (json!({"weight_map": {"a": 1}}), "a file name")]
    {
        let dir = copy(SHARDED);
        edit_json(&dir.path().join(index), |v| *v = value.clone());
        refused(dir.path(), &[index, part]);
    }
    let dir = copy(SHARDED);
    edit_json(&dir.path().join(index), |v| v["weight_map"]["transformer.norm.weight"] = json!("../secret.safetensors"));
    refused(dir.path(), &["without folders"]);
}

#[test]
fn options_that_do_not_fit_the_model_are_refused() {
    let files = ModelFiles::open(&ModelSource::Directory(golden_dir(SMALL)), TokenizerSource::Model).unwrap();
    let cases = [
        (RunnerOptions { block_size: 16, ..RunnerOptions::default() }, "--block-size is 16"),
        (RunnerOptions { max_num_batched_tokens: 0, ..RunnerOptions::default() }, "--max-num-batched-tokens"),
        (RunnerOptions { max_model_len: Some(1 << 30), ..RunnerOptions::default() }, "--max-model-len"),
        (RunnerOptions { memory_bytes: 1000, ..RunnerOptions::default() }, "1000 are there"),
        (RunnerOptions { kv_cache_memory_bytes: Some(1000), ..RunnerOptions::default() }, "--kv-cache-memory-bytes"),
    ];
    for (options, part) in cases {
        let message = load(&files, &options).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn every_16_and_32_bit_dtype_loads_in_every_other() {
    use crate::ops::DType;
    for name in [SMALL, SHARDED] {
        let files = ModelFiles::open(&ModelSource::Directory(golden_dir(name)), TokenizerSource::Model).unwrap();
        let (_, auto) = load(&files, &RunnerOptions::default()).unwrap();
        assert_eq!((auto.weights(), auto.kv_cache_dtype), ("bfloat16".to_string(), DType::Bf16.into()), "auto lowers F32 and keeps bf16");
        let mut fingerprints = vec![auto.fingerprint];
        for dtype in [DType::F32, DType::F16] {
            let weights = WeightOptions { dtype: Some(dtype), quantization: None, keeps_blocks: true };
            let options = RunnerOptions { weights, kv_cache_dtype: Some(DType::F32.into()), ..RunnerOptions::default() };
            fingerprints.push(load(&files, &options).unwrap().1.fingerprint);
        }
        fingerprints.dedup();
        assert_eq!(fingerprints.len(), 3, "what changes answers changes the fingerprint");
    }
}
