//! The GPU backend: the operations of a step as launches of kernels and products on a [`Device`].
//!
//! Everything on the device has one 16-bit type: weights, operands of products, pages. Activations between them and all sums are f32. An
//! operation only sends work, that of a second step behind the first;
//! [`Backend::receive`](super::Backend::receive) waits for the answers of one step and tells what went wrong.
//!
//! Roofline: a decode step reads every weight once (270M in bf16 at 3.35 TB/s: 0.16 ms) and makes about nine launches a layer, whose latency
//! is more than that for the small models (1 µs for the smallest kernel, 5 to 10 µs for attention of one stream: `benches/RESULTS.md`).
//!
//! **Architecture invariant:** no branch on which device it is. Sums of attention have one order whatever else is in the step: the context is
//! cut into splits of one length, each into tiles of 32, both from position 0 on. Products are a library's or kernels
//! whose sums depend on how many rows there are: with [`GpuOptions::is_batch_invariant`] they always have [`INVARIANT_ROWS`] rows, so that a row's bits
//! do not depend on its neighbours.

#[cfg(all(feature = "metal", not(target_os = "macos")))]
compile_error!("the feature `metal` is for macOS: build without it here, or with `--target aarch64-apple-darwin`");

#[cfg(not(all(feature = "cuda", feature = "metal", target_os = "macos")))]
mod absent;
mod backend;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda_absent.rs"]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_host;
#[cfg(any(test, feature = "cuda"))]
mod cuda_product;
#[cfg(test)]
#[cfg(feature = "cuda")]
mod cuda_timing;
mod device;
#[cfg(test)]
pub(crate) mod emulated;
#[cfg(test)]
pub(crate) mod failing;
mod logits;
mod matrix;
mod memory;
#[cfg(all(feature = "metal", target_os = "macos"))]
mod metal;
#[cfg(not(all(feature = "metal", target_os = "macos")))]
#[path = "metal_absent.rs"]
mod metal;
#[cfg(any(test, all(feature = "metal", target_os = "macos")))]
mod metal_product;
#[cfg(any(test, all(feature = "metal", target_os = "macos")))]
mod metal_sources;
#[cfg(test)]
mod product_tests;
mod recorder;
#[cfg(any(test, feature = "cuda", all(feature = "metal", target_os = "macos")))]
mod ring;
mod step;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use cuda::CudaDevice;
pub use device::{Arg, At, Device, DeviceError, Half, Kernel, Launch, Operation, Product};
pub use matrix::GpuMatrix;
pub use memory::{GpuBuffer, GpuOperand, GpuPages, GpuRope, GpuVector};
pub use metal::MetalDevice;

use super::cpu::HostThreads;
use super::{ATTENTION_TILE, AttentionShape, DType, OpError, StepNeeds, TaskLimits, WeightType};
use recorder::Recorder;
use std::sync::{Mutex, MutexGuard, PoisonError};
use step::{Capacity, StepTables};

/// Rows of every product where the batch may not change bits.
pub const INVARIANT_ROWS: usize = 64;

/// Widths of heads that kernels are built for.
pub const HEAD_DIMS: [usize; 3] = [32, 64, 128];

/// Most query heads that share a kv head.
pub const MOST_GROUP: usize = step::MOST_QUERIES;

/// Most rows of a step: they are the second dimension of a grid.
pub const MOST_ROWS: usize = 65_535;

/// Largest vocabulary: tokens are searched by three digits of eight bits.
pub const MOST_TOKENS: usize = 1 << 24;

/// Rows of logits computed at once.
const LOGIT_ROWS: usize = 64;

/// Fewest positions of a split of attention's context, and most splits of the longest context.
const LEAST_SPLIT: usize = 256;
const MOST_SPLITS: usize = 16;

impl Half {
    /// The type of numbers it is.
    pub fn dtype(self) -> DType {
        match self {
            Self::Bf16 => DType::Bf16,
            Self::F16 => DType::F16,
        }
    }

    /// Of a 16-bit type; `None` of others.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => None,
            DType::Bf16 => Some(Self::Bf16),
            DType::F16 => Some(Self::F16),
        }
    }
}

/// What the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// The type of everything that is kept in 16 bits.
    pub half: Half,
    /// Products have a fixed number of rows, so that a row's bits do not depend on the batch.
    pub is_batch_invariant: bool,
    /// Threads of the host, for what is left to it.
    pub threads: usize,
    /// Positions of the longest sequence.
    pub positions: usize,
}

/// A device and what a step needs on it.
pub struct GpuBackend<D: Device> {
    device: D,
    options: GpuOptions,
    host: HostThreads,
    scratch: Mutex<Option<Scratch<D>>>,
    /// The first error; nothing is sent after it.
    fault: Mutex<Option<DeviceError>>,
    recorder: Mutex<Recorder<D>>,
    /// Bytes that could be allocated when the backend was made.
    free_at_first: u64,
}

/// Memory of a step beside buffers and operands.
struct Scratch<D: Device> {
    /// What it is made for.
    needs: StepNeeds,
    /// Most query heads that share a kv head.
    group: usize,
    /// Positions of a split of attention's context.
    split: usize,
    /// Splits of the longest context.
    max_splits: usize,
    tables: StepTables<D>,
    /// Parts of attention: `[rows, q_heads, max_splits, head_dim + 2]`; absent where the longest context is one split.
    partial: Option<D::Memory>,
    /// Sums of a product before their activation: `[rows, outputs]`.
    product: D::Memory,
    /// How many there may be.
    product_values: usize,
    /// `[LOGIT_ROWS, vocabulary]`.
    logits: D::Memory,
    /// Rows whose logits are wanted.
    chosen: D::Memory,
    /// Tasks about rows of logits, with their rows and extras.
    tasks: D::Memory,
    /// Their answers.
    answers: D::Memory,
    /// Words of each of the answers that are there.
    answer_words: usize,
}

