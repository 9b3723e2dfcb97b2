//! Which device a model runs on, and what the operator's choices mean there.

use super::load::{Loaded, RunnerOptions, load_on, load_with_progress};
use crate::model::{LoadError, LoadProgress, ModelFiles, Storage};
use crate::ops::gpu::{
    CudaDevice, Device, DeviceError, GpuBackend, GpuOptions, HEAD_DIMS, Half, MOST_GROUP, MOST_ROWS, MOST_TOKENS, MetalDevice,
};
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
    let load = Load { files, options, device, progress };
    match device.choice {
        DeviceChoice::Cpu => load.on_cpu(),
        DeviceChoice::Cuda(ordinal) => load.on_named(&format!("cuda:{ordinal}"), || CudaDevice::open(ordinal)),
        DeviceChoice::Metal => load.on_named("metal", MetalDevice::open),
        DeviceChoice::Auto => {
            let cuda = || load.on_found(|| CudaDevice::open(0));
            let metal = || load.on_found(MetalDevice::open);
            let gpus: [(bool, &dyn Fn() -> Attempt); 2] = [(cfg!(feature = "cuda"), &cuda), (cfg!(feature = "metal"), &metal)];
            load.on_first(gpus.into_iter().filter(|(is_built, _)| *is_built).map(|(_, gpu)| gpu()))
        }
    }
}

/// What came of a GPU that `auto` tried.
type Attempt = Result<OnDevice, NoGpu>;

/// Why `auto` does not take a GPU.
enum NoGpu {
    /// There is none to speak of.
    Absent(DeviceError),
    /// There is one that cannot be used for this.
    Unfit(String),
}

impl NoGpu {
    fn tell(&self) {
        match self {
            Self::Absent(reason) => tracing::info!(%reason, "no GPU"),
            Self::Unfit(reason) => tracing::warn!(reason, "the GPU cannot be used"),
        }
    }
}

/// What is loaded, and how.
#[derive(Clone, Copy)]
struct Load<'a> {
    files: &'a ModelFiles,
    options: &'a RunnerOptions,
    device: DeviceOptions,
    progress: &'a LoadProgress,
}

impl Load<'_> {
    /// Onto the GPU that the operator named.
    fn on_named<D: Device>(&self, name: &str, open: impl FnOnce() -> Result<D, DeviceError>) -> Result<OnDevice, LoadError> {
        let fit = fitting(self.files, self.options)?;
        let opened = open().map_err(|error| wrong_device(name, &error.to_string()))?;
        self.on_gpu(opened, fit)
    }

    /// Onto a GPU, if it is there and can compute the model.
    fn on_found<D: Device>(&self, open: impl FnOnce() -> Result<D, DeviceError>) -> Attempt {
        let opened = open().map_err(|error| match error {
            DeviceError::Absent(_) => NoGpu::Absent(error),
            other => NoGpu::Unfit(other.to_string()),
        })?;
        let loaded = fitting(self.files, self.options).and_then(|fit| self.on_gpu(opened, fit));
        loaded.map_err(|error| NoGpu::Unfit(error.to_string()))
    }

    /// Onto the first GPU that takes it, else the CPU; those after the first are not tried.
    fn on_first(&self, gpus: impl Iterator<Item = Attempt>) -> Result<OnDevice, LoadError> {
        let mut reasons = Vec::new();
        for gpu in gpus {
            match gpu {
                Ok(loaded) => return Ok(loaded),
                Err(reason) => reasons.push(reason),
            }
        }
        reasons.iter().for_each(NoGpu::tell);
        if !reasons.is_empty() {
            tracing::info!("the model is computed on the CPU");
        }
        self.on_cpu()
    }

    fn on_cpu(&self) -> Result<OnDevice, LoadError> {
        let Loaded { runner, info, writer } = load_with_progress(self.files, self.options, self.progress)?;
        Ok(Loaded { runner: Box::new(runner), info, writer })
    }

    fn on_gpu<D: Device>(&self, opened: D, half: Half) -> Result<OnDevice, LoadError> {
        let setup = |error: DeviceError| LoadError::Setup(error.to_string());
        let free = opened.free_bytes().map_err(setup)?;
        if self.options.weights.quantization.is_some() {
            tracing::warn!(dtype = %half.dtype(), "--quantization: a GPU computes with weights of 16 bits, nothing is quantised");
        }
        let mut options = self.options.clone();
        options.weights.dtype = Some(half.dtype());
        options.weights.quantization = None;
        options.weights.keeps_blocks = false;
        options.kv_cache_dtype = Some(half.dtype().into());
        options.memory_bytes = (free as f64 * self.device.memory_utilization) as u64;
        options.kv_cache_share = 1.0;
        options.weight_cache = None;
        let positions = options.max_model_len.unwrap_or(self.files.config()?.max_context_length);
        let gpu = GpuOptions { half, is_batch_invariant: self.device.is_batch_invariant, threads: options.threads, positions };
        let backend = GpuBackend::new(opened, gpu).map_err(|error| LoadError::Setup(error.to_string()))?;
        let kernels = backend.kernels();
        let loaded = load_on(backend, kernels, self.files, &options, self.progress);
        let is_by_hand = options.kv_cache_memory_bytes.is_some();
        let loaded = loaded.map_err(|error| with_gpus_advice(error, is_by_hand))?;
        Ok(Loaded { runner: Box::new(loaded.runner), info: loaded.info, writer: loaded.writer })
    }
}

