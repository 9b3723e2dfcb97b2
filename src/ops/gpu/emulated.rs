//! A device on the host, for tests: the CUDA or the Metal kernels compiled by the C++ compiler (`tests/gpu`), and for CUDA, whose products are a
//! library's, a plain matrix product.
//!
//! As on a device nothing is done when it is sent, but when somebody waits for it: work waits in a queue, bytes to be uploaded in a small ring.
//! So whoever relies on something being done, or overwrites what is still to be read, is found out.

use super::cuda_product::{few_rows, few_rows_swiglu};
use super::device::{Arg, At, Device, DeviceError, Half, Launch, Product};
use super::metal_product;
use super::ring::{Mark, Ring};
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

type LaunchFn = unsafe extern "C" fn(*const c_char, *const u32, *const u32, u32, *mut *mut c_void, *mut c_char, usize) -> c_int;
type AllocatedFn = unsafe extern "C" fn(*mut c_void, usize);
type FreedFn = unsafe extern "C" fn(*mut c_void);

/// The kernels in a library of this machine. Calls are made one at a time.
struct Library {
    launch: LaunchFn,
    allocated: AllocatedFn,
    freed: FreedFn,
    entry: Mutex<()>,
}

/// Whether every access is checked, for its bounds and for races.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checks {
    Off,
    On,
}

/// Whose kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Cuda,
    Metal,
}

impl Language {
    pub(crate) const ALL: [Self; 2] = [Self::Cuda, Self::Metal];

    /// As names of its files have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }
}

/// Compiles the kernels once for every state of their sources, and opens them.
fn library(language: Language, checks: Checks) -> &'static Library {
    static LIBRARIES: [[OnceLock<Library>; 2]; 2] = [const { [const { OnceLock::new() }; 2] }; 2];
    LIBRARIES[language as usize][checks as usize].get_or_init(|| {
        let variant = if checks == Checks::On { "checked" } else { "fast" };
        let path = build().join(format!("lib{}_{variant}.so", language.name()));
        // SAFETY: our own library, whose functions have these types, and which is never closed.
        unsafe {
            let library =
                Box::leak(Box::new(libloading::Library::new(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))));
            Library {
                launch: *library.get(b"gpu_host_launch").expect("the emulator launches"),
                allocated: *library.get(b"gpu_host_allocated").expect("the emulator knows memory"),
                freed: *library.get(b"gpu_host_freed").expect("the emulator knows memory"),
                entry: Mutex::new(()),
            }
        }
    })
}

/// Builds the libraries, unless it was done for these sources; returns their directory.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = ["tests/gpu", "src/ops/gpu/cuda", "src/ops/gpu/metal"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.is_file() && path.extension().is_none_or(|extension| extension != "rs"))
        .collect();
    files.sort();
    let mut hash = blake3::Hasher::new();
    for file in &files {
        hash.update(&std::fs::read(file).unwrap());
    }
    let target = root.join("target/gpu-kernels");
    let folder = target.join(&hash.finalize().to_hex()[..16]);
    if !folder.join("complete").exists() {
        // Tests run in processes of their own: each builds in its own directory, and the first to finish names it.
        std::fs::create_dir_all(&target).unwrap();
        let own = tempfile::tempdir_in(&target).unwrap();
        let status = Command::new("bash").arg(root.join("tests/gpu/build.sh")).arg(own.path()).status().unwrap();
        assert!(status.success(), "tests/gpu/build.sh failed: is g++ installed?");
        std::fs::write(own.path().join("complete"), "").unwrap();
        if std::fs::rename(own.path(), &folder).is_ok() {
            let _ = own.keep();
        }
    }
    folder
}

/// See the module.
pub(crate) struct EmulatedDevice {
    language: Language,
    library: &'static Library,
    /// What is being recorded.
    recorded: Mutex<Option<Vec<Recorded>>>,
    queue: Mutex<Queue>,
    /// Bytes that are allocated.
    used: Arc<AtomicU64>,
}

/// Memory of an emulated device.
const ALL_BYTES: u64 = 1 << 30;

/// Bytes on their way to the device: less than two large steps have, so that the ring goes round.
const STAGING: usize = 64 << 10;

