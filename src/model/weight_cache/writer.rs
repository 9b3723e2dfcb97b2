//! Writes a packed file while the model serves already: on a thread of low priority, from the memory that the model computes with.

use super::bounds::{make_room, tidy};
use super::directory::Directory;
use super::format::{CHUNK_BYTES, Header, Kind, TensorEntry};
use super::{CacheError, PackedKey, WeightCache};
use crate::ops::{WEIGHT_ALIGNMENT, WeightBytes};
use std::fs::File;
use std::io::{Error, ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// Bytes after which what was written goes to the disk: a container pays for pages that wait for it, and ending waits for no more than these.
const SYNC_BYTES: usize = 8 * CHUNK_BYTES;

/// What stands between tensors, at most.
const ZEROS: [u8; WEIGHT_ALIGNMENT] = [0; WEIGHT_ALIGNMENT];

/// Least urgent of what a scheduler knows.
const NICE: i32 = 19;

/// A tensor as it goes into a file.
#[derive(Clone, Debug)]
pub struct PackedTensor {
    name: String,
    rows: usize,
    cols: usize,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Matrix(WeightBytes),
    Vector(Vec<u8>),
}

impl PackedTensor {
    /// A matrix `[rows, cols]` as its backend arranged it.
    pub fn matrix(name: &str, (rows, cols): (usize, usize), bytes: WeightBytes) -> Self {
        Self { name: name.to_owned(), rows, cols, content: Content::Matrix(bytes) }
    }

    /// A vector of f32.
    pub fn vector(name: &str, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.to_owned(), rows: 1, cols: values.len(), content: Content::Vector(bytes) }
    }

    fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Matrix(bytes) => bytes.as_slice(),
            Content::Vector(bytes) => bytes,
        }
    }

    fn entry(&self) -> (String, TensorEntry) {
        let kind = if matches!(self.content, Content::Matrix(_)) { Kind::Matrix } else { Kind::Vector };
        let entry = TensorEntry { kind, rows: self.rows, cols: self.cols, offset: 0, bytes: self.bytes().len() };
        (self.name.clone(), entry)
    }
}

/// A packed file that is being written. Dropping this gives it up, at once and without a trace; [`Self::wait`] lets it become whole.
#[derive(Debug)]
pub struct BackgroundWriter {
    cancelled: Arc<AtomicBool>,
    temporary: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundWriter {
    pub(super) fn start(cache: WeightCache, key: PackedKey, tensors: Vec<PackedTensor>) -> Result<Self, CacheError> {
        let (cancelled, temporary) = (Arc::new(AtomicBool::new(false)), cache.directory.temporary());
        let job = Job { cancelled: cancelled.clone(), temporary: temporary.clone() };
        let directory = cache.directory.path().to_path_buf();
        let body = move || job.run(&cache, &key, &tensors);
        let thread = std::thread::Builder::new().name("weight-cache".to_owned()).spawn(body);
        let thread = thread.map_err(|source| CacheError::Write { file: directory, source })?;
        Ok(Self { cancelled, temporary, thread: Some(thread) })
    }

    /// Waits until the file is written, or failed to be.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic was logged by its hook.
            let _ = thread.join();
        }
    }
}

impl Drop for BackgroundWriter {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            tracing::info!("packed weights are not written: the server ended before; the next start writes them");
        }
        // Without its name the file can no longer become the packed one, however far the writer is. Nothing to remove is the rule.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// What the writing thread knows of its owner.
struct Job {
    cancelled: Arc<AtomicBool>,
    temporary: PathBuf,
}

