//! Files that are not what they should be: each is refused and removed, none panics or is read outside of itself.

use super::super::format::{CHUNK_BYTES, Header, VERSION};
use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Opens `bytes` as the packed file of `key`.
fn try_open(cache: &WeightCache, key: &PackedKey, bytes: &[u8]) -> Result<Option<PackedFile>, CacheError> {
    std::fs::write(cache.path_of(key), bytes).unwrap();
    open(cache, key)
}

/// `bytes` are refused for a reason with `part` in it, and the file is gone.
fn refused(cache: &WeightCache, key: &PackedKey, bytes: &[u8], part: &str) {
    let error = try_open(cache, key, bytes).expect_err("must be refused").to_string();
    assert!(error.contains(part) && error.contains(&key.file_name()), "{part:?} is not in: {error}");
    assert!(!cache.path_of(key).exists());
}

#[test]
fn every_flipped_bit_is_found() {
    let (_directory, cache, path) = small_file();
    let (key, whole) = (key(1, DType::Bf16), std::fs::read(path).unwrap());
    let header = Header::parse(&whole, &key).unwrap();
    let header_end = 48 + u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize;
    for at in 0..header_end {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(Header::parse(&bytes, &key).is_err(), "byte {at} of the header");
    }
    for at in header_end..header.contents.start {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert_eq!(Header::parse(&bytes, &key).unwrap(), header, "zeros between header and contents say nothing");
    }
    for at in header.contents.clone().step_by(97).chain([whole.len() - 1]) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&cache, &key, &bytes, "the checksum of its bytes from");
    }
    assert!(try_open(&cache, &key, &whole).unwrap().is_some(), "whole again");
}

#[test]
fn a_file_cut_short_or_too_long_is_refused() {
    let (_directory, cache, path) = small_file();
    let (key, whole) = (key(1, DType::Bf16), std::fs::read(path).unwrap());
    for length in 0..whole.len().min(6000) {
        assert!(Header::parse(&whole[..length], &key).is_err(), "{length}");
    }
    for length in [0, 1, 7, 8, 15, 16, 47, 48, 4095, 4096, whole.len() / 2, whole.len() - 1] {
        refused(&cache, &key, &whole[..length], "");
    }
    refused(&cache, &key, &[&whole[..], &[0]].concat(), "its header calls for");
}

#[test]
fn files_of_something_else_are_refused() {
    let (_directory, cache, path) = small_file();
    let (right, whole) = (key(1, DType::Bf16), std::fs::read(path).unwrap());
    refused(&cache, &key(2, DType::Bf16), &whole, "its weights are");
    refused(&cache, &key(1, DType::F16), &whole, "its dtype are \"bfloat16\", not \"float16\"");
    refused(&cache, &PackedKey { layout: "panel32-v0", ..right.clone() }, &whole, "its layout are \"panel32-v2\"");
    for version in [0, VERSION + 1, u32::MAX] {
        let bytes = [&whole[..8], &version.to_le_bytes(), &whole[12..]].concat();
        refused(&cache, &right, &bytes, &format!("version {version}, not {VERSION}"));
    }
    refused(&cache, &right, b"{}", "does not begin");
    refused(&cache, &right, &[0; 10_000], "does not begin");
}

/// The file with another header, whose own checksum is right.
fn with_header(whole: &[u8], edit: impl Fn(&mut Value)) -> Vec<u8> {
    let length = u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&whole[48..48 + length]).unwrap();
    edit(&mut header);
    let header = header.to_string().into_bytes();
    let start = (48 + length).next_multiple_of(4096);
    let mut out = [&whole[..12], &(header.len() as u32).to_le_bytes(), blake3::hash(&header).as_bytes(), &header].concat();
    out.resize(out.len().next_multiple_of(4096), 0);
    out.extend(&whole[start..]);
    out
}

