//! Which device a model runs on, and what the operator's choices mean there.

use super::load::{Loaded, RunnerOptions, load_on, load_with_progress};
use crate::model::{LoadError, LoadProgress, ModelFiles, Storage};
use crate::ops::gpu::{CudaDevice, Device, DeviceError, GpuBackend, GpuOptions, HEAD_DIMS, Half, MOST_GROUP, MOST_ROWS};
use crate::ops::{DType, KvType};
use crate::runner::ModelRunner;

/// The device that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where this build and the machine have one that can run the model, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

/// What only a GPU needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceOptions {
    /// Which device.
    pub choice: DeviceChoice,
    /// Share of its free memory that may be taken.
    pub memory_utilization: f64,
    /// Whether products have one shape.
    pub is_batch_invariant: bool,
}

/// A model on whichever device was asked for.
type OnDevice = Loaded<Box<dyn ModelRunner>>;

/// Loads the model onto the device that was asked for.
///
/// # Errors
/// [`LoadError`] naming the file, key or flag.
pub fn load_on_device(
    files: &ModelFiles,
    options: &RunnerOptions,
    device: DeviceOptions,
    progress: &LoadProgress,
) -> Result<OnDevice, LoadError> {
    match device.choice {
        DeviceChoice::Cpu => on_cpu(files, options, progress),
        DeviceChoice::Metal => Err(wrong_device("metal", "this build has no Metal: use `auto` or `cpu`")),
        DeviceChoice::Cuda(ordinal) => {
            let device_name = format!("cuda:{ordinal}");
            let fit = fitting(files, options)?;
            let opened = CudaDevice::open(ordinal).map_err(|error| wrong_device(&device_name, &error.to_string()))?;
            on_gpu(opened, files, (options, fit), device, progress)
        }
        DeviceChoice::Auto => match on_any_gpu(files, options, device, progress) {
            Ok(loaded) => Ok(loaded),
            Err(reason) => {
                reason.tell();
                on_cpu(files, options, progress)
            }
        },
    }
}

/// Why `auto` takes the CPU.
enum NoGpu {
    /// There is none to speak of.
    Absent(DeviceError),
    /// There is one that cannot be used for this.
    Unfit(String),
}

impl NoGpu {
    fn tell(&self) {
        match self {
            Self::Absent(reason) if cfg!(feature = "cuda") => tracing::info!(%reason, "no GPU: the model is computed on the CPU"),
            Self::Absent(reason) => tracing::debug!(%reason, "no GPU: the model is computed on the CPU"),
            Self::Unfit(reason) => tracing::warn!(reason, "the GPU cannot be used: the model is computed on the CPU"),
        }
    }
}

/// Loads onto the first CUDA device.
fn on_any_gpu(files: &ModelFiles, options: &RunnerOptions, device: DeviceOptions, progress: &LoadProgress) -> Result<OnDevice, NoGpu> {
    let opened = CudaDevice::open(0).map_err(|error| match error {
        DeviceError::Absent(_) => NoGpu::Absent(error),
        other => NoGpu::Unfit(other.to_string()),
    })?;
    let loaded = fitting(files, options).and_then(|fit| on_gpu(opened, files, (options, fit), device, progress));
    loaded.map_err(|error| NoGpu::Unfit(error.to_string()))
}

fn on_cpu(files: &ModelFiles, options: &RunnerOptions, progress: &LoadProgress) -> Result<OnDevice, LoadError> {
    let Loaded { runner, info, writer } = load_with_progress(files, options, progress)?;
    Ok(Loaded { runner: Box::new(runner), info, writer })
}

fn on_gpu<D: Device>(
    opened: D,
    files: &ModelFiles,
    (options, half): (&RunnerOptions, Half),
    device: DeviceOptions,
    progress: &LoadProgress,
) -> Result<OnDevice, LoadError> {
    let setup = |error: DeviceError| LoadError::Setup(error.to_string());
    let free = opened.free_bytes().map_err(setup)?;
    if options.weights.quantization.is_some() {
        tracing::warn!(dtype = %half.dtype(), "--quantization: a GPU computes with weights of 16 bits, nothing is quantised");
    }
    let mut options = options.clone();
    options.weights.dtype = Some(half.dtype());
    options.weights.quantization = None;
    options.weights.widens_blocks = true;
    options.kv_cache_dtype = Some(half.dtype().into());
    options.memory_bytes = (free as f64 * device.memory_utilization) as u64;
    options.kv_cache_share = 1.0;
    options.weight_cache = None;
    let positions = options.max_model_len.unwrap_or(files.config()?.max_context_length);
    let gpu = GpuOptions { half, is_batch_invariant: device.is_batch_invariant, threads: options.threads, positions };
    let backend = GpuBackend::new(opened, gpu).map_err(|error| LoadError::Setup(error.to_string()))?;
    let kernels = backend.kernels();
    let Loaded { runner, info, writer } = load_on(backend, kernels, files, &options, progress).map_err(with_gpus_advice)?;
    Ok(Loaded { runner: Box::new(runner), info, writer })
}

/// What a flag can do about a lack of memory on a GPU.
fn with_gpus_advice(error: LoadError) -> LoadError {
    match error {
        LoadError::Memory { what, wanted, available, .. } => {
            let fix = "raise --gpu-memory-utilization, lower --max-model-len or --kv-cache-memory-bytes, or use --device cpu";
            LoadError::Memory { what, wanted, available, fix }
        }
        other => other,
    }
}

/// The 16-bit type in which a GPU computes the model; an error where it cannot.
fn fitting(files: &ModelFiles, options: &RunnerOptions) -> Result<Half, LoadError> {
    let flag = |flag, found: String, wanted: &str| LoadError::Option { flag, found, wanted: wanted.to_owned() };
    let config = files.config()?;
    if !HEAD_DIMS.contains(&config.head_dim) {
        return Err(flag(
            "device",
            format!("a GPU, and the model's head_dim is {}", config.head_dim),
            "kernels are built for 32, 64 and 128: use `cpu`",
        ));
    }
    if let Some(shape) = (0..config.layers.len()).map(|layer| config.attention(layer)).find(|shape| shape.group() > MOST_GROUP) {
        let found = format!("a GPU, and {} query heads share a kv head", shape.group());
        return Err(flag("device", found, "kernels take 32 at most: use `cpu`"));
    }
    if options.max_num_batched_tokens > MOST_ROWS {
        return Err(flag("max-num-batched-tokens", options.max_num_batched_tokens.to_string(), "a GPU takes up to 65,535"));
    }
    let dtype = match options.weights.dtype {
        Some(dtype) => dtype,
        None => Storage::dtype_of(files.checkpoint_type(&config)?),
    };
    let half = Half::of(dtype).ok_or_else(|| flag("dtype", dtype.to_string(), "a GPU takes bfloat16 or float16"))?;
    // Its activations leave the range of float16: Apple's note in CoreNet's MLX example.
    if dtype == DType::F16 && config.parameters() > 2_000_000_000 {
        return Err(flag("dtype", dtype.to_string(), "the 3B needs the range of bfloat16"));
    }
    match options.kv_cache_dtype {
        Some(kv) if kv != KvType::Scalar(dtype) => {
            Err(flag("kv-cache-dtype", kv.to_string(), &format!("a GPU keeps keys and values as it keeps weights, in {dtype}: use `auto`")))
        }
        _ => Ok(half),
    }
}

fn wrong_device(found: &str, wanted: &str) -> LoadError {
    LoadError::Option { flag: "device", found: found.to_owned(), wanted: wanted.to_owned() }
}