/// Something to do later, with addresses.
#[derive(Clone)]
pub(crate) enum Recorded {
    Launch { name: String, grid: [u32; 3], threads: u32, values: Vec<u64> },
    Product { weight: usize, x: usize, out: usize, shape: [usize; 3], half: Half, is_added: bool },
}

/// What was sent.
enum Work {
    Do(Recorded),
    /// Bytes of the ring.
    Upload {
        place: usize,
        bytes: usize,
        to: usize,
    },
    SendBack {
        from: usize,
        landing: Arc<Mutex<Vec<u8>>>,
    },
}

/// What is to be done, and what of it was read.
struct Queue {
    work: VecDeque<Work>,
    /// How much was done in all.
    done: u64,
    ring: Ring,
    staging: Vec<u8>,
    /// The first failure, of which whoever waits is told.
    fault: Option<DeviceError>,
}

impl Queue {
    fn send(&mut self, work: Work) {
        self.work.push_back(work);
    }

    /// How much was sent in all.
    fn sent(&self) -> u64 {
        self.done + self.work.len() as u64
    }
}

/// Bytes on their way back.
pub(crate) struct EmulatedReturning {
    landing: Arc<Mutex<Vec<u8>>>,
    sent: u64,
    staged: Mark,
}

impl EmulatedDevice {
    pub(crate) fn new(language: Language, checks: Checks) -> Self {
        Self {
            language,
            library: library(language, checks),
            recorded: Mutex::new(None),
            queue: Mutex::new(Queue { work: VecDeque::new(), done: 0, ring: Ring::new(STAGING), staging: vec![0; STAGING], fault: None }),
            used: Arc::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what was sent up to a moment.
    fn do_until(&self, queue: &mut Queue, sent: u64) -> Result<(), DeviceError> {
        while queue.done < sent {
            let Some(work) = queue.work.pop_front() else { break };
            queue.done += 1;
            if queue.fault.is_none() {
                queue.fault = self.work(work, &queue.staging).err();
            }
        }
        queue.fault.clone().map_or(Ok(()), Err)
    }

    /// Does all that was sent.
    fn do_all(&self, queue: &mut Queue) -> Result<(), DeviceError> {
        let sent = queue.sent();
        self.do_until(queue, sent)?;
        queue.ring.clear();
        Ok(())
    }

    fn work(&self, work: Work, staging: &[u8]) -> Result<(), DeviceError> {
        match work {
            Work::Do(recorded) => self.execute(recorded),
            Work::Upload { place, bytes, to } => {
                // SAFETY: room for the bytes was checked when they were sent, and the memory is still there.
                unsafe { std::ptr::copy_nonoverlapping(staging[place..place + bytes].as_ptr(), to as *mut u8, bytes) };
                Ok(())
            }
            Work::SendBack { from, landing } => {
                let mut landing = landing.lock().unwrap_or_else(PoisonError::into_inner);
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, landing.as_mut_ptr(), landing.len()) };
                Ok(())
            }
        }
    }

    /// Keeps `work` if there is a recording, else sends it.
    fn keep_or_send(&self, work: Recorded) {
        match &mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(recorded) => recorded.push(work),
            None => self.queue().send(Work::Do(work)),
        }
    }

    fn assert_no_recording(&self) {
        assert!(self.recorded.lock().unwrap_or_else(PoisonError::into_inner).is_none(), "only launches and products are recorded");
    }

    fn execute(&self, work: Recorded) -> Result<(), DeviceError> {
        match work {
            Recorded::Launch { name, grid, threads, values } => {
                self.launch_values(&name, grid, threads, values).map_err(|detail| DeviceError::Call { call: name, detail })
            }
            Recorded::Product { weight, x, out, shape, half, is_added } => {
                // SAFETY: the places were checked when they were given, and the memory is still there.
                unsafe { multiply((weight, x, out), shape, half, is_added) };
                Ok(())
            }
        }
    }

    /// Launches a kernel by name; the message of what is wrong with it.
    pub(crate) fn launch_named(&self, name: &str, grid: [u32; 3], threads: u32, args: &[Arg<'_, HostMemory>]) -> Result<(), String> {
        self.launch_values(name, grid, threads, args.iter().map(argument).collect())
    }

    fn launch_values(&self, name: &str, grid: [u32; 3], threads: u32, mut values: Vec<u64>) -> Result<(), String> {
        let mut places: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let (name, block) = (CString::new(name).unwrap(), [threads, 1, 1]);
        let mut message = [0u8; 500];
        let _entry = self.library.entry.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the arguments are those of the kernel, and live until it returns. The library checks where they point.
        let failed = unsafe {
            let (places, message) = (places.as_mut_ptr(), message.as_mut_ptr());
            (self.library.launch)(name.as_ptr(), grid.as_ptr(), block.as_ptr(), 0, places, message.cast(), 500)
        };
        let text = CStr::from_bytes_until_nul(&message).unwrap_or_default().to_string_lossy().into_owned();
        if failed == 0 { Ok(()) } else { Err(text) }
    }
}

