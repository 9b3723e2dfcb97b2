//! The bytes of weights as a backend arranged them: in memory of their own, or in a file that is mapped. Shared, never written again.
//!
//! A backend that can keep its arrangement in a file gives and takes these; who writes and finds such files is not known here.

use super::cpu::Aligned;
use memmap2::Mmap;
use std::any::Any;
use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// Boundary that weights begin on, in memory and in files: a cache line.
pub const WEIGHT_ALIGNMENT: usize = 64;

/// Immutable bytes of weights, beginning on a multiple of [`WEIGHT_ALIGNMENT`]. A clone shares them.
#[derive(Clone)]
pub struct WeightBytes {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the memory behind `start` alive.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the bytes are never written while a WeightBytes lives, and their owner may be dropped by any thread.
unsafe impl Send for WeightBytes {}
// SAFETY: as above.
unsafe impl Sync for WeightBytes {}

impl std::fmt::Debug for WeightBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WeightBytes({})", self.len)
    }
}

impl WeightBytes {
    /// The bytes.
    #[inline(always)]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes belong to the owner, which lives as long as self and never moves or changes them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl From<Aligned<u8>> for WeightBytes {
    fn from(memory: Aligned<u8>) -> Self {
        let bytes = memory.as_slice();
        let (start, len) = (NonNull::from(bytes).cast(), bytes.len());
        Self { start, len, _owner: Arc::new(memory) }
    }
}

/// A file mapped for reading.
#[derive(Clone, Debug)]
pub struct MappedFile {
    map: Arc<Mmap>,
}

impl MappedFile {
    /// Maps the file at `path`, which must not be empty, of this user and not open to writes of every user.
    ///
    /// # Errors
    /// The system's; [`ErrorKind::PermissionDenied`] when [`check_private`] refuses the file.
    pub fn open_private(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        check_private(&metadata).map_err(|reason| Error::new(ErrorKind::PermissionDenied, reason))?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(Error::new(ErrorKind::InvalidData, "it is empty or not a regular file"));
        }
        // SAFETY: the map is read-only. The file is this user's and not open to every user, as just checked; a group that was let in is
        // trusted like the user. This program never changes a file of weights under its final name: it writes others and renames them.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self { map: Arc::new(map) })
    }

    /// Maps a checkpoint at `path`, whoever it belongs to, and says what the file system knows of it.
    ///
    /// # Errors
    /// The system's.
    pub fn open_checkpoint(path: &Path) -> std::io::Result<(Self, Metadata)> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(Error::new(ErrorKind::InvalidData, "it is empty or not a regular file"));
        }
        // SAFETY: the map is read-only; that nobody truncates a checkpoint while it is being loaded is the operator's part, and the map is
        // dropped when loading ends.
        let map = unsafe { Mmap::map(&file) }?;
        Ok((Self { map: Arc::new(map) }, metadata))
    }

    /// All bytes of the file.
    pub fn as_slice(&self) -> &[u8] {
        &self.map
    }

    /// The bytes in `range`; `None` when they are not in the file or do not begin on a multiple of [`WEIGHT_ALIGNMENT`].
    pub fn weights(&self, range: Range<usize>) -> Option<WeightBytes> {
        let bytes = self.map.get(range)?;
        let aligned = bytes.as_ptr().addr().is_multiple_of(WEIGHT_ALIGNMENT);
        aligned.then(|| WeightBytes { start: NonNull::from(bytes).cast(), len: bytes.len(), _owner: self.map.clone() })
    }
}

/// Whether a file or directory is this user's and not open to writes of every user.
///
/// # Errors
/// Why not, as a clause.
pub fn check_private(metadata: &Metadata) -> Result<(), String> {
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(format!("it belongs to user {owner}, and this process is user {user}"));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(format!("every user may write to it (mode {:03o})", metadata.mode() & 0o777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn slices_outlive_the_map_and_the_name_of_the_file() {
        let (dir, path) = file(&[7; 1000]);
        let map = MappedFile::open_private(&path).unwrap();
        let bytes = map.weights(64..1000).unwrap();
        std::fs::write(dir.path().join("other"), [8; 10]).unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        drop(map);
        assert_eq!(bytes.as_slice(), [7; 936]);
        assert_eq!(MappedFile::open_private(&path).unwrap().as_slice(), [8; 10]);
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn slices_outside_of_the_file_or_off_the_boundary_are_none() {
        let (_dir, path) = file(&[7; 1000]);
        let map = MappedFile::open_private(&path).unwrap();
        for range in [0..1001, 1001..1001, 128..64, usize::MAX..usize::MAX, 0..usize::MAX, 1..65, 32..64] {
            assert!(map.weights(range.clone()).is_none(), "{range:?}");
        }
        assert_eq!(map.weights(960..1000).unwrap().as_slice().len(), 40);
    }

    #[test]
    fn empty_open_and_missing_files_are_refused() {
        let (dir, path) = file(&[]);
        assert_eq!(MappedFile::open_private(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(MappedFile::open_private(dir.path()).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(MappedFile::open_private(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let error = MappedFile::open_private(&path).unwrap_err();
        assert!(error.to_string().contains("every user may write to it (mode 666)"), "{error}");
    }
}
