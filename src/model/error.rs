//! Why a model cannot be served: every variant names the file, what was found there and what would be right.

use super::gguf::GgufError;
use crate::ops::OpError;

/// An error of loading a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model is not a directory with a checkpoint.
    #[error("{path}: {problem}; expected a Hugging Face OpenELM directory with config.json and model.safetensors, or a GGUF file")]
    NotAModel {
        /// The path given.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not JSON of the expected form.
    #[error("{file}: not valid JSON: {detail}")]
    Json {
        /// The file.
        file: String,
        /// Where and why.
        detail: String,
    },
    /// A key has a value that cannot be used.
    #[error("{file}: key `{key}` is {found}; expected {wanted}")]
    Key {
        /// The file.
        file: String,
        /// The key, with an index where it is a list.
        key: String,
        /// What stands there.
        found: String,
        /// What would be right.
        wanted: String,
    },
    /// The safetensors file is damaged or cut short.
    #[error("{file}: not a valid safetensors file: {detail}")]
    Damaged {
        /// The file.
        file: String,
        /// The reader's reason.
        detail: String,
    },
    /// A GGUF file that cannot be served.
    #[error("{file}: {problem}")]
    Gguf {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: GgufError,
    },
    /// The index names a shard that is not there.
    #[error("{index}: names the shard {shard}, which is not in the directory; download it or fix `weight_map`")]
    MissingShard {
        /// The index file.
        index: String,
        /// The missing file.
        shard: String,
    },
    /// A tensor that the config calls for is not there.
    #[error("{file}: tensor `{tensor}` is missing; config.json calls for it with shape {wanted:?}")]
    MissingTensor {
        /// The file or files searched.
        file: String,
        /// Its name.
        tensor: String,
        /// Its shape.
        wanted: Vec<usize>,
    },
    /// Tensors that the config does not call for.
    #[error("{file}: tensor `{tensor}` ({count} such in all) is not part of the model that config.json describes; {hint}")]
    SurplusTensor {
        /// The file.
        file: String,
        /// The first such tensor.
        tensor: String,
        /// How many there are.
        count: usize,
        /// What to do.
        hint: &'static str,
    },
    /// A tensor of another shape than the config says.
    #[error("{file}: tensor `{tensor}` has shape {found:?}; config.json ({key}) calls for {wanted:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that follows from the config.
        wanted: Vec<usize>,
        /// The keys that it follows from.
        key: String,
    },
    /// A tensor of a dtype that is not served.
    #[error("{file}: tensor `{tensor}` has dtype {found}; expected F32, F16 or BF16")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        found: String,
    },
    /// A weight that the wanted dtype cannot hold, or memory refused by the system.
    #[error("{file}: tensor `{tensor}`: {source}")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The reason.
        source: OpError,
    },
    /// Not enough memory.
    #[error("not enough memory for {what}: {wanted} bytes are needed and {available} are there; {fix}")]
    Memory {
        /// What it is for.
        what: &'static str,
        /// Bytes needed.
        wanted: u64,
        /// Bytes there.
        available: u64,
        /// What to do.
        fix: &'static str,
    },
    /// An option that does not fit the model.
    #[error("--{flag} is {found}; {wanted}")]
    Option {
        /// The flag.
        flag: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        wanted: String,
    },
    /// Workspaces or threads could not be had.
    #[error("cannot set up the engine: {0}")]
    Setup(String),
}
