//! The structure of a GGUF file: header, metadata, table of tensors.
//!
//! | bytes | content |
//! |---|---|
//! | 4 | `GGUF` |
//! | 4 | version, little-endian like all numbers |
//! | 8, 8 | number of tensors, number of metadata entries |
//! | … | metadata: key, type, value |
//! | … | tensors: name, number of dimensions, dimensions (the innermost first), type, offset |
//! | … | padding up to the alignment, then the data of the tensors |
//!
//! Source: the GGUF specification of the ggml project, versions 2 and 3.
//!
//! **Architecture invariant:** [`Gguf::parse`] takes any bytes. Memory is taken for entries that were read, never for a number that the
//! file claims. What it returns holds: names are unique, every tensor lies in the file, on its boundary and apart from the others.

use super::GgufError;
use super::cursor::Cursor;
use super::error::show;
use super::types::TensorType;
use super::value::{Value, read_value};
use std::collections::BTreeMap;
use std::ops::Range;

/// Fewest bytes of an entry of the metadata, and of a tensor of one dimension.
const FEWEST_BYTES: [(&str, u64); 2] = [("entries of metadata", 13), ("tensors", 32)];

/// The alignment where the file names none.
pub(super) const DEFAULT_ALIGNMENT: usize = 32;

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 4;

/// Longest key and longest name of a tensor, by the specification.
const MOST_NAME_BYTES: usize = 65_535;

/// A tensor in the table.
#[derive(Clone, Debug)]
pub(super) struct TensorEntry {
    pub(super) kind: TensorType,
    /// The outermost dimension first, as everywhere but in the file.
    pub(super) shape: Vec<usize>,
    /// Where it lies in the file.
    pub(super) bytes: Range<usize>,
}

/// A file, read and checked.
#[derive(Debug)]
pub(super) struct Gguf<'a> {
    pub(super) metadata: BTreeMap<&'a str, Value<'a>>,
    pub(super) tensors: BTreeMap<&'a str, TensorEntry>,
}

/// A tensor as the table has it.
struct RawTensor<'a> {
    name: &'a str,
    kind: TensorType,
    shape: Vec<usize>,
    bytes: usize,
    offset: u64,
}

impl<'a> Gguf<'a> {
    /// Reads the structure of `file`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(file);
        let magic = cursor.take(4).map_err(|short| short.of("the beginning of the file"))?;
        if magic != b"GGUF" {
            return Err(GgufError::Magic { found: show(&String::from_utf8_lossy(magic)) });
        }
        let version = cursor.u32().map_err(|short| short.of("the version"))?;
        if ![2, 3].contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        let tensor_count = cursor.u64().map_err(|short| short.of("the number of tensors"))?;
        let entry_count = cursor.u64().map_err(|short| short.of("the number of metadata entries"))?;
        for ((what, fewest), found) in FEWEST_BYTES.into_iter().zip([entry_count, tensor_count]) {
            let (left, most) = (cursor.left(), cursor.left() as u64 / fewest);
            if found > most {
                return Err(GgufError::Count { what: what.into(), found, most, left });
            }
        }
        let metadata = read_metadata(&mut cursor, entry_count)?;
        let alignment = alignment(&metadata)?;
        let tensors = (0..tensor_count).map(|index| read_tensor(&mut cursor, index)).collect::<Result<Vec<_>, _>>()?;
        // A file without tensors may end before the padding.
        let data = cursor.at().checked_next_multiple_of(alignment).unwrap_or(usize::MAX).min(file.len());
        let tensors = place(tensors, alignment, data..file.len())?;
        Ok(Self { metadata, tensors })
    }
}

fn read_name<'a>(cursor: &mut Cursor<'a>, what: impl Fn() -> String) -> Result<&'a str, GgufError> {
    let bytes = cursor.string().map_err(|short| short.of(what()))?;
    if bytes.len() > MOST_NAME_BYTES {
        let wanted = format!("at most {MOST_NAME_BYTES}");
        return Err(GgufError::Key { key: what(), found: format!("{} bytes long", bytes.len()), wanted });
    }
    std::str::from_utf8(bytes).map_err(|_| GgufError::Text { what: what(), found: show(&String::from_utf8_lossy(bytes)) })
}

