//! On small models with known logits: what the comparison must find whatever the figures are.

use super::*;
use crate::model::{ModelFiles, ModelSource, Storage, TokenizerSource};
use crate::ops::cpu::{CpuBackend, CpuKernels};
use crate::ops::{BlockFormat, DType};
use std::path::Path;

const WINDOW: usize = 48;

fn files() -> ModelFiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-hd64-gqa4");
    ModelFiles::open(&ModelSource::Directory(folder), TokenizerSource::Model).expect("a golden checkpoint")
}

fn reader(storage: Storage, sequences: usize) -> Reader {
    let backend = CpuBackend::new(CpuKernels::Portable, 1).expect("kernels");
    Reader::load(&files(), backend, ReaderOptions { storage, kv_cache_dtype: DType::F32.into(), window: WINDOW, sequences })
        .expect("loaded")
}

fn quantised(format: BlockFormat) -> Storage {
    Storage { quantization: Some(format), ..DType::F32.into() }
}

fn source(seed: u64) -> Source {
    Source { bos: 1, forbidden: vec![2], seed }
}

#[test]
fn fewer_bits_are_further_away_and_none_fewer_are_not() {
    let mut reference = reader(DType::F32.into(), 4);
    let windows = make_up(&mut reference, &source(0), (WINDOW, windows_for(100, WINDOW))).expect("a text");
    let storages = [DType::F32.into(), DType::Bf16.into(), quantised(BlockFormat::Q8_0), quantised(BlockFormat::Q4_0)];
    let mut candidates = storages.map(|storage| reader(storage, 1));
    let mut told = Vec::new();
    let (perplexity, found) = compare(&mut reference, &mut candidates, &windows, |done| told.push(done)).expect("compared");
    assert_eq!(told, (1..=windows.len()).collect::<Vec<_>>());
    let divergences: Vec<f64> = found.iter().map(|score| score.divergence().mean).collect();
    assert_eq!((divergences[0], found[0].perplexity(), found[0].top_1_agreement()), (0.0, perplexity, 1.0));
    assert!(0.0 < divergences[1] && divergences[1] < divergences[3] && divergences[2] < divergences[3], "{divergences:?}");
    assert_eq!(perplexity.positions() as usize, windows.len() * scored(WINDOW).len());
}

#[test]
fn a_text_made_up_is_a_function_of_the_seed_and_not_of_the_windows_beside() {
    let windows = |seed, sequences| make_up(&mut reader(DType::F32.into(), sequences), &source(seed), (WINDOW, 5)).expect("a text");
    let (beside, alone, other) = (windows(0, 4), windows(0, 1), windows(1, 4));
    assert_eq!(beside, alone);
    assert!(beside != other && beside[0] != beside[1]);
    assert!(beside.iter().all(|window| window.len() == WINDOW && window[0] == 1 && !window.contains(&2)));
}

#[test]
fn a_model_that_may_say_nothing_is_told() {
    let forbidden = (0..10_000).collect();
    let error = make_up(&mut reader(DType::F32.into(), 1), &Source { forbidden, ..source(0) }, (WINDOW, 1)).expect_err("nothing is left");
    assert_eq!(error.to_string(), "every token is forbidden at position 1");
}

#[test]
fn a_text_is_cut_into_windows_that_begin_as_sequences_do() {
    let tokens: Vec<TokenId> = (10..10 + 2 * WINDOW as TokenId + 5).collect();
    let windows = cut(&tokens, Some(1), (WINDOW, 100)).expect("long enough");
    assert_eq!((windows.len(), windows[1][0], &windows[1][1..]), (2, 1, &tokens[WINDOW + 1..2 * WINDOW]));
    let windows = cut(&tokens, None, (WINDOW, 1)).expect("long enough");
    assert_eq!((windows.len(), &windows[0][..]), (1, &tokens[..WINDOW]));
    let error = cut(&tokens[..WINDOW - 1], None, (WINDOW, 1)).expect_err("too short").to_string();
    assert_eq!(error, "the text has 47 tokens, and a window takes 48");
}

#[test]
fn positions_are_those_of_the_second_half_that_a_token_follows() {
    assert_eq!([scored(512), scored(4), scored(2), scored(1)], [256..511, 2..3, 1..1, 0..0]);
    assert_eq!([windows_for(255, 512), windows_for(256, 512)], [1, 2]);
}
