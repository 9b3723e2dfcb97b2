//! Writes a packed file while the model serves already: on a thread of low priority, from the memory that the model computes with.

use super::bounds::{is_written_elsewhere, make_room, tidy};
use super::format::{CHUNK_BYTES, Header, Kind, TensorEntry};
use super::{CacheError, PackedKey, WeightCache};
use crate::ops::{WEIGHT_ALIGNMENT, WeightBytes};
use std::fs::File;
use std::io::{Error, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// Bytes after which what was written goes to the disk, and a writer looks at what others do: a container pays for pages that wait for the
/// disk, and ending waits for no more than these.
const SYNC_BYTES: usize = 8 * CHUNK_BYTES;

/// What stands between tensors, at most.
const ZEROS: [u8; WEIGHT_ALIGNMENT] = [0; WEIGHT_ALIGNMENT];

/// Least urgent of what a scheduler knows.
#[cfg(target_os = "linux")]
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
    target: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundWriter {
    pub(super) fn start(cache: WeightCache, key: PackedKey, tensors: Vec<PackedTensor>) -> Result<Self, CacheError> {
        let job = Job::new(&cache, &key);
        let (cancelled, temporary, target) = (job.cancelled.clone(), job.temporary.clone(), job.target.clone());
        let directory = cache.directory.path().to_path_buf();
        let body = move || job.run(&cache, &key, &tensors);
        let thread = std::thread::Builder::new().name("weight-cache".to_owned()).spawn(body);
        let thread = thread.map_err(|source| CacheError::Write { file: directory, source })?;
        Ok(Self { cancelled, temporary, target, thread: Some(thread) })
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
        // Without its name the file can no longer become the packed one, however far the writer is. Nothing to remove is the rule.
        let was_cut = std::fs::remove_file(&self.temporary).is_ok();
        let is_at_work = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        // The thread, which may not live long enough, leaves it to this to tell.
        if was_cut || is_at_work && !self.target.exists() {
            tracing::info!("packed weights are not written: the server ended before; the next start writes them");
        }
    }
}

/// What the writing thread knows of its owner.
struct Job {
    cancelled: Arc<AtomicBool>,
    temporary: PathBuf,
    target: PathBuf,
}

impl Job {
    fn new(cache: &WeightCache, key: &PackedKey) -> Self {
        Self { cancelled: Arc::default(), temporary: cache.directory.temporary(&key.file_name()), target: cache.path_of(key) }
    }

    fn run(&self, cache: &WeightCache, key: &PackedKey, tensors: &[PackedTensor]) {
        lower_priority();
        let started = Instant::now();
        match write(cache, key, tensors, self) {
            Ok((path, bytes)) => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(file = %path.display(), bytes, seconds, "packed weights written, the next start reads them");
            }
            // Whoever cancelled it has told so.
            Err(CacheError::Cancelled) => {}
            Err(error @ CacheError::Elsewhere) => tracing::info!(reason = %error, "packed weights are not written"),
            Err(error) => tracing::warn!(reason = %error, "packed weights are not kept; --weight-cache DIR names another place, or off"),
        }
    }

    fn check(&self) -> Result<(), CacheError> {
        let cancelled = self.cancelled.load(Ordering::SeqCst);
        if cancelled { Err(CacheError::Cancelled) } else { Ok(()) }
    }

    fn failed(&self, source: Error) -> CacheError {
        CacheError::Write { file: self.target.clone(), source }
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
    let entries: Vec<_> = tensors.iter().map(PackedTensor::entry).collect();
    let too_large = |bytes| CacheError::TooLarge { bytes, most: cache.max_bytes };
    let header = Header::lay_out(key, &entries).ok_or_else(|| too_large(u64::MAX))?;
    let bytes = header.contents.end as u64;
    if bytes > cache.max_bytes {
        return Err(too_large(bytes));
    }
    tidy(&cache.directory)?;
    if is_written_elsewhere(&cache.directory, &job.target, None)? {
        return Err(CacheError::Elsewhere);
    }
    let fill = |file: &mut File| fill((file, cache), (key, header), tensors, job);
    let written = cache.directory.publish((&job.temporary, &key.file_name()), fill);
    // A file that lost its name cannot get the other one.
    if written.is_err() {
        job.check()?
    }
    Ok((written?, bytes))
}

/// The contents first, then the header with their checksums.
fn fill(
    (file, cache): (&mut File, &WeightCache),
    (key, mut header): (&PackedKey, Header),
    tensors: &[PackedTensor],
    job: &Job,
) -> Result<(), CacheError> {
    let (start, end) = (header.contents.start, header.contents.end);
    file.seek(SeekFrom::Start(start as u64)).map_err(|error| job.failed(error))?;
    let mut contents = Contents { file, cache, job, range: start..end, written: 0, hasher: blake3::Hasher::new(), checksums: Vec::new() };
    contents.look_around()?;
    for tensor in tensors {
        let offset = header.tensors.get(&tensor.name).map(|entry| entry.offset);
        let gap = offset.and_then(|offset| ZEROS.get(..offset.checked_sub(contents.written)?));
        contents.write(gap.ok_or_else(|| job.failed(Error::other(format!("tensor `{}` stands twice", tensor.name))))?)?;
        contents.write(tensor.bytes())?;
    }
    header.checksums = contents.finish();
    let head = header.to_bytes(key);
    if head.len() != start {
        return Err(job.failed(Error::other("its header has another length than was laid out")));
    }
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&head)).map_err(|error| job.failed(error))?;
    job.check()
}

