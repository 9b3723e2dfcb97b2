//! openelm-server: an OpenAI-compatible inference server for Apple's OpenELM language models.
//!
//! The modules in reading order follow the path of a request; `ARCHITECTURE.md` draws it.

pub mod generation;

pub mod api;
pub mod grammar;
pub mod server;
pub mod tokenizer;

pub mod engine;
pub mod kv_cache;
pub mod runner;
pub mod sampling;
pub mod scheduler;

pub mod model;
pub mod ops;
pub mod quality;

pub mod cli;
pub mod config;
pub mod telemetry;