fn argument(arg: &Arg<'_, HostMemory>) -> u64 {
    match arg {
        Arg::At(at) => at.memory.pointer(at.offset, 0) as u64,
        Arg::Int(int) => u64::from(int.cast_unsigned()),
        Arg::Float(float) => u64::from(float.to_bits()),
    }
}

/// Sums in f32, in order. `places`: weight `[outputs, inputs]` and x `[rows, inputs]` in `half`, out `[rows, outputs]` f32.
///
/// # Safety
/// So many values must be there, and nobody else may use them now.
unsafe fn multiply(places: (usize, usize, usize), [rows, inputs, outputs]: [usize; 3], half: Half, is_added: bool) {
    let widen = |place: usize, count: usize| -> Vec<f32> {
        // SAFETY: as promised.
        let halves = unsafe { std::slice::from_raw_parts(place as *const [u8; 2], count) };
        halves.iter().map(|&bytes| half.value(bytes)).collect()
    };
    let (weight, x) = (widen(places.0, outputs * inputs), widen(places.1, rows * inputs));
    // SAFETY: as promised.
    let out = unsafe { std::slice::from_raw_parts_mut(places.2 as *mut f32, rows * outputs) };
    for (x, out) in x.chunks_exact(inputs).zip(out.chunks_exact_mut(outputs)) {
        for (weights, out) in weight.chunks_exact(inputs).zip(out) {
            let sum: f32 = x.iter().zip(weights).fold(0.0, |sum, (&x, &w)| x.mul_add(w, sum));
            *out = if is_added { *out + sum } else { sum };
        }
    }
}

/// Memory of the emulated device: 16 bytes a unit, so that it is aligned as kernels read it.
pub(crate) struct HostMemory {
    library: &'static Library,
    units: Box<[UnsafeCell<[u64; 2]>]>,
    bytes: usize,
    /// Of the device.
    used: Arc<AtomicU64>,
}

// SAFETY: as memory of a device: who uses it sees to the order, here the lock of the library and the backend's queue.
unsafe impl Sync for HostMemory {}

impl std::fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

