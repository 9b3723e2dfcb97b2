//! The resolved configuration: plain values, every range checked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Names that `chat-template` takes besides files.
pub const BUILTIN_TEMPLATES: &[&str] = &["plain", "zephyr"];

/// What the server was told, all of it. Built by [`super::load`] alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where weights and tokenizer come from.
    pub model: ModelSource,
    /// A tokenizer elsewhere than in the model directory: `tokenizer.json` or the directory that holds it.
    pub tokenizer: Option<PathBuf>,
    /// Where packed weights are kept for later starts.
    pub weight_cache: WeightCache,
    /// Names by which clients may ask for the model, at least one; the first is the one in answers.
    pub served_model_names: Vec<String>,
    /// Serve token ids alone, without a tokenizer.
    pub skip_tokenizer_init: bool,
    /// A template file or the name of a built-in one; `None` takes the model's own.
    pub chat_template: Option<String>,
    /// Where the sampling defaults come from.
    pub generation_config: GenerationConfigSource,
    /// Seed of requests that bring none; `None` draws one for each.
    pub seed: Option<u64>,

    /// Address or host name to listen on, without brackets.
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Keys of which a request must bring one; empty lets everyone in.
    pub api_keys: Vec<Secret>,
    /// Origins whose pages may read answers, `*` for all; empty: none.
    pub cors_allowed_origins: Vec<String>,
    /// Longest request body in bytes, also after decompression.
    pub max_body_bytes: u64,
    /// How long a client may take to send the head of a request.
    pub header_timeout: Duration,
    /// How long a write may make no progress before the client is cut.
    pub write_timeout: Duration,
    /// Silence after which a stream gets a comment, so that proxies keep it open.
    pub sse_keep_alive: Duration,
    /// How long a step may take before `/livez` fails.
    pub liveness_timeout: Duration,
    /// Most choices of one request: `n` times the number of prompts.
    pub max_choices: usize,
    /// How long running requests may take to finish after SIGTERM.
    pub shutdown_timeout: Duration,

    /// What computes.
    pub device: Device,
    /// Type the weights are computed in.
    pub dtype: Dtype,
    /// Blocks that weights are quantised to at load.
    pub quantization: Quantization,
    /// Type of the KV cache; `Auto` follows `dtype`.
    pub kv_cache_dtype: KvCacheDtype,
    /// Threads of the CPU backend; `None` takes one per physical core within the CPU quota.
    pub threads: Option<usize>,
    /// Kernels of the CPU backend.
    pub cpu_kernels: CpuKernels,
    /// Whether a GPU computes products in one shape.
    pub batch_invariant: bool,

    /// Longest prompt and output together, in tokens; `None` takes the model's context.
    pub max_model_len: Option<usize>,
    /// Most sequences in one step.
    pub max_num_seqs: usize,
    /// Most tokens in one step.
    pub max_num_batched_tokens: usize,
    /// Whether the next step is sent to a GPU while one is computed.
    pub async_scheduling: bool,
    /// Most sequences (`n` times prompts) that wait; further ones get a 503.
    pub max_num_queued_reqs: usize,
    /// Most prompt tokens of waiting sequences; further ones get a 503.
    pub max_num_queued_tokens: usize,

    /// Tokens in a KV block, a multiple of 32.
    pub block_size: usize,
    /// Reuse KV blocks of equal prefixes.
    pub enable_prefix_caching: bool,
    /// Share of a GPU's free memory that may be taken.
    pub gpu_memory_utilization: f64,
    /// Bytes of the KV cache; `None` sizes it by the memory there is.
    pub kv_cache_memory_bytes: Option<u64>,

    /// Least severe level that is logged.
    pub log_level: LogLevel,
    /// Form of the log.
    pub log_format: LogFormat,
}

/// Where the model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The demo model that is compiled into the binary.
    Embedded,
    /// A directory as Hugging Face lays it out, or with a single GGUF file.
    Directory(PathBuf),
    /// A GGUF file.
    File(PathBuf),
}

/// Where packed weights are kept for later starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightCache {
    /// In the user's own place for such files, where there is one.
    Auto,
    /// Nowhere.
    Off,
    /// In this directory.
    Directory(PathBuf),
}

/// A floating-point type as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// Chosen by the loader: 16-bit checkpoints as they are, F32 ones lowered to bf16.
    Auto,
    /// 32 bits.
    Float32,
    /// 16 bits with the exponent of float32.
    Bfloat16,
    /// 16 bits, IEEE half precision.
    Float16,
}

/// A type of the KV cache as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheDtype {
    /// As [`Dtype`] is resolved.
    Auto,
    /// 32 bits.
    Float32,
    /// 16 bits with the exponent of float32.
    Bfloat16,
    /// 16 bits, IEEE half precision.
    Float16,
    /// 8 bits, with a scale for every token and head.
    Int8,
}

/// Blocks that weights are quantised to at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// None: weights stay numbers.
    None,
    /// 32 weights of 8 bits and a scale.
    Q8_0,
    /// 32 weights of 4 bits and a scale.
    Q4_0,
}

/// What computes, as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU where there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

/// Kernels of the CPU backend as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuKernels {
    /// The faster ones, by the CPU's vendor and family.
    Auto,
    /// The same bits on every CPU.
    Portable,
    /// bf16 products by `vdpbf16ps`.
    Avx512Bf16,
}

/// Where sampling defaults come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GenerationConfigSource {
    /// `generation_config.json` of the model, if there is one.
    Auto,
    /// Neutral defaults (temperature 1, top-p 1), whatever the model says; named as vLLM names it.
    Vllm,
    /// This file, or `generation_config.json` in this directory.
    Path(PathBuf),
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Start, stop and one line a request.
    Info,
    /// What the engine decides.
    Debug,
    /// Everything.
    Trace,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for comparing; never for showing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[not shown]")
    }
}

/// A closed set of values with the words that name them.
pub(super) trait Choice: Copy + PartialEq + 'static {
    /// Every value with its word, in the order of the help text.
    const ALL: &'static [(&'static str, Self)];

    /// The word of this value.
    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

impl Choice for Dtype {
    const ALL: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("float32", Self::Float32), ("bfloat16", Self::Bfloat16), ("float16", Self::Float16)];
}

impl Choice for KvCacheDtype {
    const ALL: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("float32", Self::Float32), ("bfloat16", Self::Bfloat16), ("float16", Self::Float16), ("int8", Self::Int8)];
}

impl Choice for Quantization {
    const ALL: &'static [(&'static str, Self)] = &[("none", Self::None), ("q8_0", Self::Q8_0), ("q4_0", Self::Q4_0)];
}

impl Choice for CpuKernels {
    const ALL: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("portable", Self::Portable), ("avx512-bf16", Self::Avx512Bf16)];
}

impl Choice for LogLevel {
    const ALL: &'static [(&'static str, Self)] =
        &[("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug), ("trace", Self::Trace)];
}

impl Choice for LogFormat {
    const ALL: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for KvCacheDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for CpuKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Directory(path) | Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for WeightCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for GenerationConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Vllm => f.write_str("vllm"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}