fn read_metadata<'a>(cursor: &mut Cursor<'a>, count: u64) -> Result<BTreeMap<&'a str, Value<'a>>, GgufError> {
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key = read_name(cursor, || format!("the name of metadata entry {index}"))?;
        let value = read_value(cursor, key)?;
        if metadata.insert(key, value).is_some() {
            return Err(GgufError::DuplicateKey { key: show(key) });
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<&str, Value<'_>>) -> Result<usize, GgufError> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    let usable = value.as_u64().and_then(|value| usize::try_from(value).ok()).filter(|value| value.is_power_of_two());
    usable.ok_or_else(|| GgufError::Key { key: "general.alignment".into(), found: value.describe(), wanted: "a power of two".into() })
}

fn read_tensor<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<RawTensor<'a>, GgufError> {
    let name = read_name(cursor, || format!("the name of tensor {index}"))?;
    let (what, tensor) = (|| format!("the entry of tensor `{}`", show(name)), || show(name));
    let count = cursor.u32().map_err(|short| short.of(what()))? as usize;
    let wrong = |found, wanted| GgufError::Dimensions { tensor: tensor(), found, wanted };
    if count == 0 || count > MOST_DIMENSIONS {
        return Err(wrong(format!("{count} dimensions"), "1 to 4"));
    }
    let mut shape = Vec::with_capacity(count);
    for _ in 0..count {
        let dimension = cursor.u64().map_err(|short| short.of(what()))?;
        let usable = usize::try_from(dimension).ok().filter(|&dimension| dimension > 0);
        shape.push(usable.ok_or_else(|| wrong(format!("a dimension of {dimension}"), "at least 1"))?);
    }
    shape.reverse();
    let number = cursor.u32().map_err(|short| short.of(what()))?;
    let unknown = || GgufError::TensorType { tensor: tensor(), found: number, name: TensorType::name_of(number) };
    let kind = TensorType::from_number(number).ok_or_else(unknown)?;
    let offset = cursor.u64().map_err(|short| short.of(what()))?;
    let cols = shape[count - 1];
    let block = kind.block_values();
    if !cols.is_multiple_of(block) {
        return Err(GgufError::Rows { tensor: tensor(), cols, format: kind.to_string(), block });
    }
    let rows = shape[..count - 1].iter().try_fold(1_usize, |product, &dimension| product.checked_mul(dimension));
    let bytes = rows.zip(kind.row_bytes(cols)).and_then(|(rows, stride)| rows.checked_mul(stride));
    let bytes = bytes.ok_or_else(|| wrong(format!("dimensions {shape:?}"), "a number of bytes below 2^64"))?;
    Ok(RawTensor { name, kind, shape, bytes, offset })
}

/// Puts the tensors where they lie in the file; `data` is what is behind the header.
fn place<'a>(tensors: Vec<RawTensor<'a>>, alignment: usize, data: Range<usize>) -> Result<BTreeMap<&'a str, TensorEntry>, GgufError> {
    let mut table = BTreeMap::new();
    let mut order = Vec::with_capacity(tensors.len());
    for RawTensor { name, kind, shape, bytes, offset } in tensors {
        if !offset.is_multiple_of(alignment as u64) {
            return Err(GgufError::Offset { tensor: show(name), offset, alignment });
        }
        let start = usize::try_from(offset).ok().and_then(|offset| data.start.checked_add(offset));
        let range = start.and_then(|start| Some(start..start.checked_add(bytes).filter(|&end| end <= data.end)?));
        let past_end = || GgufError::PastEnd { tensor: show(name), offset, bytes, available: data.len() };
        let bytes = range.ok_or_else(past_end)?;
        order.push((bytes.clone(), name));
        if table.insert(name, TensorEntry { kind, shape, bytes }).is_some() {
            return Err(GgufError::DuplicateTensor { tensor: show(name) });
        }
    }
    order.sort_unstable_by_key(|(bytes, name)| (bytes.start, *name));
    let overlap = order.iter().zip(order.iter().skip(1)).find(|((first, _), (second, _))| first.end > second.start);
    match overlap {
        None => Ok(table),
        Some(((first, a), (second, b))) => {
            Err(GgufError::Overlap { first: show(a), second: show(b), end: first.end - data.start, start: second.start - data.start })
        }
    }
}
