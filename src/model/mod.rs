//! Models: what a checkpoint says, how it is read, and the decoder that it describes.
//!
//! `runner::paged` loads a model through [`files`], [`checkpoint`] and [`openelm`]; `cli` reads [`files`] and [`generation_config`] for
//! the text side. [`gguf`] reads and writes models in one file. [`weight_cache`] keeps weights as a backend arranged them for later starts.
//!
//! **Architecture invariant:** nothing here knows of requests or of a particular backend; the decoder is written once over
//! [`crate::ops::Backend`].

pub mod checkpoint;
mod error;
pub mod files;
pub mod generation_config;
pub mod gguf;
mod json;
pub mod openelm;
mod progress;
pub mod quantize;
mod storage;
mod tensor;
pub mod weight_cache;

pub use error::LoadError;
pub use files::{ConfigSource, Document, ModelFiles, ModelSource, TokenizerSource};
pub use generation_config::GenerationDefaults;
pub use progress::{LoadProgress, LoadStage};
pub use storage::Storage;
pub use tensor::Tensor;
