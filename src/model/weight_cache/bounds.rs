//! How much a cache directory holds: packed files up to a number of bytes, entries up to a number, and nothing that a dead process left.

use super::CacheError;
use super::directory::{Directory, TEMPORARY};
use super::identity::SOURCE;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Ending of a packed file.
pub(super) const PACKED: &str = "packed";

/// Most bytes of all packed files together: any published size of OpenELM fits in 16 bits, the three smaller ones together.
pub(super) const MAX_CACHE_BYTES: u64 = 8 << 30;

/// Most entries of known source files.
const MAX_SOURCES: usize = 64;

/// A file in the making that was not written to for this long has lost its writer.
const ABANDONED: Duration = Duration::from_secs(3600);

struct Entry {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

/// Files with this ending, the least recently used first.
fn entries(directory: &Path, ending: &str) -> std::io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // Another process may remove files meanwhile; what is gone needs no room.
        let Ok(metadata) = entry.metadata() else { continue };
        let path = entry.path();
        if metadata.is_file() && path.extension().is_some_and(|found| found == ending) {
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push(Entry { path, bytes: metadata.len(), modified });
        }
    }
    found.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
    Ok(found)
}

/// Marks a packed file as used now. It only sets the order of removal, so a directory that cannot be written to is no matter.
pub(super) fn touch(path: &Path) {
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Removes what dead writers left behind, and the oldest entries of source files where there are too many.
pub(super) fn tidy(directory: &Directory) -> Result<(), CacheError> {
    let fail = |source| CacheError::Read { file: directory.path().to_path_buf(), source };
    let abandoned = |entry: &Entry| entry.modified.elapsed().is_ok_and(|age| age >= ABANDONED);
    let left_behind = entries(directory.path(), TEMPORARY).map_err(fail)?.into_iter().filter(abandoned);
    let mut sources = entries(directory.path(), SOURCE).map_err(fail)?;
    let surplus = sources.len().saturating_sub(MAX_SOURCES);
    remove(left_behind.chain(sources.drain(..surplus)))
}

/// Removes packed files, the least recently used first, until a file of `bytes` that becomes `target` has room beside the others.
pub(super) fn make_room(directory: &Directory, max_bytes: u64, (target, bytes): (&Path, u64)) -> Result<(), CacheError> {
    if bytes > max_bytes {
        return Err(CacheError::TooLarge { bytes, most: max_bytes });
    }
    let fail = |source| CacheError::Read { file: directory.path().to_path_buf(), source };
    let mut others = entries(directory.path(), PACKED).map_err(fail)?;
    others.retain(|entry| entry.path != target);
    let mut total = others.iter().fold(bytes, |sum, entry| sum.saturating_add(entry.bytes));
    let surplus = others.into_iter().take_while(|entry| {
        let is_too_much = total > max_bytes;
        total = total.saturating_sub(entry.bytes);
        is_too_much
    });
    remove(surplus)
}

fn remove(surplus: impl Iterator<Item = Entry>) -> Result<(), CacheError> {
    for entry in surplus {
        match std::fs::remove_file(&entry.path) {
            Ok(()) => tracing::debug!(file = %entry.path.display(), "removed from the cache of packed weights"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(CacheError::Write { file: entry.path, source }),
        }
    }
    Ok(())
}