impl HostMemory {
    /// A place with room for `bytes` bytes.
    fn pointer(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset + bytes <= self.bytes, "{bytes} bytes at {offset} of {}", self.bytes);
        // SAFETY: within the allocation, as was checked.
        unsafe { self.units.as_ptr().cast_mut().cast::<u8>().add(offset) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let _entry = self.library.entry.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: this memory was registered when it was allocated.
        unsafe { (self.library.freed)(self.units.as_ptr().cast_mut().cast()) };
        self.used.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

impl Device for EmulatedDevice {
    type Memory = HostMemory;
    type Recording = Vec<Recorded>;
    type Returning = EmulatedReturning;

    const RECORDS: bool = true;

    fn recording_bytes(&self) -> u64 {
        512 << 10
    }

    fn description(&self) -> String {
        format!("emulated {}", self.language.name())
    }

    fn arithmetic(&self) -> String {
        format!("emulated-{}", self.language.name())
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(ALL_BYTES - self.used.load(Ordering::Relaxed))
    }

    fn allocate(&self, bytes: usize, what: &'static str) -> Result<HostMemory, DeviceError> {
        self.assert_no_recording();
        // What was there before may go, and must not be used after that.
        self.do_all(&mut self.queue())?;
        if self.used.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64 > ALL_BYTES {
            self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
            return Err(DeviceError::Memory { bytes, what });
        }
        let units = (0..bytes.div_ceil(16).max(1)).map(|_| UnsafeCell::new([0; 2])).collect();
        let memory = HostMemory { library: self.library, units, bytes, used: Arc::clone(&self.used) };
        let _entry = self.library.entry.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the memory lives until it is dropped, which tells the library.
        unsafe { (self.library.allocated)(memory.units.as_ptr().cast_mut().cast(), bytes) };
        Ok(memory)
    }

    fn upload(&self, bytes: &[u8], to: At<'_, HostMemory>) -> Result<(), DeviceError> {
        self.assert_no_recording();
        let to = to.memory.pointer(to.offset, bytes.len()) as usize;
        let mut queue = self.queue();
        let Some(place) = queue.ring.take(bytes.len()) else {
            self.do_all(&mut queue)?;
            // SAFETY: room for the bytes was checked, and nothing is going on.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
            return Ok(());
        };
        queue.staging[place..place + bytes.len()].copy_from_slice(bytes);
        queue.send(Work::Upload { place, bytes: bytes.len(), to });
        Ok(())
    }

    fn download(&self, from: At<'_, HostMemory>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.assert_no_recording();
        self.do_all(&mut self.queue())?;
        let from = from.memory.pointer(from.offset, bytes.len());
        // SAFETY: so many bytes are there.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn send_back(&self, from: At<'_, HostMemory>, bytes: usize) -> Result<EmulatedReturning, DeviceError> {
        self.assert_no_recording();
        let from = from.memory.pointer(from.offset, bytes) as usize;
        let landing = Arc::new(Mutex::new(vec![0; bytes]));
        let mut queue = self.queue();
        queue.send(Work::SendBack { from, landing: Arc::clone(&landing) });
        Ok(EmulatedReturning { landing, sent: queue.sent(), staged: queue.ring.mark() })
    }

    fn receive(&self, returning: EmulatedReturning, out: &mut [u8]) -> Result<(), DeviceError> {
        let mut queue = self.queue();
        self.do_until(&mut queue, returning.sent)?;
        queue.ring.free(returning.staged);
        out.copy_from_slice(&returning.landing.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    #[cfg(test)]
    fn wait(&self) -> Result<(), DeviceError> {
        self.do_all(&mut self.queue())
    }

    fn launch(&self, launch: &Launch<'_, HostMemory>) -> Result<(), DeviceError> {
        let Launch { kernel, grid, threads, args } = launch;
        let (name, values) = (kernel.to_string(), args.iter().map(argument).collect());
        self.keep_or_send(Recorded::Launch { name, grid: *grid, threads: *threads, values });
        Ok(())
    }

    fn multiply(&self, product: &Product<'_, HostMemory>) -> Result<(), DeviceError> {
        let Product { rows, inputs, outputs, half, is_added, .. } = *product;
        let place = |at: At<'_, HostMemory>, bytes: usize| at.memory.pointer(at.offset, bytes) as usize;
        let weight = place(product.weight, outputs * inputs * 2);
        let (x, out) = (place(product.x, rows * inputs * 2), place(product.out, rows * outputs * size_of::<f32>()));
        let is_sent = match self.language {
            Language::Metal => Some(metal_product::launches(product, |launch| self.launch(launch))),
            Language::Cuda => few_rows(product, |launch| self.launch(launch)),
        };
        if let Some(sent) = is_sent {
            return sent;
        }
        self.keep_or_send(Recorded::Product { weight, x, out, shape: [rows, inputs, outputs], half, is_added });
        Ok(())
    }

    fn multiply_swiglu(&self, product: &Product<'_, HostMemory>, out: At<'_, HostMemory>) -> Result<bool, DeviceError> {
        if self.language == Language::Metal {
            return metal_product::swiglu(product, out, |launch| self.launch(launch));
        }
        few_rows_swiglu(product, out, |launch| self.launch(launch)).transpose().map(|sent| sent.is_some())
    }

    fn begin_recording(&self) -> Result<(), DeviceError> {
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        Ok(())
    }

    fn end_recording(&self) -> Result<Vec<Recorded>, DeviceError> {
        Ok(self.recorded.lock().unwrap_or_else(PoisonError::into_inner).take().expect("something is being recorded"))
    }

    fn replay(&self, recording: &Vec<Recorded>) -> Result<(), DeviceError> {
        recording.iter().cloned().for_each(|work| self.queue().send(Work::Do(work)));
        Ok(())
    }
}
