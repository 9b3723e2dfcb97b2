//! The configuration: flags, `OPENELM_…` variables, a TOML file and defaults become one typed [`Config`].
//!
//! `cli` calls [`load`] once, at start. Every layer yields plain text with its [`Origin`]; the layers are merged (flag > variable > file >
//! default) and each winning text is parsed once. All mistakes are collected and reported together.
//!
//! A setting is added in three places, and tests fail while one of them is missing: its [`Key`] in `keys`, its field in [`Config`] with
//! the line in `resolve` that reads it, and the line in `render` that shows it. Flag, variable, key of the file, help text and the
//! annotated example file all come from the [`Key`].
//!
//! **Architecture invariant:** the only reader of the process environment. Nothing deeper sees a flag, a variable or an unchecked value.
//!
//! **Architecture invariant:** secrets never appear in an error, a log line, a `Debug` text or the output of `--check-config`.
//!
//! Not here: reading the model, sizing the KV cache (the loader does that from [`host::HostResources`]), binding sockets.

mod environment;
#[cfg(test)]
mod example;
mod file;
mod flags;
pub mod host;
mod keys;
mod layers;
mod mistake;
mod model;
mod parse;
mod render;
mod resolve;

pub use environment::{Environment, ProcessEnvironment, arguments, cache_home, no_color};
pub use flags::{Flags, flags};
pub use keys::{KEYS, Key, Kind};
pub use layers::Origin;
pub use mistake::{ConfigError, Mistake};
pub use model::{
    BUILTIN_TEMPLATES, Config, CpuKernels, Device, Dtype, GenerationConfigSource, KvCacheDtype, LogFormat, LogLevel, ModelSource,
    Quantization, Secret, WeightCache,
};
pub use resolve::{Resolved, load};

#[cfg(test)]
mod tests;
