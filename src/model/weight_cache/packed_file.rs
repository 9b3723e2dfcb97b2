//! A packed file that was mapped, verified, and gives its tensors.

use super::format::{CHUNK_BYTES, Header, Kind, TensorEntry};
use super::{CacheError, PackedKey};
use crate::model::{LoadProgress, LoadStage};
use crate::ops::{Backend, MappedFile, WeightBytes};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A verified packed file. What it gives keeps it mapped, also when its name is gone; the CPU backend copies it and lets it go.
#[derive(Debug)]
pub struct PackedFile {
    map: MappedFile,
    header: Header,
}

impl PackedFile {
    /// Maps the file at `path`, checks its header against `key` and its contents against their checksums, on the backend's threads.
    pub(super) fn open<B: Backend>(path: &Path, key: &PackedKey, backend: &B, progress: &LoadProgress) -> Result<Self, CacheError> {
        let map = MappedFile::open_private(path).map_err(|source| CacheError::Read { file: path.to_path_buf(), source })?;
        let invalid = |problem| CacheError::Invalid { file: path.to_path_buf(), problem };
        let header = Header::parse(map.as_slice(), key).map_err(invalid)?;
        let file = Self { map, header };
        file.verify(backend, progress).map_err(invalid)?;
        Ok(file)
    }

    fn contents(&self) -> &[u8] {
        // The header was checked against the length of the file.
        self.map.as_slice().get(self.header.contents.clone()).unwrap_or_default()
    }

    fn verify<B: Backend>(&self, backend: &B, progress: &LoadProgress) -> Result<(), String> {
        let contents = self.contents();
        progress.begin(LoadStage::Verifying, contents.len() as u64);
        let chunks: Vec<(&[u8], &blake3::Hash)> = contents.chunks(CHUNK_BYTES).zip(&self.header.checksums).collect();
        let damaged = AtomicUsize::new(usize::MAX);
        backend.for_each(chunks.len(), &|index| {
            let (chunk, checksum) = chunks[index];
            if blake3::hash(chunk) != *checksum {
                damaged.fetch_min(index, Ordering::Relaxed);
            }
            progress.add(chunk.len());
        });
        match damaged.into_inner() {
            usize::MAX => Ok(()),
            index => Err(format!("the checksum of its bytes from {} on is wrong", self.header.contents.start + index * CHUNK_BYTES)),
        }
    }

    /// The arranged bytes of matrix `name`; `None` when it is not there or has another shape.
    pub fn matrix(&self, name: &str, (rows, cols): (usize, usize)) -> Option<WeightBytes> {
        let entry = self.entry(name, Kind::Matrix)?;
        let start = self.header.contents.start.checked_add(entry.offset)?;
        let range = start..start.checked_add(entry.bytes)?;
        ((entry.rows, entry.cols) == (rows, cols)).then(|| self.map.weights(range))?
    }

    /// The values of vector `name`; `None` when it is not there or has another length.
    pub fn vector(&self, name: &str, length: usize) -> Option<Vec<f32>> {
        let entry = self.entry(name, Kind::Vector)?;
        let bytes = self.contents().get(entry.offset..)?.get(..entry.bytes)?;
        let (values, rest) = bytes.as_chunks();
        let fits = rest.is_empty() && (entry.rows, entry.cols, values.len()) == (1, length, length);
        fits.then(|| values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    fn entry(&self, name: &str, kind: Kind) -> Option<&TensorEntry> {
        self.header.tensors.get(name).filter(|entry| entry.kind == kind)
    }
}
