//! CUDA: the driver and cuBLAS through `cudarc`, which opens both libraries when the program runs, so that one binary starts everywhere.
//!
//! Kernels are compiled by nvcc when the crate is built (`build.rs`): machine code for the usual GPUs and PTX of compute capability 8.0 and
//! 9.0, which the driver compiles for others.

use super::cuda_host::{CudaReturning, Landings, STAGING, Staging, failed};
use super::cuda_product::{few_rows, few_rows_swiglu};
use super::device::{Arg, At, Device, DeviceError, Half, Kernel, Launch, Operation, Product};
use cudarc::cublas::{self, sys as blas};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The compiled kernels, by the file they are in.
const MODULES: [(&[Operation], &[u8]); 9] = [
    (&[Operation::Embed], include_bytes!(concat!(env!("OUT_DIR"), "/embed.fatbin"))),
    (&[Operation::RmsNorm], include_bytes!(concat!(env!("OUT_DIR"), "/rms_norm.fatbin"))),
    (&[Operation::QkNormRopeStore], include_bytes!(concat!(env!("OUT_DIR"), "/qk_norm_rope_store.fatbin"))),
    (&[Operation::PagedAttention], include_bytes!(concat!(env!("OUT_DIR"), "/paged_attention.fatbin"))),
    (&[Operation::AttentionMerge], include_bytes!(concat!(env!("OUT_DIR"), "/attention_merge.fatbin"))),
    (&[Operation::Swiglu, Operation::Silu], include_bytes!(concat!(env!("OUT_DIR"), "/activation.fatbin"))),
    (&[Operation::Gather], include_bytes!(concat!(env!("OUT_DIR"), "/gather.fatbin"))),
    (&[Operation::Matvec, Operation::MatvecSwiglu], include_bytes!(concat!(env!("OUT_DIR"), "/matvec.fatbin"))),
    (&[Operation::Choose], include_bytes!(concat!(env!("OUT_DIR"), "/choose.fatbin"))),
];

/// Memory that cuBLAS may use: what it asks for on Hopper. Taken once, so that no product allocates.
const BLAS_WORKSPACE: usize = 32 << 20;

/// Memory of a graph: 1.31 MB were measured for one of 400 launches, more than the largest model has (`cuda_memory_of_recordings`, H100).
const RECORDING_BYTES: u64 = 3 << 19;

/// Versions as the driver and cuBLAS count them.
const CUDA_13: i32 = 13_000;
const CUBLAS_13: i32 = 130_000;

/// Most parameters of a kernel.
const MOST_ARGS: usize = 16;

/// A CUDA device and its queue.
pub struct CudaDevice {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    blas: Blas,
    modules: HashMap<Operation, Module>,
    staging: Mutex<Staging>,
    landings: Mutex<Landings>,
    functions: Mutex<HashMap<Kernel, Function>>,
    /// Whether a kernel may be started before the one before has ended: all of ours wait for it before they touch anything of others.
    pub(super) starts_early: bool,
    description: String,
    arithmetic: String,
}

/// A handle of cuBLAS with its workspace.
struct Blas {
    handle: blas::cublasHandle_t,
    _workspace: CudaMemory,
}

// SAFETY: calls through the handle are ordered by the stream it is bound to, and the backend calls a device from one thread at a time.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: the handle was created in `open` and is destroyed once. A failure leaves nothing to be done.
        let _ = unsafe { cublas::result::destroy_handle(self.handle) };
    }
}

#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

// SAFETY: a module is a handle of the driver, which may be used from any thread with its context current.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: as of `Module`.
unsafe impl Send for Function {}

/// Memory on the device.
#[derive(Debug)]
pub struct CudaMemory {
    context: Arc<CudaContext>,
    pointer: sys::CUdeviceptr,
    bytes: usize,
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the pointer came from `malloc_sync` and is freed once; freeing waits for the work that uses it.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}

/// A graph of launches.
pub struct CudaGraph {
    context: Arc<CudaContext>,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
}

