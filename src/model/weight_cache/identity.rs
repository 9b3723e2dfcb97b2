//! Source files that were hashed before are known again by what the file system says of them, and not read.
//!
//! An entry is three lines: a title with a version, the hash of the weights, and a checksum over both and the whole identity.

use super::CacheError;
use super::bounds::tidy;
use super::directory::Directory;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Ending of an entry.
pub(super) const SOURCE: &str = "source";

const TITLE: &str = "openelm-server source 1";
const MAX_ENTRY_BYTES: u64 = 1024;

/// A file may change twice within one tick of its file system's clock. One that changed this lately is hashed again the next time.
const SETTLED: Duration = Duration::from_secs(2);

/// A file as its file system knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    path: PathBuf,
    bytes: u64,
    /// Device and inode.
    place: (u64, u64),
    /// Nanoseconds since 1970 of the last change of the content, and of anything.
    changed: [(i64, i64); 2],
    modified: Option<SystemTime>,
}

impl FileIdentity {
    /// The identity of the file at `path`.
    ///
    /// # Errors
    /// The system's.
    pub fn of(path: &Path, metadata: &Metadata) -> std::io::Result<Self> {
        Ok(Self {
            path: path.canonicalize()?,
            bytes: metadata.len(),
            place: (metadata.dev(), metadata.ino()),
            changed: [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())],
            modified: metadata.modified().ok(),
        })
    }

    #[cfg(test)]
    pub(super) fn modified_time(&self) -> SystemTime {
        self.modified.expect("the file system of the tests knows it")
    }

    /// Whether the file is still the same and did not change within the last moments.
    fn is_settled(&self) -> bool {
        let now = self.path.metadata().and_then(|metadata| Self::of(&self.path, &metadata));
        let age = self.modified.and_then(|modified| modified.elapsed().ok());
        now.is_ok_and(|now| now == *self) && age.is_some_and(|age| age >= SETTLED)
    }
}

/// The files of a checkpoint, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceIdentity(pub Vec<FileIdentity>);

impl SourceIdentity {
    /// All of it as text, no two identities the same.
    fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, file| {
            // Writing to a String cannot fail. The path is quoted, so that it cannot look like the rest.
            let _ = writeln!(text, "{:?} {} {:?} {:?}", file.path, file.bytes, file.place, file.changed);
            text
        })
    }

    fn file_name(&self) -> String {
        format!("{}.{SOURCE}", &blake3::hash(self.text().as_bytes()).to_hex()[..32])
    }

    fn entry(&self, weights: blake3::Hash) -> String {
        let head = format!("{TITLE}\n{}\n", weights.to_hex());
        let checksum = blake3::hash(format!("{head}{}", self.text()).as_bytes());
        format!("{head}{}\n", checksum.to_hex())
    }
}

/// The hash that was noted for `identity`.
pub(super) fn read(directory: &Directory, identity: &SourceIdentity) -> Option<blake3::Hash> {
    let entry = String::from_utf8(directory.read(&identity.file_name(), MAX_ENTRY_BYTES)?).ok()?;
    let weights = blake3::Hash::from_hex(entry.lines().nth(1)?).ok()?;
    (entry == identity.entry(weights)).then_some(weights)
}

/// Notes the hash of `identity`.
pub(super) fn write(directory: &Directory, identity: &SourceIdentity, weights: blake3::Hash) -> Result<(), CacheError> {
    if identity.0.iter().all(FileIdentity::is_settled) {
        directory.publish_bytes(&identity.file_name(), identity.entry(weights).as_bytes())?;
        tidy(directory)?;
    }
    Ok(())
}