/// Contents on their way to the file, with the checksum of each chunk.
struct Contents<'a> {
    file: &'a mut File,
    cache: &'a WeightCache,
    job: &'a Job,
    /// Where they stand in the file.
    range: Range<usize>,
    written: usize,
    hasher: blake3::Hasher,
    checksums: Vec<blake3::Hash>,
}

impl Contents<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), CacheError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.written % CHUNK_BYTES));
            self.job.check()?;
            self.hasher.update(now);
            self.file.write_all(now).map_err(|error| self.job.failed(error))?;
            self.written += now.len();
            if self.written.is_multiple_of(CHUNK_BYTES) {
                self.end_chunk();
            }
            if self.written.is_multiple_of(SYNC_BYTES) {
                self.file.sync_data().map_err(|error| self.job.failed(error))?;
                self.look_around()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Whether this file is still wanted, and room for what is written next.
    fn look_around(&self) -> Result<(), CacheError> {
        self.job.check()?;
        let Job { temporary, target, .. } = self.job;
        if is_written_elsewhere(&self.cache.directory, target, Some(temporary))? {
            return Err(CacheError::Elsewhere);
        }
        let next = self.range.end.min(self.range.start + self.written + SYNC_BYTES);
        make_room(&self.cache.directory, self.cache.max_bytes, (temporary, next as u64))
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
    write(cache, key, tensors, &Job::new(cache, key)).map(|(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{backend, cache, key, names, tensors};
    use super::*;
    use crate::ops::DType;
    use std::io::Write;
    use std::sync::{Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Lines that this thread logs meanwhile.
    fn logged(run: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, run);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_writer_that_was_cut_short_leaves_it_to_its_owner_to_tell() {
        let ((_directory, cache), key) = (cache(), key(1, DType::Bf16));
        let (_, tensors) = tensors(&backend(), DType::Bf16, &[(64, 64)]);
        let job = Job::new(&cache, &key);
        job.cancelled.store(true, Ordering::SeqCst);
        assert_eq!(logged(|| job.run(&cache, &key, &tensors)), [""; 0]);
        assert!(names(&cache).is_empty());
        // As a writer in the middle of its work.
        let (at_work, job) = (Arc::new(AtomicBool::new(false)), Job::new(&cache, &key));
        let stop = at_work.clone();
        std::fs::write(&job.temporary, "half of it").unwrap();
        let thread = std::thread::spawn(move || while !stop.load(Ordering::SeqCst) {});
        let Job { cancelled, temporary, target } = job;
        let writer = BackgroundWriter { cancelled, temporary, target, thread: Some(thread) };
        let lines = logged(|| drop(writer));
        assert!(lines.len() == 1 && lines[0].contains("packed weights are not written"), "{lines:?}");
        assert!(names(&cache).is_empty());
        at_work.store(true, Ordering::SeqCst);
    }

    #[test]
    fn a_writer_that_has_finished_says_so_and_its_owner_nothing() {
        let ((_directory, cache), key) = (cache(), key(1, DType::Bf16));
        let (_, tensors) = tensors(&backend(), DType::Bf16, &[(64, 64)]);
        let job = Job::new(&cache, &key);
        let lines = logged(|| job.run(&cache, &key, &tensors));
        assert!(lines.len() == 1 && lines[0].contains("packed weights written"), "{lines:?}");
        let Job { cancelled, temporary, target } = job;
        let thread = std::thread::spawn(|| ());
        while !thread.is_finished() {}
        assert_eq!(logged(|| drop(BackgroundWriter { cancelled, temporary, target, thread: Some(thread) })), [""; 0]);
        // The next one finds it there.
        let lines = logged(|| Job::new(&cache, &key).run(&cache, &key, &tensors));
        assert!(lines.len() == 1 && lines[0].contains("another server has written the same weights"), "{lines:?}");
    }
}