/// What a flag can do about a lack of memory on a GPU, whose KV cache has the size that is there or one given by hand.
fn with_gpus_advice(error: LoadError, is_by_hand: bool) -> LoadError {
    match error {
        // Only a size given by hand is less than what is there.
        LoadError::Memory { what, wanted, available, fix } if is_by_hand && fix.starts_with("raise --kv-cache-memory-bytes") => {
            let fix = "raise --kv-cache-memory-bytes, or lower --max-model-len";
            LoadError::Memory { what, wanted, available, fix }
        }
        LoadError::Memory { what, wanted, available, .. } => {
            let fix = if is_by_hand {
                "raise --gpu-memory-utilization, lower --kv-cache-memory-bytes, or use --device cpu"
            } else {
                "raise --gpu-memory-utilization, lower --max-model-len, or use --device cpu"
            };
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
    if config.vocab_size > MOST_TOKENS {
        let found = format!("a GPU, and the model's vocab_size is {}", config.vocab_size);
        return Err(flag("device", found, "kernels take up to 16,777,216 tokens: use `cpu`"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelSource, TokenizerSource};
    use crate::ops::gpu::emulated::{Checks, EmulatedDevice, Language};
    use crate::runner::paged::WeightOptions;
    use std::path::Path;

    /// What computes the model, and how many GPUs were tried, where `auto` finds these.
    fn chosen(options: &RunnerOptions, gpus: &[fn() -> Result<EmulatedDevice, DeviceError>]) -> (String, usize) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-hd64-gqa4");
        let files = ModelFiles::open(&ModelSource::Directory(path), TokenizerSource::Model).unwrap();
        let device = DeviceOptions { choice: DeviceChoice::Auto, memory_utilization: 0.9, is_batch_invariant: false };
        let load = Load { files: &files, options, device, progress: &LoadProgress::default() };
        let mut tried = 0;
        let attempts = gpus.iter().inspect(|_| tried += 1).map(|open| load.on_found(open));
        let kernels = load.on_first(attempts).unwrap().info.kernels;
        (kernels, tried)
    }

    fn absent() -> Result<EmulatedDevice, DeviceError> {
        Err(DeviceError::Absent("none".to_owned()))
    }

    fn unfit() -> Result<EmulatedDevice, DeviceError> {
        Err(DeviceError::Missing("too old".to_owned()))
    }

    fn emulated() -> Result<EmulatedDevice, DeviceError> {
        Ok(EmulatedDevice::new(Language::Metal, Checks::Off))
    }

    fn options() -> RunnerOptions {
        RunnerOptions { kv_cache_memory_bytes: Some(4 << 20), max_num_batched_tokens: 128, threads: 1, ..RunnerOptions::default() }
    }

    #[test]
    fn auto_takes_the_first_gpu_that_can_be_used() {
        for (gpus, tries) in [(&[emulated as fn() -> _, emulated][..], 1), (&[absent, emulated, emulated], 2), (&[unfit, emulated], 2)] {
            let (kernels, tried) = chosen(&options(), gpus);
            assert!(kernels.contains("emulated") && tried == tries, "{kernels}, {tried}");
        }
    }

    #[test]
    fn auto_takes_the_cpu_where_no_gpu_computes_the_model() {
        let of_f32 = RunnerOptions { weights: WeightOptions { dtype: Some(DType::F32), ..WeightOptions::default() }, ..options() };
        for (options, gpus, tries) in
            [(&options(), &[][..], 0), (&options(), &[absent as fn() -> _, unfit], 2), (&of_f32, &[emulated as fn() -> _], 1)]
        {
            let (kernels, tried) = chosen(options, gpus);
            assert!(!kernels.contains("emulated") && tried == tries, "{kernels}, {tried}");
        }
    }
}
