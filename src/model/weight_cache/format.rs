//! The packed file: a fixed beginning, a header in JSON, and the bytes of all tensors.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `OELMPACK` |
//! | 4 | version of this format, little-endian like all numbers |
//! | 4 | length of the header |
//! | 32 | blake3 of the header |
//! | … | the header |
//! | … | zeros up to a multiple of 4096 |
//! | … | contents: tensors, each on a multiple of 64, zeros between them |
//!
//! The header names what the weights are of, every tensor with its place, and the blake3 of each 4 MiB of the contents.
//!
//! **Architecture invariant:** [`Header::parse`] takes any bytes. What it returns holds: the file has exactly the stated length, every tensor
//! lies in the contents on its boundary, and there is a checksum for every chunk.

use super::PackedKey;
use crate::ops::WEIGHT_ALIGNMENT;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

const MAGIC: &[u8; 8] = b"OELMPACK";
pub(super) const VERSION: u32 = 1;
const PRELUDE_BYTES: usize = 48;

/// Longest header: a thousand layers and terabytes need less.
const MAX_HEADER_BYTES: usize = 64 << 20;

/// The contents begin on a page.
const CONTENTS_ALIGNMENT: usize = 4096;

/// Bytes of the contents under one checksum.
pub(super) const CHUNK_BYTES: usize = 4 << 20;

/// Whether a tensor lies as the backend arranges matrices, or as plain f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Matrix,
    Vector,
}

/// A tensor in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorEntry {
    pub(super) kind: Kind,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// From the beginning of the contents.
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

impl TensorEntry {
    /// Where it ends in the contents.
    fn end(&self) -> Option<usize> {
        self.offset.checked_add(self.bytes)
    }
}

/// The header as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    weights: String,
    dtype: String,
    layout: String,
    /// Bytes of the contents.
    contents: usize,
    /// Bytes of the contents under one checksum.
    chunk: usize,
    /// blake3 of each chunk.
    checksums: Vec<String>,
    tensors: BTreeMap<String, TensorEntry>,
}

/// A header that fits its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Where the contents lie in the file.
    pub(super) contents: Range<usize>,
    /// blake3 of each chunk of the contents.
    pub(super) checksums: Vec<blake3::Hash>,
    pub(super) tensors: BTreeMap<String, TensorEntry>,
}

/// Bytes before the contents for a header of `bytes`.
fn contents_start(bytes: usize) -> Option<usize> {
    PRELUDE_BYTES.checked_add(bytes)?.checked_next_multiple_of(CONTENTS_ALIGNMENT)
}

/// Four bytes of `file` as a number.
fn number(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

impl Header {
    /// Lays tensors out: name, kind, shape and bytes of each, in order. The checksums are all the same and wrong.
    pub(super) fn lay_out(key: &PackedKey, tensors: &[(String, TensorEntry)]) -> Option<Self> {
        let (mut end, mut table) = (0_usize, BTreeMap::new());
        for (name, entry) in tensors {
            let entry = TensorEntry { offset: end.checked_next_multiple_of(WEIGHT_ALIGNMENT)?, ..entry.clone() };
            end = entry.end()?;
            table.insert(name.clone(), entry);
        }
        let checksums = vec![blake3::Hash::from_bytes([0; 32]); end.div_ceil(CHUNK_BYTES)];
        let mut header = Self { contents: 0..end, checksums, tensors: table };
        // Checksums have one length, so that the header keeps its own when they are known.
        let start = contents_start(header.body(key).len())?;
        header.contents = start..start.checked_add(end)?;
        Some(header)
    }

    fn body(&self, key: &PackedKey) -> Vec<u8> {
        let body = Body {
            weights: key.weights.to_hex().to_string(),
            dtype: key.storage.to_string(),
            layout: key.layout.to_owned(),
            contents: self.contents.len(),
            chunk: CHUNK_BYTES,
            checksums: self.checksums.iter().map(|hash| hash.to_hex().to_string()).collect(),
            tensors: self.tensors.clone(),
        };
        serde_json::to_vec(&body).expect("strings, numbers and maps with text keys become JSON")
    }

    /// Everything before the contents.
    pub(super) fn to_bytes(&self, key: &PackedKey) -> Vec<u8> {
        let body = self.body(key);
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(blake3::hash(&body).as_bytes());
        out.extend(body);
        out.resize(self.contents.start, 0);
        out
    }

    /// Reads and checks the header of `file`, which should be that of `key`. The contents are not looked at.
    ///
    /// # Errors
    /// What is wrong, as a clause.
    pub(super) fn parse(file: &[u8], key: &PackedKey) -> Result<Self, String> {
        if !file.starts_with(MAGIC) {
            return Err("it does not begin as packed weights do".to_owned());
        }
        let cut = || format!("it ends after {} bytes", file.len());
        let version = number(file, 8).ok_or_else(cut)?;
        if version != VERSION {
            return Err(format!("its format has version {version}, not {VERSION}"));
        }
        let length = number(file, 12).ok_or_else(cut)? as usize;
        if length > MAX_HEADER_BYTES {
            return Err(format!("its header claims {length} bytes"));
        }
        let body = file.get(PRELUDE_BYTES..).and_then(|rest| rest.get(..length)).ok_or_else(cut)?;
        if blake3::hash(body).as_bytes() != &file[16..PRELUDE_BYTES] {
            return Err("the checksum of its header is wrong".to_owned());
        }
        let body: Body = serde_json::from_slice(body).map_err(|error| format!("its header cannot be read: {error}"))?;
        check_key(&body, key)?;
        Self::check(body, length, file.len())
    }

    fn check(body: Body, length: usize, file_bytes: usize) -> Result<Self, String> {
        let start = contents_start(length).ok_or("its header is too long")?;
        let end = start.checked_add(body.contents).ok_or("its contents are too long")?;
        if end != file_bytes {
            return Err(format!("it has {file_bytes} bytes, and its header calls for {end}"));
        }
        if body.chunk != CHUNK_BYTES || body.checksums.len() != body.contents.div_ceil(CHUNK_BYTES) {
            return Err("its checksums do not cover it".to_owned());
        }
        for (name, entry) in &body.tensors {
            let inside = entry.end().is_some_and(|end| end <= body.contents);
            if !inside || !entry.offset.is_multiple_of(WEIGHT_ALIGNMENT) {
                return Err(format!("tensor `{name}` lies outside of its contents or off its boundary"));
            }
        }
        let checksums = body.checksums.iter().map(blake3::Hash::from_hex).collect::<Result<_, _>>();
        let checksums = checksums.map_err(|error| format!("a checksum is none: {error}"))?;
        Ok(Self { contents: start..end, checksums, tensors: body.tensors })
    }
}

fn check_key(body: &Body, key: &PackedKey) -> Result<(), String> {
    let wanted = [
        ("weights", &body.weights, key.weights.to_hex().to_string()),
        ("dtype", &body.dtype, key.storage.to_string()),
        ("layout", &body.layout, key.layout.to_owned()),
    ];
    match wanted.into_iter().find(|(_, found, wanted)| *found != wanted) {
        Some((what, found, wanted)) => Err(format!("its {what} are {found:?}, not {wanted:?}")),
        None => Ok(()),
    }
}