// SAFETY: handles of the driver, which may be used from any thread with their context current; one thread has them at a time.
unsafe impl Send for CudaGraph {}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: both were created together and are destroyed once; the driver keeps what still runs.
            unsafe {
                let _ = result::graph::exec_destroy(self.executable);
                let _ = result::graph::destroy(self.graph);
            }
        }
    }
}

/// The place `at`, for `bytes` bytes.
///
/// # Panics
/// When they are not all in the allocation: a mistake of the backend that must not reach the device.
fn pointer(at: At<'_, CudaMemory>, bytes: usize) -> sys::CUdeviceptr {
    assert!(
        at.offset.checked_add(bytes).is_some_and(|end| end <= at.memory.bytes),
        "{bytes} bytes at {} of {}",
        at.offset,
        at.memory.bytes
    );
    at.memory.pointer + at.offset as u64
}

/// # Panics
/// When weights or activations of a product are not all in their allocations.
fn check(product: &Product<'_, CudaMemory>) {
    pointer(product.weight, product.outputs * product.inputs * 2);
    pointer(product.x, product.rows * product.inputs * 2);
}

fn blas_failed(call: &str) -> impl FnOnce(cublas::result::CublasError) -> DeviceError {
    let call = call.to_owned();
    |error| DeviceError::Call { call, detail: error.to_string() }
}

