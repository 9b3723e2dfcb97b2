//! Writes GGUF files, version 3: metadata, table, and the tensors one after the other, so that no more than one need be in memory.
//!
//! **Architecture invariant:** a file appears under its name whole or not at all.

use super::GgufError;
use super::file::DEFAULT_ALIGNMENT;
use super::types::TensorType;
use crate::ops::WeightType;
use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaValue {
    /// 32 bits without a sign.
    U32(u32),
    /// 32-bit float.
    F32(f32),
    /// true or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// Signed numbers of 32 bits.
    I32s(Vec<i32>),
    /// 32-bit floats.
    F32s(Vec<f32>),
    /// Texts.
    Texts(Vec<String>),
}

/// Metadata in the order of the file.
pub type Metadata = Vec<(String, MetaValue)>;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape, rows first.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub stored: WeightType,
}

impl NewTensor {
    /// Bytes of its values; `None` when blocks do not divide its rows, or the number is too large.
    pub fn bytes(&self) -> Option<u64> {
        let (cols, rows) = self.shape.split_last()?;
        let rows = rows.iter().try_fold(1_usize, |product, &rows| product.checked_mul(rows))?;
        self.stored.row_bytes(*cols)?.checked_mul(rows).map(|bytes| bytes as u64)
    }
}

/// Writes the file at `path`. `fill(i, out)` writes the bytes of tensor `i` and is called for each in order.
///
/// # Errors
/// [`GgufError`], and what `fill` gives. No file is left then, and one that was there before stays.
pub fn write<E: From<GgufError>>(
    path: &Path,
    metadata: &[(String, MetaValue)],
    tensors: &[NewTensor],
    fill: impl FnMut(usize, &mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let fail = |error: std::io::Error| E::from(GgufError::Write(error));
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mode = Permissions::from_mode(0o666); // less what the user's mask takes away
    let file = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").permissions(mode).tempfile_in(directory).map_err(fail)?;
    write_to(file.as_file(), (metadata, tensors), fill)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    // Without this the name may be lost with the power. The file is whole under it either way, and not every file system can do it.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

fn write_to<E: From<GgufError>>(
    file: &File,
    (metadata, tensors): (&[(String, MetaValue)], &[NewTensor]),
    mut fill: impl FnMut(usize, &mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let fail = |error: std::io::Error| E::from(GgufError::Write(error));
    let header = header(metadata, tensors)?;
    let mut out = Counted { inner: BufWriter::with_capacity(1 << 20, file), count: 0 };
    out.write_all(&header).map_err(fail)?;
    for (index, tensor) in tensors.iter().enumerate() {
        out.pad().map_err(fail)?;
        let before = out.count;
        fill(index, &mut out)?;
        let (found, wanted) = (out.count - before, tensor.bytes().unwrap_or_default());
        if found != wanted {
            return Err(GgufError::Length { tensor: tensor.name.clone(), found, wanted }.into());
        }
    }
    // The last tensor is padded, too, as other writers do it.
    out.pad().map_err(fail)?;
    let file = out.inner.into_inner().map_err(|error| fail(error.into_error()))?;
    file.sync_all().map_err(fail)
}

/// Counts what is written.
struct Counted<'a> {
    inner: BufWriter<&'a File>,
    count: u64,
}

impl Counted<'_> {
    /// Zeros up to the alignment.
    fn pad(&mut self) -> std::io::Result<()> {
        let zeros = self.count.next_multiple_of(DEFAULT_ALIGNMENT as u64) - self.count;
        self.write_all(&[0; DEFAULT_ALIGNMENT][..zeros as usize])
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Everything before the data of the tensors but the padding.
fn header(metadata: &[(String, MetaValue)], tensors: &[NewTensor]) -> Result<Vec<u8>, GgufError> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut out, key);
        put_value(&mut out, value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        let bytes = tensor.bytes().ok_or_else(|| GgufError::NotWritable {
            reason: format!("tensor `{}` of shape {:?} cannot be stored as {}", tensor.name, tensor.shape, tensor.stored),
        })?;
        put_text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&dimension| out.extend((dimension as u64).to_le_bytes()));
        out.extend(TensorType::number_of(tensor.stored).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + bytes).next_multiple_of(DEFAULT_ALIGNMENT as u64);
    }
    Ok(out)
}

/// Numbers of the types of values in the format.
mod number {
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
}

fn put_value(out: &mut Vec<u8>, value: &MetaValue) {
    let array = |out: &mut Vec<u8>, number: u32, count: usize| {
        out.extend(number::ARRAY.to_le_bytes());
        out.extend(number.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        MetaValue::U32(value) => {
            out.extend(number::U32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        MetaValue::F32(value) => {
            out.extend(number::F32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        MetaValue::Bool(value) => {
            out.extend(number::BOOL.to_le_bytes());
            out.push(u8::from(*value));
        }
        MetaValue::Text(text) => {
            out.extend(number::TEXT.to_le_bytes());
            put_text(out, text);
        }
        MetaValue::I32s(values) => {
            array(out, number::I32, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        MetaValue::F32s(values) => {
            array(out, number::F32, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        MetaValue::Texts(texts) => {
            array(out, number::TEXT, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
    }
}
