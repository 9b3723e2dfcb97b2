//! Files of the golden checkpoints in other types: they load, and compute what the checkpoint itself gives when it is quantised at load.

use super::*;
use crate::kv_cache::BlockId;
use crate::model::openelm::OpenElmConfig;
use crate::model::{Document, ModelSource, TokenizerSource};
use crate::ops::cpu::{CpuBackend, CpuKernels};
use crate::runner::paged::{RunnerOptions, WeightOptions, load};
use crate::runner::{ModelRunner as _, ScoreSpec, SequenceSlice, StepBatch};
use std::path::PathBuf;
use tempfile::TempDir;

fn golden(name: &str) -> ModelFiles {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    ModelFiles::open(&ModelSource::Directory(path), TokenizerSource::Model).unwrap()
}

fn written(files: &ModelFiles, stored: impl Into<WeightType>, search: bool) -> (TempDir, ModelFiles, Vec<QuantizedTensor>) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("model.gguf");
    let options = QuantizeOptions { stored: stored.into(), search, threads: 3, calibration: None };
    let mut told = 0;
    let tensors = quantize(files, (&path, "test"), options, |_, total| told += usize::from(total > 0)).unwrap();
    assert_eq!(told, tensors.len());
    (folder, ModelFiles::open(&ModelSource::File(path), TokenizerSource::Model).unwrap(), tensors)
}

/// Log-probabilities of a sequence, as bits.
fn scores(files: &ModelFiles, weights: WeightOptions) -> Vec<u32> {
    let (mut runner, _) = load(files, &RunnerOptions { weights, max_num_batched_tokens: 64, ..RunnerOptions::default() }).unwrap();
    let tokens: Vec<u32> = (0..48).map(|i| 1 + i * 7 % 380).collect();
    let blocks = [BlockId(0), BlockId(1)];
    let score = ScoreSpec { targets: &tokens[1..], top_n: 3 };
    let slice = SequenceSlice { tokens: &tokens, follows: None, start: 0, block_table: &blocks, sample: None, score: Some(score) };
    let outputs = runner.step(&StepBatch { sequences: vec![slice], new_blocks: &[] }).unwrap();
    outputs[0].scores.iter().map(|score| score.chosen.logprob.to_bits()).collect()
}

#[test]
fn a_file_gives_the_bits_of_the_checkpoint_quantised_at_load() {
    for name in ["tiny-hd64-gqa4", "tiny-hd64-gqa4-bf16"] {
        let files = golden(name);
        for format in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
            let (_folder, file, _) = written(&files, format, false);
            let at_load = scores(&files, WeightOptions { quantization: Some(format), ..WeightOptions::default() });
            assert_eq!(scores(&file, WeightOptions::default()), at_load, "{name} {format}");
        }
        let bf16 = WeightOptions { dtype: Some(DType::Bf16), quantization: None, keeps_blocks: true };
        let (_folder, file, _) = written(&files, DType::Bf16, false);
        assert_eq!(scores(&file, bf16), scores(&files, bf16), "{name} bf16");
    }
}

#[test]
fn the_template_and_the_ends_of_texts_are_those_of_the_server() {
    let mut files = ModelFiles::open(&ModelSource::Embedded, TokenizerSource::Model).unwrap();
    let document = |text: &str| Document { name: "x".to_owned(), bytes: text.as_bytes().to_vec().into() };
    files.chat_template = Some(document("{{ messages }}"));
    files.generation_config = Some(document("{\"eos_token_id\": [2, 7]}"));
    let (_folder, file, _) = written(&files, BlockFormat::Q8_0, false);
    assert_eq!(file.config().unwrap(), OpenElmConfig { eos_token_ids: vec![2, 7], ..files.config().unwrap() });
    let config = String::from_utf8(file.tokenizer_config.unwrap().bytes.into_owned()).unwrap();
    assert!(config.contains("{{ messages }}"), "{config}");
}

#[test]
fn a_weight_that_is_no_number_shows() {
    let bytes: Vec<u8> = [f32::NAN; 64].iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = TensorData::new(DType::F32, 1, 64, &bytes).unwrap();
    for stored in [WeightType::from(BlockFormat::Q8_0), BlockFormat::Q4_0.into(), DType::Bf16.into()] {
        let mut encoded = Encoded::default();
        let options = QuantizeOptions { stored, search: true, threads: 1, calibration: None };
        encoded.add_row(&tensor, 0, &Rule::new("x", &tensor, (stored, options, &mut None)));
        assert!(encoded.beyond.is_some_and(f32::is_nan), "{stored}");
    }
}

