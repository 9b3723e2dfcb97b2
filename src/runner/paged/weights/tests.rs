//! A start with packed weights is the start without them: the same fingerprint, the same bits.

use super::*;
use crate::model::openelm::Decoder;
use crate::model::{ModelFiles, ModelSource, TokenizerSource};
use crate::ops::DType;
use crate::ops::PackedBatch;
use crate::ops::cpu::{CpuBackend, CpuKernels};
use crate::runner::paged::{RunnerOptions, load};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const GOLDEN: [&str; 3] = ["tiny-hd64-gqa4", "tiny-hd32-gqa2", "tiny-hd64-gqa4-bf16"];

/// A copy of a golden checkpoint that has not changed lately.
fn copy(name: &str) -> TempDir {
    let (golden, copy) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name), TempDir::new().unwrap());
    for entry in std::fs::read_dir(golden).unwrap().map(Result::unwrap) {
        let to = copy.path().join(entry.file_name());
        std::fs::write(&to, std::fs::read(entry.path()).unwrap()).unwrap();
        settle(&to);
    }
    copy
}

fn settle(path: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
}

/// The small checkpoint with a head of its own.
fn untied() -> TempDir {
    use candle_core::{Device, safetensors};
    let model = copy(GOLDEN[0]);
    let (weights, config) = (model.path().join("model.safetensors"), model.path().join("config.json"));
    let mut tensors = safetensors::load(&weights, &Device::Cpu).unwrap();
    let head = (&tensors["transformer.token_embeddings.weight"] * 0.5).unwrap();
    tensors.insert("lm_head.weight".to_owned(), head);
    safetensors::save(&tensors, &weights).unwrap();
    settle(&weights);
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("\"share_input_output_layers\": true"));
    std::fs::write(config, text.replace("\"share_input_output_layers\": true", "\"share_input_output_layers\": false")).unwrap();
    model
}

/// What a start found and made.
#[derive(Clone, Debug, PartialEq)]
struct Start {
    hash: blake3::Hash,
    /// Bits of the logits of a prompt.
    logits: Vec<u32>,
}

/// Starts with the model and a cache; the second value is whether nothing was taken from the checkpoint.
fn start(model: &Path, dtype: DType, weight_cache: Option<&Path>) -> (Start, bool) {
    let files = ModelFiles::open(&ModelSource::Directory(model.to_path_buf()), TokenizerSource::Model).unwrap();
    let (backend, progress) = (CpuBackend::new(CpuKernels::Auto, 2).unwrap(), LoadProgress::default());
    let weights = Weights::find(&backend, &files.checkpoint, dtype.into(), Place { weight_cache, progress: &progress }).unwrap();
    let (hash, source) = (weights.hash, weights.source().unwrap());
    let decoder = Decoder::load(backend, files.config().unwrap(), &source, 256).unwrap();
    let taken = source.taken;
    let mapped = taken.as_ref().is_some_and(|taken| taken.borrow().from_checkpoint == 0);
    assert_eq!(mapped, progress.now().0 == LoadStage::Verifying, "what is mapped is not packed");
    if let Some(writer) = weights.keep(taken) {
        assert!(!mapped);
        writer.wait();
    }
    (Start { hash, logits: logits(&decoder) }, mapped)
}

fn logits(decoder: &Decoder<CpuBackend>) -> Vec<u32> {
    let tokens: Vec<u32> = (0..50).map(|i| 1 + i * 7 % 380).collect();
    let mut batch = PackedBatch::new(32);
    batch.push(&tokens, 0, [0, 1].into_iter());
    let mut pages = decoder.pages(2, 32, DType::F32.into()).unwrap();
    let mut workspace = decoder.workspace(tokens.len()).unwrap();
    decoder.forward(&batch, &mut pages, &mut workspace);
    let mut out = vec![0.0_f32; tokens.len() * decoder.config().vocab_size];
    decoder.logits(&mut workspace, &(0..50).collect::<Vec<u32>>(), &mut out);
    out.iter().map(|value| value.to_bits()).collect()
}