impl CudaDevice {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] without a driver, [`DeviceError::Missing`] without cuBLAS or a device that will do, [`DeviceError::Call`] when one
    /// of them fails.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        // Whoever calls a function that a library lacks panics: it is not what its name says.
        std::panic::catch_unwind(|| Self::open_found(ordinal)).unwrap_or_else(|panic| {
            let detail = panic.downcast_ref::<String>().map_or("a function is missing", String::as_str);
            Err(DeviceError::Missing(format!("the CUDA libraries of this machine cannot be used: {detail}")))
        })
    }

    fn open_found(ordinal: usize) -> Result<Self, DeviceError> {
        // SAFETY: opens libraries of the system, whose initialisers run.
        let (has_driver, has_blas) = unsafe { (sys::is_culib_present(), blas::is_culib_present()) };
        if !has_driver {
            return Err(DeviceError::Absent("no CUDA driver: libcuda.so.1 cannot be opened".to_owned()));
        }
        if !has_blas {
            return Err(DeviceError::Missing(
                "libcublas.so.13 cannot be opened: install cuBLAS of CUDA 13, or add it to LD_LIBRARY_PATH".to_owned(),
            ));
        }
        check_driver()?;
        let context = CudaContext::new(ordinal).map_err(|error| missing(ordinal, error))?;
        let stream = context.new_stream().map_err(failed("cuStreamCreate"))?;
        let (major, minor) = context.compute_capability().map_err(failed("cuDeviceGetAttribute"))?;
        if major < 8 {
            return Err(DeviceError::Missing(format!("device {ordinal} has compute capability {major}.{minor}, 8.0 is needed")));
        }
        let name = context.name().map_err(failed("cuDeviceGetName"))?;
        let modules = load_modules()?;
        let staging = Mutex::new(Staging::new(&context)?);
        let (blas, version) = open_blas(&context, &stream)?;
        Ok(Self {
            description: format!("cuda:{ordinal} {name}"),
            arithmetic: format!("cuda-{}-cublas{version}", name.replace(' ', "_")),
            context,
            stream,
            blas,
            modules,
            staging,
            landings: Mutex::default(),
            functions: Mutex::new(HashMap::new()),
            starts_early: major >= 9,
        })
    }

    fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))
    }

    fn staging(&self) -> MutexGuard<'_, Staging> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn landings(&self) -> MutexGuard<'_, Landings> {
        self.landings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the queue, after which nothing staged is read any more.
    fn synchronize(&self, staging: &mut Staging) -> Result<(), DeviceError> {
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::synchronize(self.stream.cu_stream()) }.map_err(failed("cuStreamSynchronize"))?;
        staging.ring.clear();
        Ok(())
    }

    fn function(&self, kernel: Kernel) -> Result<Function, DeviceError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = functions.get(&kernel) {
            return Ok(function);
        }
        let module = self.modules[&kernel.operation];
        let name = CString::new(kernel.to_string()).expect("names of kernels have no zero");
        // SAFETY: the module was loaded into this context and is never unloaded.
        let function = unsafe { result::module::get_function(module.0, name) };
        let function = Function(function.map_err(failed(format!("cuModuleGetFunction of {kernel}")))?);
        functions.insert(kernel, function);
        Ok(function)
    }

    /// Any product.
    pub(super) fn multiply_by_blas(&self, product: &Product<'_, CudaMemory>) -> Result<(), DeviceError> {
        self.bind()?;
        let Product { rows, inputs, outputs, half, .. } = *product;
        let (one, beta) = (1.0f32, if product.is_added { 1.0f32 } else { 0.0 });
        let weight = pointer(product.weight, outputs * inputs * 2) as *const c_void;
        let x = pointer(product.x, rows * inputs * 2) as *const c_void;
        let out = pointer(product.out, rows * outputs * size_of::<f32>()) as *mut c_void;
        let (transposed, plain) = (blas::cublasOperation_t::CUBLAS_OP_T, blas::cublasOperation_t::CUBLAS_OP_N);
        // Row-major matrices are column-major ones transposed: out^T = weight · x^T.
        // SAFETY: the memory holds the matrices, checked above; numbers on the host live until the call returns.
        unsafe {
            cublas::result::gemm_ex(
                self.blas.handle,
                transposed,
                plain,
                size(outputs),
                size(rows),
                size(inputs),
                (&raw const one).cast(),
                weight,
                data_type(half),
                size(inputs),
                x,
                data_type(half),
                size(inputs),
                (&raw const beta).cast(),
                out,
                blas::cudaDataType::CUDA_R_32F,
                size(outputs),
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(blas_failed("cublasGemmEx"))
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // A last step may be on its way: it reads and writes memory of the host that goes with the device.
        if self.bind().is_ok() {
            let _ = self.synchronize(&mut self.staging());
        }
    }
}

/// # Errors
/// [`DeviceError::Missing`] for a driver that cannot load what CUDA 13 compiled.
fn check_driver() -> Result<(), DeviceError> {
    let mut version = 0;
    // SAFETY: the driver writes one integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(failed("cuDriverGetVersion"))?;
    if version < CUDA_13 {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(DeviceError::Missing(format!("the driver is one for CUDA {major}.{minor}: one for CUDA 13 is needed, 580 or later")));
    }
    Ok(())
}

/// Lets a kernel start before the one before it in the stream has ended ("programmatic dependent launch").
fn early_start() -> sys::CUlaunchAttribute {
    let mut pad = [0; 64];
    // The integer that allows it, in the order of bytes that every CUDA host has.
    pad[0] = 1;
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { pad },
    }
}

fn missing(ordinal: usize, error: DriverError) -> DeviceError {
    let there = CudaContext::device_count().unwrap_or(0);
    DeviceError::Missing(format!("CUDA device {ordinal} cannot be opened ({there} there): {error}"))
}