#[test]
fn searched_scales_lose_less_at_the_same_size() {
    let files = golden("tiny-hd64-gqa4");
    let (_folder, _, plain) = written(&files, BlockFormat::Q4_0, false);
    let (_folder, searched_file, searched) = written(&files, BlockFormat::Q4_0, true);
    for (plain, searched) in plain.iter().zip(&searched) {
        assert_eq!((&plain.name, plain.bytes, plain.stored), (&searched.name, searched.bytes, searched.stored));
        assert!(searched.relative_error <= plain.relative_error, "{}", plain.name);
    }
    let of = |tensors: &[QuantizedTensor]| tensors.iter().map(|tensor| tensor.relative_error).sum::<f64>();
    assert!(of(&searched) < 0.95 * of(&plain), "{} of {}", of(&searched), of(&plain));
    assert_eq!(scores(&searched_file, WeightOptions::default()).len(), 47);
}

#[test]
fn blocks_of_a_file_are_copied_and_what_they_do_not_divide_stays_f32() {
    let (_first, file, tensors) = written(&golden("tiny-hd32-gqa2"), BlockFormat::Q4_0, true);
    assert!(tensors.iter().any(|tensor| tensor.name.ends_with("ffn_down.weight") && tensor.stored == DType::Bf16.into()));
    assert!(tensors.iter().all(|tensor| tensor.stored != DType::F32.into() || tensor.relative_error == 0.0));
    let (_second, again, copied) = written(&file, BlockFormat::Q4_0, true);
    assert!(copied.iter().all(|tensor| tensor.relative_error == 0.0));
    assert_eq!(scores(&again, WeightOptions::default()), scores(&file, WeightOptions::default()));
}

/// Texts of 40 tokens.
fn windows() -> Vec<Vec<u32>> {
    (0..3).map(|window| (0..40).map(|i| 3 + (i * 7 + window) % 300).collect()).collect()
}

fn calibrated(files: &ModelFiles, threads: usize, windows: &[Vec<u32>]) -> Calibration {
    let backend = CpuBackend::new(CpuKernels::Portable, threads).unwrap();
    let mut told = Vec::new();
    let calibration = Calibration::measure(files, backend, (windows, 64), |done| told.push(done)).unwrap();
    assert_eq!(told, (1..=windows.len()).collect::<Vec<_>>());
    calibration
}

#[test]
fn calibration_measures_the_inputs_of_every_matrix() {
    let files = golden("tiny-hd64-gqa4");
    let config = files.config().unwrap();
    let calibration = calibrated(&files, 1, &windows());
    for (name, shape, _) in config.tensors().into_iter().filter(|(_, shape, _)| shape.len() == 2) {
        let Some(grams) = calibration.of(&name) else {
            assert!(name == "transformer.token_embeddings.weight" && !config.tied_head, "nothing flows into {name}");
            continue;
        };
        assert_eq!(grams.iter().flat_map(|gram| gram.inputs.clone()).collect::<Vec<_>>(), (0..shape[1]).collect::<Vec<_>>(), "{name}");
        for gram in grams {
            let (count, at) = (gram.inputs.len(), |i: usize, j: usize| gram.sums[i * gram.inputs.len() + j]);
            assert!((0..count).all(|i| at(i, i) > 0.0), "{name}");
            let bounded = |i: usize, j: usize| at(i, j).powi(2) <= 1.001 * at(i, i) * at(j, j);
            assert!((0..count).all(|i| (i..count).all(|j| bounded(i, j))), "{name}");
        }
    }
    assert_eq!(calibration, calibrated(&files, 2, &windows()));
    assert_ne!(calibration, calibrated(&files, 1, &windows()[..1]));
}

#[test]
fn a_calibrated_file_is_nearer_on_its_text() {
    let files = golden("tiny-hd64-gqa4");
    let calibration = calibrated(&files, 2, &windows());
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, calibration| {
        let path = folder.path().join(name);
        let options = QuantizeOptions { stored: BlockFormat::Q4_0.into(), search: true, threads: 2, calibration };
        quantize(&files, (&path, "test"), options, |_, _| ()).unwrap();
        ModelFiles::open(&ModelSource::File(path), TokenizerSource::Model).unwrap()
    };
    let of = |files: &ModelFiles| calibrated(files, 1, &windows());
    let head = |calibration: &Calibration| {
        calibration.of("transformer.token_embeddings.weight").or(calibration.of("lm_head.weight")).unwrap()[0].sums.clone()
    };
    let truth = head(&calibration);
    let distance = |calibration: Calibration| head(&calibration).iter().zip(&truth).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let (alone, together) = (distance(of(&write("alone.gguf", None))), distance(of(&write("together.gguf", Some(&calibration)))));
    assert!(together < alone, "{together} of {alone}");
}