impl Job {
    fn run(&self, cache: &WeightCache, key: &PackedKey, tensors: &[PackedTensor]) {
        lower_priority();
        let started = Instant::now();
        match write(cache, key, tensors, self) {
            Ok((path, bytes)) => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(file = %path.display(), bytes, seconds, "packed weights written, the next start reads them");
            }
            Err(CacheError::Cancelled) => tracing::info!("packed weights are not written, the server ends"),
            Err(error) => tracing::warn!(reason = %error, "packed weights are not kept; --weight-cache DIR names another place, or off"),
        }
    }

    fn check(&self) -> std::io::Result<()> {
        let cancelled = self.cancelled.load(Ordering::SeqCst);
        if cancelled { Err(Error::new(ErrorKind::Interrupted, "cancelled")) } else { Ok(()) }
    }
}

/// On Linux the niceness is that of a thread; elsewhere it would be the server's, and stays.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "packed weights are written at normal priority");
    }
}

fn write(cache: &WeightCache, key: &PackedKey, tensors: &[PackedTensor], job: &Job) -> Result<(PathBuf, u64), CacheError> {
    let directory: &Directory = &cache.directory;
    let target = cache.path_of(key);
    let entries: Vec<_> = tensors.iter().map(PackedTensor::entry).collect();
    let too_large = || CacheError::TooLarge { bytes: u64::MAX, most: cache.max_bytes };
    let header = Header::lay_out(key, &entries).ok_or_else(too_large)?;
    let bytes = header.contents.end as u64;
    tidy(directory)?;
    make_room(directory, cache.max_bytes, (&target, bytes))?;
    let fill = |file: &mut File| fill(file, key, header, tensors, job);
    let written = directory.publish((&job.temporary, &key.file_name()), fill);
    if written.is_err() && job.check().is_err() {
        return Err(CacheError::Cancelled);
    }
    Ok((written?, bytes))
}

/// The contents first, then the header with their checksums.
fn fill(file: &mut File, key: &PackedKey, mut header: Header, tensors: &[PackedTensor], job: &Job) -> std::io::Result<()> {
    let start = header.contents.start;
    file.seek(SeekFrom::Start(start as u64))?;
    let mut contents = Contents { file, job, written: 0, hasher: blake3::Hasher::new(), checksums: Vec::new() };
    for tensor in tensors {
        let offset = header.tensors.get(&tensor.name).map(|entry| entry.offset);
        let gap = offset.and_then(|offset| ZEROS.get(..offset.checked_sub(contents.written)?));
        contents.write(gap.ok_or_else(|| Error::other(format!("tensor `{}` stands twice", tensor.name)))?)?;
        contents.write(tensor.bytes())?;
    }
    header.checksums = contents.finish();
    let head = header.to_bytes(key);
    if head.len() != start {
        return Err(Error::other("its header has another length than was laid out"));
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&head)?;
    job.check()
}

/// Contents on their way to the file, with the checksum of each chunk.
struct Contents<'a> {
    file: &'a mut File,
    job: &'a Job,
    written: usize,
    hasher: blake3::Hasher,
    checksums: Vec<blake3::Hash>,
}

impl Contents<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.written % CHUNK_BYTES));
            self.job.check()?;
            self.hasher.update(now);
            self.file.write_all(now)?;
            self.written += now.len();
            if self.written.is_multiple_of(CHUNK_BYTES) {
                self.end_chunk();
            }
            if self.written.is_multiple_of(SYNC_BYTES) {
                self.file.sync_data()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn end_chunk(&mut self) {
        self.checksums.push(self.hasher.finalize());
        self.hasher.reset();
    }

    fn finish(mut self) -> Vec<blake3::Hash> {
        if !self.written.is_multiple_of(CHUNK_BYTES) {
            self.end_chunk();
        }
        self.checksums
    }
}

/// Writes the file here and now.
#[cfg(test)]
pub(super) fn write_now(cache: &WeightCache, key: &PackedKey, tensors: &[PackedTensor]) -> Result<PathBuf, CacheError> {
    let job = Job { cancelled: Arc::default(), temporary: cache.directory.temporary() };
    write(cache, key, tensors, &job).map(|(path, _)| path)
}