impl<D: Device> GpuBackend<D> {
    /// Computes on `device`.
    ///
    /// # Errors
    /// [`OpError::Device`] when the host's threads cannot be started, or the device does not answer.
    pub fn new(device: D, options: GpuOptions) -> Result<Self, OpError> {
        let host = HostThreads::new(options.threads).map_err(|error| OpError::Device(error.to_string()))?;
        Ok(Self {
            free_at_first: device.free_bytes()?,
            device,
            options,
            host,
            scratch: Mutex::new(None),
            fault: Mutex::new(None),
            recorder: Mutex::default(),
        })
    }

    /// The device and its type, for the log.
    pub fn kernels(&self) -> String {
        let invariant = if self.options.is_batch_invariant { ", batch-invariant" } else { "" };
        format!("{} ({}{invariant})", self.device.description(), self.options.half.dtype())
    }

    fn scratch(&self) -> MutexGuard<'_, Option<Scratch<D>>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Option<DeviceError>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder<D>> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends every step by itself.
    #[cfg(test)]
    pub(crate) fn record_nothing(&self) {
        self.recorder().is_on = false;
    }

    /// Steps that are recorded.
    #[cfg(test)]
    pub(crate) fn recordings(&self) -> usize {
        self.recorder().kept.len()
    }

    /// Sends work, unless something has failed; keeps its error.
    fn attempt(&self, send: impl FnOnce() -> Result<(), DeviceError>) {
        let mut fault = self.fault();
        if fault.is_none() {
            *fault = send().err();
        }
    }

    /// How everything in 16 bits is stored.
    fn stored(&self) -> WeightType {
        self.options.half.dtype().into()
    }

    /// Rows that memory must have for `rows` rows.
    fn padded(&self, rows: usize) -> usize {
        if self.options.is_batch_invariant { rows.next_multiple_of(INVARIANT_ROWS) } else { rows }
    }

    fn kernel(&self, operation: Operation) -> Kernel {
        Kernel { operation, half: self.options.half, head_dim: 0, queries: 0 }
    }
}

/// f32 values of what a step needs.
struct Sizes {
    split: usize,
    max_splits: usize,
    partial: usize,
    product: usize,
    logits: usize,
    tasks: usize,
    answers: usize,
    /// The rotary tables, which are made elsewhere.
    rope: usize,
}

impl Sizes {
    /// Positions of a split, where sequences have at most so many.
    fn split(positions: usize) -> usize {
        LEAST_SPLIT.max(positions.div_ceil(MOST_SPLITS).next_multiple_of(ATTENTION_TILE))
    }

    fn of(needs: &StepNeeds, padded_rows: usize) -> Self {
        let split = Self::split(needs.positions);
        let max_splits = needs.positions.div_ceil(split).max(1);
        let limits = TaskLimits::new(needs.rows, needs.vocabulary);
        let part = needs.attention.iter().map(|shape| shape.q_heads * (shape.head_dim + 2)).max().unwrap_or(0);
        Self {
            split,
            max_splits,
            partial: if max_splits > 1 { needs.rows * part * max_splits } else { 0 },
            product: padded_rows * needs.widest_product,
            logits: LOGIT_ROWS * needs.vocabulary,
            tasks: limits.task_words(),
            answers: limits.answers,
            rope: needs.positions * needs.attention.first().map_or(0, |shape| shape.head_dim),
        }
    }

    fn bytes(&self, capacity: Capacity) -> u64 {
        let values = self.partial + self.product + self.logits + self.tasks + self.answers + self.rope;
        (values * size_of::<f32>() + capacity.bytes()) as u64
    }
}

impl<D: Device> Scratch<D> {
    /// Parts of attention, or in their place memory that a kernel told of no parts does not touch.
    fn partial(&self) -> &D::Memory {
        self.partial.as_ref().unwrap_or(&self.product)
    }

    /// Takes memory for steps of up to `needs`, whose products have up to `padded_rows` rows.
    fn new(device: &D, needs: &StepNeeds, padded_rows: usize) -> Result<Self, DeviceError> {
        let floats = |values: usize, what| device.allocate(values * size_of::<f32>(), what);
        let sizes = Sizes::of(needs, padded_rows);
        Ok(Self {
            group: needs.attention.iter().map(AttentionShape::group).max().unwrap_or(1),
            split: sizes.split,
            max_splits: sizes.max_splits,
            tables: StepTables::new(device, Capacity::new(needs.rows, needs.positions))?,
            partial: (sizes.partial > 0).then(|| floats(sizes.partial, "parts of attention")).transpose()?,
            product: floats(sizes.product, "sums of products")?,
            product_values: sizes.product,
            logits: floats(sizes.logits, "logits")?,
            chosen: device.allocate(LOGIT_ROWS * size_of::<u32>(), "chosen rows")?,
            tasks: floats(sizes.tasks, "tasks about logits")?,
            answers: floats(sizes.answers, "answers about logits")?,
            answer_words: 0,
            needs: needs.clone(),
        })
    }
}
