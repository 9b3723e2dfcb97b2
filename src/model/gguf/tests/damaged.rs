//! Any bytes give a model or an error: cut and changed at every place of a header, and random ones.

use super::{Draft, MetaValue, text, texts};
use crate::model::gguf::exercise;
use proptest::prelude::*;

/// A file with a tokenizer, whose header is everything before the data.
fn small() -> (Vec<u8>, usize) {
    let mut draft = Draft::tiny();
    draft.set("tokenizer.ggml.model", text("llama"));
    draft.set("tokenizer.ggml.tokens", texts(&["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab"]));
    draft.set("tokenizer.ggml.scores", MetaValue::F32s((0..8).map(|i| -(i as f32)).collect()));
    draft.set("tokenizer.ggml.token_type", MetaValue::I32s(vec![2, 3, 3, 1, 1, 1, 1, 1]));
    draft.set("tokenizer.chat_template", text("{{ messages }}"));
    let bytes = draft.bytes();
    let data: u64 = draft.tensors.iter().map(|tensor| tensor.bytes().unwrap().next_multiple_of(32)).sum();
    let header = bytes.len() - data as usize;
    (bytes, header)
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (bytes, header) = small();
    exercise(bytes.clone()).unwrap();
    for length in (0..header).chain([header + 1, bytes.len() - 65]) {
        assert!(exercise(bytes[..length].to_vec()).is_err(), "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn a_header_changed_anywhere_is_read_or_refused() {
    let (bytes, header) = small();
    for at in 0..header {
        for value in [0, 1, 0x7F, 0x80, 0xFF, bytes[at] ^ 1, bytes[at].wrapping_add(1)] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let _ = exercise(changed);
        }
    }
}

#[test]
fn numbers_changed_anywhere_are_read_or_refused() {
    let (bytes, header) = small();
    for at in 0..header - 8 {
        for value in [u64::MAX, 1 << 63, 1 << 60, 1 << 32, 0] {
            let mut changed = bytes.clone();
            changed[at..][..8].copy_from_slice(&value.to_le_bytes());
            let _ = exercise(changed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_are_read_or_refused(rest in proptest::collection::vec(any::<u8>(), 0..400), entries in 0..4_u64, tensors in 0..4_u64) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        bytes.extend(&rest);
        let _ = exercise(bytes);
        let _ = exercise(rest);
    }

    #[test]
    fn files_with_random_patches_are_read_or_refused(patches in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let (mut bytes, header) = small();
        for (place, value) in patches {
            bytes[place.index(header)] = value;
        }
        let _ = exercise(bytes);
    }
}
