//! OpenELM: Apple's decoder-only family with layer-wise scaling (arXiv 2404.14619).
//!
//! Pre-norm, no biases, grouped-query attention with RMSNorm on queries and keys, rotary positions, gated SiLU feed-forward, tied head;
//! heads and feed-forward widths differ from layer to layer.

mod config;
mod decoder;
mod profile;
mod weights;

pub use config::{LayerShape, OpenElmConfig};
pub(crate) use config::{MAX_LAYERS, Quantity};
pub use decoder::{Decoder, Workspace};
pub(crate) use decoder::{step_needs, workspace_values_per_row};
pub use profile::{StepOp, StepProfile};
pub use weights::{Taken, WeightSource};

#[cfg(test)]
mod tests;
