//! Weights as a backend arranged them, in files that later starts read instead of arranging them again.
//!
//! `runner::paged` asks for the hash of a checkpoint that was seen before ([`WeightCache::known_hash`]), maps its packed file
//! ([`WeightCache::open_file`]) and, where there is none, writes it behind the server's back ([`WeightCache::write_in_background`]).
//!
//! A cache directory holds, all of them mode 0600 and each written under another name and renamed:
//!
//! | file | content |
//! |---|---|
//! | `WEIGHTS-DTYPE-LAYOUT.packed` | arranged weights, see `format` |
//! | `IDENTITY.source` | the hash of the weights of source files that are known by path, size and times |
//! | `NAME.UUID.tmp` | the file that becomes `NAME`, in the making |
//!
//! **Architecture invariant:** nothing that a file says is believed before it was checked; a file that fails is removed and its weights are
//! made anew. A cache that cannot be used never keeps a model from being served.

mod bounds;
mod directory;
mod error;
mod format;
mod identity;
mod packed_file;
mod writer;

pub use error::CacheError;
pub use identity::{FileIdentity, SourceIdentity};
pub use packed_file::PackedFile;
pub use writer::{BackgroundWriter, PackedTensor};

use crate::model::{LoadProgress, Storage};
use crate::ops::Backend;
use bounds::MAX_CACHE_BYTES;
use directory::Directory;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a packed file must have been made of and for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedKey {
    /// Hash of all tensors of the checkpoint: names, shapes, dtypes and values.
    pub weights: blake3::Hash,
    /// How matrices are stored.
    pub storage: Storage,
    /// The backend's [`Backend::packed_layout`].
    pub layout: &'static str,
}

impl PackedKey {
    fn file_name(&self) -> String {
        format!("{}-{}-{}.{}", &self.weights.to_hex()[..32], self.storage, self.layout, bounds::PACKED)
    }
}

/// A cache directory that may be used.
#[derive(Clone, Debug)]
pub struct WeightCache {
    directory: Directory,
    /// Most bytes of all packed files.
    max_bytes: u64,
}

impl WeightCache {
    /// Opens the directory `path`, making it if it is not there.
    ///
    /// # Errors
    /// [`CacheError`] when it cannot be made, belongs to another user or is open to writes of every user.
    pub fn open(path: &Path) -> Result<Self, CacheError> {
        Ok(Self { directory: Directory::open(path)?, max_bytes: MAX_CACHE_BYTES })
    }

    /// The hash of the weights of source files that were seen before and have not changed since.
    pub fn known_hash(&self, identity: &SourceIdentity) -> Option<blake3::Hash> {
        identity::read(&self.directory, identity)
    }

    /// Notes the hash of the weights of source files, unless they changed lately or while they were read.
    ///
    /// # Errors
    /// [`CacheError::Write`].
    pub fn remember(&self, identity: &SourceIdentity, weights: blake3::Hash) -> Result<(), CacheError> {
        identity::write(&self.directory, identity, weights)
    }

    /// Maps and verifies the packed file of `key`; `None` when there is none.
    ///
    /// # Errors
    /// [`CacheError::Invalid`] for a file that failed; it has been removed where that was possible.
    pub fn open_file<B: Backend>(&self, key: &PackedKey, backend: &B, progress: &LoadProgress) -> Result<Option<PackedFile>, CacheError> {
        let path = self.path_of(key);
        match PackedFile::open(&path, key, backend, progress) {
            Ok(file) => {
                bounds::touch(&path);
                Ok(Some(file))
            }
            Err(CacheError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => {
                if is_fault_of_file(&error) {
                    self.discard(key);
                }
                Err(error)
            }
        }
    }

    /// Removes the packed file of `key`, which does not give what it should. Where it cannot be removed, it is refused again at the next start.
    pub fn discard(&self, key: &PackedKey) {
        let _ = std::fs::remove_file(self.path_of(key));
    }

    /// Writes the packed file of `key` on a thread of its own, from the memory that `tensors` share with the model; unless there is such a file,
    /// or another process writes it.
    ///
    /// # Errors
    /// [`CacheError::Write`] when the thread cannot be started; what goes wrong later is logged.
    pub fn write_in_background(self, key: PackedKey, tensors: Vec<PackedTensor>) -> Result<BackgroundWriter, CacheError> {
        BackgroundWriter::start(self, key, tensors)
    }

    fn path_of(&self, key: &PackedKey) -> PathBuf {
        self.directory.path().join(key.file_name())
    }
}

/// Whether the file itself is wrong; too few file handles, for example, say nothing of it.
fn is_fault_of_file(error: &CacheError) -> bool {
    match error {
        CacheError::Read { source, .. } => matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidData),
        error => matches!(error, CacheError::Invalid { .. }),
    }
}

#[cfg(test)]
mod tests;
