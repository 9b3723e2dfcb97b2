//! How much a cache directory holds: packed files, those in the making among them, up to a number of bytes; entries up to a number; and
//! nothing that a dead process left. And who writes a file where several could.

use super::CacheError;
use super::directory::{Directory, TEMPORARY};
use super::identity::SOURCE;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Ending of a packed file.
pub(super) const PACKED: &str = "packed";

/// Most bytes of all packed files together, finished or not: any published size of OpenELM fits in 16 bits, the three smaller ones together.
pub(super) const MAX_CACHE_BYTES: u64 = 8 << 30;

/// Most entries of known source files.
const MAX_SOURCES: usize = 64;

/// A file in the making that was not written to for this long has lost its writer.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A file in the making that was written to this lately will be finished: others need not write the same. A writer pauses no longer than
/// it takes to bring a few megabytes to the disk.
const IN_THE_MAKING: Duration = Duration::from_secs(120);

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

/// Whether another process has written `target`, or does it now. Of two that began at once, one goes on: the one whose file in the making comes
/// first by its path. `own` is that of the asking process, should it have begun.
pub(super) fn is_written_elsewhere(directory: &Directory, target: &Path, own: Option<&Path>) -> Result<bool, CacheError> {
    if target.exists() {
        return Ok(true);
    }
    let fail = |source| CacheError::Read { file: directory.path().to_path_buf(), source };
    let of_target = |path: &Path| directory.becomes(path).is_some_and(|becomes| becomes == target);
    // A clock that was set, or that of another machine, may be ahead.
    let is_fresh = |modified: SystemTime| modified.elapsed().unwrap_or_else(|ahead| ahead.duration()) < IN_THE_MAKING;
    let mut others = entries(directory.path(), TEMPORARY).map_err(fail)?.into_iter().filter(|entry| of_target(&entry.path));
    Ok(others.any(|other| is_fresh(other.modified) && own.is_none_or(|own| *other.path < *own)))
}

/// Removes packed files, the least recently used first, until the file in the making `own` may have `bytes` beside all others. A writer asks
/// again as its file grows, so that nothing gives way to what is never written.
pub(super) fn make_room(directory: &Directory, max_bytes: u64, (own, bytes): (&Path, u64)) -> Result<(), CacheError> {
    let fail = |source| CacheError::Read { file: directory.path().to_path_buf(), source };
    let sum = |entries: &[Entry]| entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.bytes));
    let packed = entries(directory.path(), PACKED).map_err(fail)?;
    let mut making = entries(directory.path(), TEMPORARY).map_err(fail)?;
    making.retain(|entry| entry.path != own);
    let making = sum(&making).saturating_add(bytes);
    if making > max_bytes {
        return Err(CacheError::NoRoom { most: max_bytes });
    }
    let mut total = sum(&packed).saturating_add(making);
    let surplus = packed.into_iter().take_while(|entry| {
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
