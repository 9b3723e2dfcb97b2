//! Structures that are wrong: each refusal names what was found and what would be right.

use super::{Draft, GgufBytes, MetaValue, NewTensor, open, open_bytes, refused, text, tiny};
use crate::model::gguf::file::Gguf;
use crate::ops::{BlockFormat, DType};

/// A file of hand-made bytes behind the header.
fn raw(tensors: u64, entries: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [b"GGUF".as_slice(), &3_u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat();
    rest.iter().for_each(|part| bytes.extend(*part));
    bytes
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// A metadata entry with a value of type `kind`.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes())[..], &kind.to_le_bytes(), value].concat()
}

/// An entry of the table of tensors.
fn tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name.as_bytes());
    bytes.extend((dimensions.len() as u32).to_le_bytes());
    dimensions.iter().for_each(|dimension| bytes.extend(dimension.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[track_caller]
fn wrong(bytes: &[u8], parts: &[&str]) {
    let message = Gguf::parse(bytes).expect_err("must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn beginnings_that_are_no_gguf_are_refused() {
    wrong(b"", &["the beginning of the file", "4 bytes", "0 are left"]);
    wrong(b"PK\x03\x04....", &["not a GGUF file", "PK"]);
    wrong(b"GGUF\x01\0\0\0", &["version is 1", "2 or 3"]);
    wrong(b"GGUF\0\0\0\x03", &["version is 50331648", "little-endian"]);
    wrong(b"GGUF\x03\0\0\0", &["the number of tensors"]);
    assert!(Gguf::parse(&raw(0, 0, &[])).is_ok());
    let mut older = raw(0, 0, &[]);
    older[4] = 2;
    assert!(Gguf::parse(&older).is_ok());
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused() {
    wrong(&raw(0, 1 << 60, &[&[0; 26]]), &["entries of metadata", "1152921504606846976", "at most 2"]);
    wrong(&raw(u64::MAX, 0, &[&[0; 40]]), &["tensors", "18446744073709551615", "at most 1"]);
    wrong(&raw(0, 1, &[&(1_u64 << 60).to_le_bytes(), &[b'a'; 99]]), &["metadata entry 0", "1152921504606846976 bytes", "99 are left"]);
    wrong(&raw(0, 1, &[&entry("a.key", 8, &(1_u64 << 60).to_le_bytes())]), &["`a.key`", "1152921504606846976 bytes"]);
    let array = [&4_u32.to_le_bytes()[..], &(1_u64 << 62).to_le_bytes(), &[0; 8]].concat();
    wrong(&raw(0, 1, &[&entry("a.key", 9, &array)]), &["`a.key`", "4611686018427387904 are claimed", "at most 2"]);
    let strings = [&8_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &string(b"one"), &[0; 7]].concat();
    wrong(&raw(0, 1, &[&entry("a.key", 9, &strings)]), &["`a.key`", "8 bytes"]);
    wrong(&raw(0, 1, &[&entry(&"k".repeat(65_536), 0, &[0])]), &["metadata entry 0", "65536 bytes long", "at most 65535"]);
}

#[test]
fn keys_and_values_of_no_known_form_are_refused() {
    let key = [&string(b"\xff\xfe")[..], &[0, 0, 0, 0, 0]].concat();
    wrong(&raw(0, 1, &[&key]), &["metadata entry 0", "not UTF-8"]);
    wrong(&raw(0, 1, &[&entry("a.key", 13, &[0; 8])]), &["`a.key`", "type 13", "0 to 12"]);
    wrong(&raw(0, 1, &[&entry("a.key", 7, &[2])]), &["`a.key`", "the byte 2", "0 or 1"]);
    wrong(&raw(0, 2, &[&entry("a.key", 0, &[1]), &entry("a.key", 0, &[1])]), &["`a.key`", "twice"]);
    let nested = |depth: usize| {
        let mut value = [&0_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &[7]].concat();
        for _ in 1..depth {
            value = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &value].concat();
        }
        raw(0, 1, &[&entry("a.key", 9, &value)])
    };
    assert!(Gguf::parse(&nested(4)).is_ok());
    wrong(&nested(5), &["`a.key`", "nested more than 4 deep"]);
    wrong(&nested(2000), &["nested more than 4 deep"]);
}

#[test]
fn alignments_other_than_powers_of_two_are_refused() {
    for alignment in [0_u32, 3, 48] {
        let bytes = raw(0, 1, &[&entry("general.alignment", 4, &alignment.to_le_bytes())]);
        wrong(&bytes, &["`general.alignment`", &alignment.to_string(), "a power of two"]);
    }
    wrong(&raw(0, 1, &[&entry("general.alignment", 8, &string(b"32"))]), &["`general.alignment`", "\"32\""]);
    assert!(Gguf::parse(&raw(0, 1, &[&entry("general.alignment", 10, &(1_u64 << 63).to_le_bytes())])).is_ok());
    let mut draft = Draft::tiny();
    draft.set("general.alignment", MetaValue::U32(128));
    refused(draft.open(), &["offset", "a multiple of the alignment, 128"]);
}

#[test]
fn tensors_of_impossible_shape_type_or_place_are_refused() {
    let one = |tensor: Vec<u8>| raw(1, 0, &[&tensor, &[0; 256]]);
    wrong(&one(tensor("a", &[], 0, 0)), &["`a`", "0 dimensions", "1 to 4"]);
    wrong(&one(tensor("a", &[1; 5], 0, 0)), &["`a`", "5 dimensions"]);
    wrong(&one(tensor("a", &[4, 0], 0, 0)), &["`a`", "a dimension of 0"]);
    wrong(&one(tensor("a", &[1 << 40, 1 << 40], 0, 0)), &["`a`", "a number of bytes below 2^64"]);
    wrong(&one(tensor("a", &[4], 99, 0)), &["`a`", "type 99;", "Q6_K"]);
    wrong(&one(tensor("a", &[4], 10, 0)), &["`a`", "type 10 (Q2_K)"]);
    wrong(&one(tensor("a", &[48], 8, 0)), &["`a`", "rows of 48", "q8_0", "a multiple of 32"]);
    wrong(&one(tensor("a", &[128], 14, 0)), &["`a`", "rows of 128", "q6_k", "a multiple of 256"]);
    wrong(&one(tensor("a", &[4], 0, 4)), &["`a`", "offset 4", "32"]);
    wrong(&one(tensor("a", &[4], 0, 1 << 62)), &["`a`", "offset 4611686018427387904", "16 bytes"]);
    wrong(&one(tensor("a", &[4], 0, u64::MAX - 31)), &["`a`", "calls for 16 bytes"]);
    wrong(&one(tensor("a", &[64, 2], 0, 0)), &["`a`", "calls for 512 bytes"]);
    let two = |second: Vec<u8>| raw(2, 0, &[&tensor("a", &[16], 0, 0), &second, &[0; 256]]);
    wrong(&two(tensor("b", &[4], 0, 32)), &["`a` and `b` overlap", "ends at 64", "begins at 32"]);
    wrong(&two(tensor("b", &[4], 0, 0)), &["overlap"]);
    wrong(&two(tensor("a", &[4], 0, 64)), &["`a`", "twice"]);
    assert!(Gguf::parse(&two(tensor("b", &[4], 0, 64))).is_ok());
}

#[test]
fn a_file_cut_short_says_so() {
    let bytes = Draft::tiny().bytes();
    let cut = bytes.len() - 64;
    refused(open_bytes(bytes[..cut].to_vec()), &["output_norm.weight", "is the download complete?"]);
}

#[test]
fn models_that_are_not_served_are_refused_by_key() {
    let with = |key: &str, value: MetaValue| {
        let mut draft = Draft::of(&tiny(false));
        draft.set(key, value);
        draft.open()
    };
    let ints = |values: &[i32]| MetaValue::I32s(values.to_vec());
    let cases: [(&str, MetaValue, &str); 18] = [
        ("general.architecture", text("gemma"), "\"openelm\" or \"llama\""),
        ("general.architecture", MetaValue::U32(1), "\"openelm\" or \"llama\"|a string"),
        ("llama.block_count", MetaValue::U32(5000), "at most 1024"),
        ("llama.block_count", text("2"), "a whole number"),
        ("llama.attention.head_count", ints(&[2]), "an array of 2"),
        ("llama.attention.head_count", ints(&[2, -1]), "a whole number above 0"),
        ("llama.attention.head_count_kv", ints(&[2, 3]), "a divisor"),
        ("llama.attention.value_length", MetaValue::U32(32), "the width of a head, 16"),
        ("llama.rope.dimension_count", MetaValue::U32(8), "the width of a head, 16"),
        ("llama.rope.freq_base", MetaValue::F32(0.5), "above 1"),
        ("llama.attention.layer_norm_rms_epsilon", MetaValue::F32(-1.0), "above 0"),
        ("llama.rope.scaling.type", text("linear"), "\"none\""),
        ("llama.rope.scaling.factor", MetaValue::F32(2.0), "not supported"),
        ("llama.rope.scaling.yarn_beta_fast", MetaValue::F32(2.0), "not supported"),
        ("llama.expert_count", MetaValue::U32(8), "not supported"),
        ("llama.attention.sliding_window", MetaValue::U32(512), "not supported"),
        ("llama.logit_scale", MetaValue::F32(0.5), "not supported"),
        ("split.count", MetaValue::U32(2), "in one file"),
    ];
    for (key, value, wanted) in cases {
        let message = with(key, value.clone()).expect_err(key).to_string();
        assert!(message.contains(key) && wanted.split('|').any(|part| message.contains(part)), "{key} {value:?}: {message}");
    }
    assert!(with("llama.rope.scaling.type", text("none")).is_ok());
    assert!(with("llama.rope.scaling.factor", MetaValue::F32(1.0)).is_ok());
    assert!(with("llama.expert_count", MetaValue::U32(0)).is_ok());
    let mut draft = Draft::tiny();
    draft.remove("openelm.embedding_length");
    refused(draft.open(), &["`openelm.embedding_length` is absent"]);
    let mut draft = Draft::tiny();
    draft.remove("openelm.attention.value_length").remove("openelm.rope.dimension_count");
    draft.set("openelm.attention.key_length", MetaValue::U32(24));
    refused(draft.open(), &["`openelm.attention.key_length` is 24", "a multiple of 16"]);
    draft.remove("openelm.attention.key_length");
    assert_eq!(draft.open().unwrap().config.head_dim, 16);
    let mut draft = Draft::tiny();
    draft.set("tokenizer.ggml.eos_token_id", MetaValue::U32(8));
    refused(draft.open(), &["tokenizer.ggml.bos_token_id / eos_token_id", "below vocab_size, 8"]);
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_named() {
    let mut draft = Draft::tiny();
    draft.tensors.retain(|tensor| tensor.name != "blk.1.ffn_up.weight");
    refused(draft.open(), &["`blk.1.ffn_up.weight` is missing", "[64, 32]"]);
    let mut draft = Draft::tiny();
    draft.tensors.retain(|tensor| tensor.name != "token_embd.weight");
    refused(draft.open(), &["`token_embd.weight` is missing"]);
    let mut draft = Draft::tiny();
    draft.tensor("blk.0.attn_qkv.weight").shape = vec![32, 32];
    refused(draft.open(), &["`blk.0.attn_qkv.weight`", "[32, 32]", "[64, 32]", "attention.head_count"]);
    for (name, hint) in [("blk.0.attn_q.bias", "biases"), ("rope_freqs.weight", "rotary"), ("blk.9.attn_norm.weight", "block_count")] {
        let mut draft = Draft::of(&tiny(false));
        draft.tensors.push(NewTensor { name: name.to_owned(), shape: vec![32], stored: DType::F32.into() });
        refused(draft.open(), &[name, "1 such", hint]);
    }
}

#[test]
fn rows_in_blocks_are_handed_on_as_they_are_stored() {
    let mut draft = Draft::tiny();
    draft.tensor("blk.0.ffn_up.weight").stored = BlockFormat::Q4_0.into();
    draft.tensor("token_embd.weight").stored = BlockFormat::Q8_0.into();
    let model = draft.open().unwrap();
    let stored = |name: &str| model.weights.get("file", name).unwrap().data().unwrap().stored();
    assert_eq!(stored("transformer.token_embeddings.weight"), BlockFormat::Q8_0.into());
    assert_eq!(stored("transformer.layers.0.ffn.proj_1.weight"), BlockFormat::Q8_0.into());
    assert_eq!(stored("transformer.norm.weight"), DType::F32.into());
    let encoding = model.weights.get("file", "transformer.layers.0.ffn.proj_1.weight").unwrap().encoding();
    assert_eq!(encoding, "32 rows of float32, 32 rows of q4_0");
    assert_eq!(model.weights.formats(), "18 float32; 1 q4_0; 1 q8_0");
}

#[test]
fn a_tokenizer_that_is_not_served_matters_only_where_it_is_wanted() {
    let mut draft = Draft::tiny();
    draft.set("tokenizer.ggml.model", text("bert")).set("tokenizer.ggml.tokens", super::texts(&["a", "b", "c"]));
    refused(draft.open(), &["`tokenizer.ggml.model` is \"bert\"", "\"llama\" or \"gpt2\"", "--tokenizer"]);
    assert!(open(GgufBytes::Owned(draft.bytes()), false).is_ok());
}