fn load_modules() -> Result<HashMap<Operation, Module>, DeviceError> {
    let mut modules = HashMap::new();
    for (operations, image) in MODULES {
        // The driver reads headers of 8 bytes.
        let mut aligned = vec![0u64; image.len().div_ceil(8)];
        for (word, bytes) in aligned.iter_mut().zip(image.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        // SAFETY: the image is one that nvcc wrote; the driver copies it.
        let module = unsafe { result::module::load_data(aligned.as_ptr().cast()) };
        let module = Module(module.map_err(failed(format!("cuModuleLoadData of {}", operations[0].name())))?);
        modules.extend(operations.iter().map(|&operation| (operation, module)));
    }
    Ok(modules)
}

fn open_blas(context: &Arc<CudaContext>, stream: &CudaStream) -> Result<(Blas, i32), DeviceError> {
    let workspace = allocate((context, stream), BLAS_WORKSPACE, "the workspace of cuBLAS")?;
    let handle = cublas::result::create_handle().map_err(blas_failed("cublasCreate"))?;
    let blas = Blas { handle, _workspace: workspace };
    let mut version = 0;
    // SAFETY: handle, stream and workspace live as long as the device; the workspace has so many bytes.
    unsafe {
        cublas::result::set_stream(handle, stream.cu_stream().cast()).map_err(blas_failed("cublasSetStream"))?;
        let room = blas._workspace.pointer as *mut c_void;
        blas::cublasSetWorkspace_v2(handle, room, BLAS_WORKSPACE).result().map_err(blas_failed("cublasSetWorkspace"))?;
        blas::cublasGetVersion_v2(handle, &raw mut version).result().map_err(blas_failed("cublasGetVersion"))?;
    }
    if version < CUBLAS_13 {
        return Err(DeviceError::Missing(format!("cuBLAS {version} was found: that of CUDA 13 is needed, libcublas.so.13")));
    }
    Ok((blas, version))
}

/// Memory, zeroed by the stream that will use it: nothing here waits for other streams, which may be recording.
fn allocate((context, stream): (&Arc<CudaContext>, &CudaStream), bytes: usize, what: &'static str) -> Result<CudaMemory, DeviceError> {
    // The driver takes no allocation of nothing.
    let bytes = bytes.max(1);
    // SAFETY: the context is current; the memory is owned by what is returned and zeroed before anyone reads it.
    unsafe {
        let pointer = result::malloc_sync(bytes).map_err(|_| DeviceError::Memory { bytes, what })?;
        let memory = CudaMemory { context: Arc::clone(context), pointer, bytes };
        result::memset_d8_async(pointer, 0, bytes, stream.cu_stream()).map_err(failed("cuMemsetD8Async"))?;
        Ok(memory)
    }
}

fn data_type(half: Half) -> blas::cudaDataType {
    match half {
        Half::Bf16 => blas::cudaDataType::CUDA_R_16BF,
        Half::F16 => blas::cudaDataType::CUDA_R_16F,
    }
}

fn size(value: usize) -> i32 {
    i32::try_from(value).expect("sizes of a product are below 2^31")
}

impl Device for CudaDevice {
    type Memory = CudaMemory;
    type Recording = CudaGraph;
    type Returning = CudaReturning;

    const RECORDS: bool = true;

    fn recording_bytes(&self) -> u64 {
        RECORDING_BYTES
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn arithmetic(&self) -> String {
        self.arithmetic.clone()
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.bind()?;
        result::mem_get_info().map(|(free, _)| free as u64).map_err(failed("cuMemGetInfo"))
    }

    fn allocate(&self, bytes: usize, what: &'static str) -> Result<CudaMemory, DeviceError> {
        self.bind()?;
        allocate((&self.context, &self.stream), bytes, what)
    }

    fn upload(&self, bytes: &[u8], to: At<'_, CudaMemory>) -> Result<(), DeviceError> {
        self.bind()?;
        let to = pointer(to, bytes.len());
        let mut staging = self.staging();
        if bytes.len() > STAGING {
            // SAFETY: the destination holds the bytes, which are borrowed until the queue is empty.
            unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }.map_err(failed("cuMemcpyHtoDAsync"))?;
            return self.synchronize(&mut staging);
        }
        let place = match staging.ring.take(bytes.len()) {
            Some(place) => place,
            None => {
                self.synchronize(&mut staging)?;
                staging.ring.take(bytes.len()).expect("an empty room has place for what is no larger")
            }
        };
        let staged = staging.at(place, bytes.len());
        staged.copy_from_slice(bytes);
        // SAFETY: the destination holds the bytes; those staged are not touched before the device has read them.
        unsafe { result::memcpy_htod_async(to, staged, self.stream.cu_stream()) }.map_err(failed("cuMemcpyHtoDAsync"))
    }

    #[cfg(test)]
    fn wait(&self) -> Result<(), DeviceError> {
        self.bind()?;
        self.synchronize(&mut self.staging())
    }

    fn download(&self, from: At<'_, CudaMemory>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.bind()?;
        let from = pointer(from, bytes.len());
        // SAFETY: the source holds the bytes, and the destination is borrowed until the queue is empty.
        unsafe {
            result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()).map_err(failed("cuMemcpyDtoHAsync"))?;
        }
        self.synchronize(&mut self.staging())
    }

    fn send_back(&self, from: At<'_, CudaMemory>, bytes: usize) -> Result<CudaReturning, DeviceError> {
        self.bind()?;
        let from = pointer(from, bytes);
        let staged = self.staging().ring.mark();
        self.landings().send(&self.context, (from, bytes), self.stream.cu_stream(), staged)
    }

    fn receive(&self, returning: CudaReturning, out: &mut [u8]) -> Result<(), DeviceError> {
        self.bind()?;
        self.landings().receive(returning, out, &mut self.staging().ring)
    }

    fn launch(&self, launch: &Launch<'_, CudaMemory>) -> Result<(), DeviceError> {
        self.bind()?;
        let function = self.function(launch.kernel)?;
        assert!(launch.args.len() <= MOST_ARGS, "{} has {} parameters", launch.kernel, launch.args.len());
        let mut values = [0u64; MOST_ARGS];
        for (value, arg) in values.iter_mut().zip(launch.args) {
            // In the low bytes, where a smaller parameter is read: every CUDA host is little-endian.
            *value = match arg {
                Arg::At(at) => pointer(*at, 0),
                Arg::Int(int) => u64::from(int.cast_unsigned()),
                Arg::Float(float) => u64::from(float.to_bits()),
            };
        }
        let mut places = values.each_mut().map(|value| std::ptr::from_mut(value).cast::<c_void>());
        let mut attributes = [early_start()];
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: self.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::from(self.starts_early),
        };
        // SAFETY: the kernel takes these parameters, as its file says; the backend checks that its memory holds what the grid touches. Configuration
        // and values live until the call returns.
        unsafe { sys::cuLaunchKernelEx(&raw const config, function.0, places.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(failed(launch.kernel.to_string()))
    }

    fn multiply(&self, product: &Product<'_, CudaMemory>) -> Result<(), DeviceError> {
        check(product);
        pointer(product.out, product.rows * product.outputs * size_of::<f32>());
        few_rows(product, |launch| self.launch(launch)).unwrap_or_else(|| self.multiply_by_blas(product))
    }

    fn multiply_swiglu(&self, product: &Product<'_, CudaMemory>, out: At<'_, CudaMemory>) -> Result<bool, DeviceError> {
        check(product);
        pointer(out, product.rows * (product.outputs / 2) * 2);
        few_rows_swiglu(product, out, |launch| self.launch(launch)).transpose().map(|sent| sent.is_some())
    }

    fn begin_recording(&self) -> Result<(), DeviceError> {
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::begin_capture(self.stream.cu_stream(), mode) }.map_err(failed("cuStreamBeginCapture"))
    }

    fn end_recording(&self) -> Result<CudaGraph, DeviceError> {
        self.bind()?;
        // SAFETY: the stream is being recorded; the graph is owned by what is returned, or destroyed.
        unsafe {
            let graph = result::stream::end_capture(self.stream.cu_stream()).map_err(failed("cuStreamEndCapture"))?;
            match result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) {
                Ok(executable) => Ok(CudaGraph { context: Arc::clone(&self.context), graph, executable }),
                Err(error) => {
                    let _ = result::graph::destroy(graph);
                    Err(failed("cuGraphInstantiate")(error))
                }
            }
        }
    }

    fn replay(&self, recording: &CudaGraph) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the graph was made on this stream, and the backend keeps the memory that it works on.
        unsafe { result::graph::launch(recording.executable, self.stream.cu_stream()) }.map_err(failed("cuGraphLaunch"))
    }
}