#[test]
fn a_header_that_lies_with_a_right_checksum_is_refused() {
    let (_directory, cache, path) = small_file();
    let (key, whole) = (key(1, DType::Bf16), std::fs::read(path).unwrap());
    assert!(try_open(&cache, &key, &with_header(&whole, |_| {})).unwrap().is_some());
    let tensor = "matrix (33, 7)";
    let large = [u64::MAX, u64::MAX - 63, 1 << 63, (1 << 63) - 64, 1 << 40];
    for value in large {
        refused(&cache, &key, &with_header(&whole, |h| h["contents"] = json!(value)), "");
        refused(&cache, &key, &with_header(&whole, |h| h["tensors"][tensor]["offset"] = json!(value)), "lies outside");
        refused(&cache, &key, &with_header(&whole, |h| h["tensors"][tensor]["bytes"] = json!(value)), "lies outside");
        refused(&cache, &key, &with_header(&whole, |h| h["chunk"] = json!(value)), "do not cover");
    }
    refused(&cache, &key, &with_header(&whole, |h| h["tensors"][tensor]["offset"] = json!(1)), "off its boundary");
    refused(&cache, &key, &with_header(&whole, |h| h["tensors"][tensor]["offset"] = json!(-64)), "cannot be read");
    refused(&cache, &key, &with_header(&whole, |h| h["checksums"] = json!([])), "do not cover");
    refused(&cache, &key, &with_header(&whole, |h| h["checksums"] = json!(["zz"])), "a checksum is none");
    refused(&cache, &key, &with_header(&whole, |h| h["contents"] = json!(0)), "its header calls for");
    refused(&cache, &key, &with_header(&whole, |h| h["more"] = json!(0)), "cannot be read");
    refused(&cache, &key, &with_header(&whole, |h| *h = json!([[[[]]]])), "cannot be read");
    let claims = |length: u32| [&whole[..12], &length.to_le_bytes(), &whole[16..]].concat();
    refused(&cache, &key, &claims(u32::MAX), "its header claims");
    refused(&cache, &key, &claims(60 << 20), "it ends after");

    // A table that is consistent with the file and not with the shapes: the tensor is not given, or not taken.
    let short = with_header(&whole, |h| h["tensors"][tensor]["bytes"] = json!(64));
    let file = try_open(&cache, &key, &short).unwrap().unwrap();
    let bytes = file.matrix(tensor, (33, 7)).unwrap();
    assert!(backend().matrix_from_packed((33, 7), MatrixRows::Plain, DType::Bf16.into(), &bytes).is_none());
    let kinds = with_header(&whole, |h| {
        h["tensors"][tensor]["kind"] = json!("vector");
        h["tensors"]["gains"]["bytes"] = json!(11);
    });
    let file = try_open(&cache, &key, &kinds).unwrap().unwrap();
    assert!(file.matrix(tensor, (33, 7)).is_none() && file.vector(tensor, 7).is_none() && file.vector("gains", 3).is_none());
}

#[test]
fn contents_of_many_chunks_are_covered_by_their_own_checksums() {
    let ((_directory, cache), key) = (cache(), key(1, DType::F32));
    let (_, tensors) = tensors(&backend(), DType::F32, &[(1025, 1027), (1025, 1029)]);
    let path = write_now(&cache, &key, &tensors).unwrap();
    let whole = std::fs::read(path).unwrap();
    let header = Header::parse(&whole, &key).unwrap();
    assert_eq!(header.checksums.len(), 3);
    for chunk in 0..3 {
        let at = header.contents.start + chunk * CHUNK_BYTES;
        let mut bytes = whole.clone();
        bytes[at + 100] ^= 4;
        refused(&cache, &key, &bytes, &format!("from {at} on is wrong"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any bytes, with or without a right beginning: refused or the whole file.
    #[test]
    fn any_damage_is_refused_or_harmless(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        tail in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let (_directory, cache, path) = small_file();
        let key = key(1, DType::Bf16);
        let whole = std::fs::read(path).unwrap();
        let mut bytes = whole.clone();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
            bytes.extend(tail);
        }
        if let Ok(Some(file)) = try_open(&cache, &key, &bytes) {
            let start = Header::parse(&whole, &key).unwrap().contents.start;
            prop_assert_eq!(&bytes[start..], &whole[start..]);
            prop_assert!(file.matrix("matrix (64, 64)", (64, 64)).is_some());
        }
    }

    /// Headers of random JSON with a right checksum.
    #[test]
    fn random_headers_never_panic(
        numbers in prop::collection::vec(prop_oneof![0..10_000_u64, any::<u64>()], 6),
        count in 0_usize..4,
    ) {
        let (_directory, cache, path) = small_file();
        let (key, whole) = (key(1, DType::Bf16), std::fs::read(path).unwrap());
        let tensor = "matrix (64, 64)";
        let bytes = with_header(&whole, |h| {
            let fields = ["offset", "bytes", "rows", "cols"];
            for (field, number) in fields.iter().zip(&numbers).take(count + 1) {
                h["tensors"][tensor][*field] = json!(number);
            }
            if count == 3 {
                h["contents"] = json!(numbers[4]);
            }
        });
        if let Ok(Some(file)) = try_open(&cache, &key, &bytes) {
            let shape = (numbers[2] as usize, numbers[3] as usize);
            for shape in [shape, (64, 64)] {
                if let Some(bytes) = file.matrix(tensor, shape) {
                    backend().matrix_from_packed(shape, MatrixRows::Plain, DType::Bf16.into(), &bytes);
                }
            }
        }
    }
}
