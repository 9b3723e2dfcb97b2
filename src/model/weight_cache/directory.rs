//! A cache directory: who may write to it, and files that appear whole or not at all.

use super::CacheError;
use crate::ops::check_private;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Ending of a file in the making.
pub(super) const TEMPORARY: &str = "tmp";

/// A directory that belongs to this user and is closed to writes of all others.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Opens `path`, making it and those above it with mode 0700 where they are not there.
    pub(super) fn open(path: &Path) -> Result<Self, CacheError> {
        let refused = |reason| CacheError::Directory { directory: path.to_path_buf(), reason };
        let fail = |error: std::io::Error| refused(error.to_string());
        if !path.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        }
        // What the name leads to is checked, and used under that name from here on.
        let path = path.canonicalize().map_err(fail)?;
        let metadata = path.metadata().map_err(fail)?;
        if !metadata.is_dir() {
            return Err(refused("it is not a directory".to_owned()));
        }
        check_private(&metadata).map_err(refused)?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path for the file in the making that becomes `name`: it tells so, and no other process chooses it.
    pub(super) fn temporary(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.{}.{TEMPORARY}", uuid::Uuid::new_v4()))
    }

    /// What the file in the making at `path` becomes, by its name; `None` for any other file.
    pub(super) fn becomes(&self, path: &Path) -> Option<PathBuf> {
        let name = path.file_name()?.to_str()?.strip_suffix(TEMPORARY)?.strip_suffix('.')?;
        let (name, _) = name.rsplit_once('.')?;
        Some(self.path.join(name))
    }

    /// Makes the file that appears under `name` once `fill` has written it: all of it, or nothing of it.
    pub(super) fn publish(
        &self,
        (temporary, name): (&Path, &str),
        fill: impl FnOnce(&mut File) -> Result<(), CacheError>,
    ) -> Result<PathBuf, CacheError> {
        let target = self.path.join(name);
        let fail = |source| CacheError::Write { file: target.clone(), source };
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(temporary).map_err(fail)?;
        let written = fill(&mut file).and_then(|()| file.sync_all().and_then(|()| std::fs::rename(temporary, &target)).map_err(fail));
        match written {
            Ok(()) => {
                // Without this the name may be lost with the power; the file would be made again.
                let _ = File::open(&self.path).and_then(|directory| directory.sync_all());
                Ok(target)
            }
            Err(error) => {
                // Where it cannot be removed now, a later start does it by its age.
                let _ = std::fs::remove_file(temporary);
                Err(error)
            }
        }
    }

    /// As [`Self::publish`], for a small file in memory.
    pub(super) fn publish_bytes(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, CacheError> {
        let fail = |source| CacheError::Write { file: self.path.join(name), source };
        self.publish((&self.temporary(name), name), |file| file.write_all(bytes).map_err(fail))
    }

    /// The first `most` bytes of a file of this user; `None` when there is no such file or another may write to it.
    pub(super) fn read(&self, name: &str, most: u64) -> Option<Vec<u8>> {
        let file = File::open(self.path.join(name)).ok()?;
        check_private(&file.metadata().ok()?).ok()?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}