fn packed_files(cache: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "packed")).collect()
}

#[test]
fn the_second_start_maps_and_gives_the_same_bits() {
    for model in GOLDEN.map(copy).into_iter().chain([untied()]) {
        let cache = TempDir::new().unwrap();
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let (without, mapped) = start(model.path(), dtype, None);
            assert!(!mapped);
            for expected in [false, true, true] {
                let (with, mapped) = start(model.path(), dtype, Some(cache.path()));
                assert_eq!(mapped, expected, "{dtype}");
                assert!(with == without, "{dtype}: other bits or another hash");
            }
        }
        assert_eq!(packed_files(cache.path()).len(), 3, "one for each dtype");
    }
}

#[test]
fn the_fingerprint_is_the_same_with_and_without_a_cache() {
    let (model, cache) = (copy(GOLDEN[0]), TempDir::new().unwrap());
    let files = ModelFiles::open(&ModelSource::Directory(model.path().to_path_buf()), TokenizerSource::Model).unwrap();
    let with = RunnerOptions { weight_cache: Some(cache.path().to_path_buf()), ..RunnerOptions::default() };
    let info = |options: &RunnerOptions| load(&files, options).unwrap().1;
    let without = info(&RunnerOptions::default());
    assert_eq!([info(&with), info(&with)], [without.clone(), without]);
    assert_eq!(packed_files(cache.path()).len(), 1);
}

#[test]
fn a_damaged_file_is_made_anew() {
    let (model, cache) = (copy(GOLDEN[1]), TempDir::new().unwrap());
    let (first, _) = start(model.path(), DType::Bf16, Some(cache.path()));
    let [path] = packed_files(cache.path()).try_into().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let older = [&whole[..8], &[0; 4], &whole[12..]].concat();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 16;
    for bytes in [&whole[..whole.len() - 1], &[][..], b"foreign", &older, &flipped] {
        std::fs::write(&path, bytes).unwrap();
        let (again, mapped) = start(model.path(), DType::Bf16, Some(cache.path()));
        assert!(!mapped && again == first);
        assert!(std::fs::read(&path).unwrap() == whole, "written anew");
        assert!(start(model.path(), DType::Bf16, Some(cache.path())) == (again, true));
    }
}

#[test]
fn weights_changed_in_place_are_other_weights() {
    let (model, cache) = (copy(GOLDEN[0]), TempDir::new().unwrap());
    let (before, _) = start(model.path(), DType::Bf16, Some(cache.path()));
    assert!(start(model.path(), DType::Bf16, Some(cache.path())).1);
    let weights = model.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let count = bytes.len();
    bytes[count - 4..].copy_from_slice(&3.5_f32.to_le_bytes());
    std::fs::write(&weights, &bytes).unwrap();
    let (after, mapped) = start(model.path(), DType::Bf16, Some(cache.path()));
    assert!(!mapped && after.hash != before.hash && after.logits != before.logits);
    assert!(after == start(model.path(), DType::Bf16, None).0);
}

#[test]
fn an_unusable_cache_is_no_reason_not_to_serve() {
    let (model, directory) = (copy(GOLDEN[0]), TempDir::new().unwrap());
    let (without, _) = start(model.path(), DType::Bf16, None);
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for place in [file.as_path(), &file.join("below"), Path::new("/proc/self/fd"), Path::new("/proc/none/below")] {
        assert!(start(model.path(), DType::Bf16, Some(place)) == (without.clone(), false), "{}", place.display());
    }
}

#[test]
fn the_embedded_model_is_not_kept() {
    let cache = TempDir::new().unwrap();
    let files = ModelFiles::open(&ModelSource::Embedded, TokenizerSource::Model).unwrap();
    let options = RunnerOptions { weight_cache: Some(cache.path().to_path_buf()), ..RunnerOptions::default() };
    load(&files, &options).unwrap();
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
}
