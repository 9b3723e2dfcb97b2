//! The runner that computes: a [`Decoder`](crate::model::openelm::Decoder) over paged keys and values.
//!
//! [`load()`] builds it from a model's files; the engine then calls [`PagedRunner`] through [`ModelRunner`](super::ModelRunner).
//! `cli` chooses the backend by calling [`load()`], which knows the CPU; other backends come in here.

mod budget;
mod choose;
mod device;
mod fingerprint;
mod load;
mod plan;
mod step;
mod warm_up;
mod weights;

pub use device::{DeviceChoice, DeviceOptions, load_on_device};
pub use load::{Loaded, ModelInfo, RunnerOptions, load, weight_bytes};
pub use plan::WeightOptions;
pub use step::PagedRunner;

#[cfg(test)]
mod tests;
