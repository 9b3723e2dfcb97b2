//! The operations a decoder step is made of, behind one trait with one implementation per kind of hardware.
//!
//! `model` writes the decoder once over [`Backend`]; [`cpu`] computes fast, [`mod@reference`] plainly, and both are compared in tests.
//!
//! Roofline of a decode step on a CPU: every weight is read once, so `bytes of weights / memory bandwidth` bounds one stream
//! (270M in bf16: 543 MB, 59 tokens/s at 32 GB/s); with many rows `2 * parameters * rows / FMA rate` takes over (0.54 GFLOP a token).
//!
//! **Architecture invariant:** `unsafe` lives here and nowhere else (but the one line that maps a checkpoint). Nothing here knows of requests,
//! sequences that wait, or text.

mod blocks;
pub mod cpu;
pub mod gpu;
mod kv_type;
mod packed;
pub mod reference;
mod row_tasks;
mod tensor;
mod weight_bytes;

pub use blocks::{BLOCK_VALUES, Block, BlockFormat};
pub use kv_type::KvType;
pub use packed::{AWAITED_TOKEN, PackedBatch, PackedSequence};
use row_tasks::TASK_WORDS;
pub use row_tasks::{Alternatives, MOST_ALTERNATIVES, Outcome, RowAnswer, RowChoice, RowEdit, RowTasks, TaskLimits, TaskToken};
pub use tensor::{DType, RowOrder, TensorData, TensorRows, WeightType};
pub use weight_bytes::{MappedFile, WEIGHT_ALIGNMENT, WeightBytes, check_private};

/// An operation that could not be done. On the CPU only loading can fail; a GPU adds launches and transfers.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OpError {
    /// Memory that the allocator or device refused.
    #[error("cannot allocate {bytes} bytes for {what}")]
    Allocation {
        /// Bytes asked for.
        bytes: usize,
        /// What they were for.
        what: &'static str,
    },
    /// A value that the wanted type cannot hold.
    #[error("value {value} does not fit {stored}{}", if value.is_finite() { ": use bfloat16 or float32" } else { ": the file is damaged" })]
    Range {
        /// The first such value.
        value: f32,
        /// The type it should have become.
        stored: WeightType,
    },
    /// A device failed, or cannot do what was asked.
    #[error("{0}")]
    Device(String),
    /// Rows that blocks do not divide.
    #[error("rows of {values} weights cannot be stored as {stored}, which takes 32 at a time")]
    Blocks {
        /// The type they should have become.
        stored: WeightType,
        /// Weights in a row.
        values: usize,
    },
}

/// Heads of one layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub q_heads: usize,
    /// Key/value heads; `q_heads` is a multiple of it and query head `j` reads kv head `j / (q_heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head, a multiple of 16.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Query heads that share one kv head.
    pub fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    /// Width of a row of the fused projection: all q heads, all k heads, all v heads.
    pub fn qkv_width(&self) -> usize {
        (self.q_heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// Size of one layer's paged store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageShape {
    /// Number of blocks.
    pub num_blocks: usize,
    /// Tokens in a block, a multiple of [`ATTENTION_TILE`].
    pub block_size: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How a value is stored.
    pub stored: KvType,
}

impl PageShape {
    /// Values in K alone (V has as many).
    pub fn elements(&self) -> usize {
        self.num_blocks * self.block_size * self.kv_heads * self.head_dim
    }
}

/// Positions that attention handles together. Tiles start at absolute position 0 in every sequence, so that the order of the sums is the
/// same in prefill and decode, whatever the batch, the chunk and the block size.
pub const ATTENTION_TILE: usize = 32;

/// The largest step there will be, for a backend that takes memory for it beside its buffers and operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepNeeds {
    /// Rows.
    pub rows: usize,
    /// Positions of a sequence.
    pub positions: usize,
    /// Attention of every layer.
    pub attention: Vec<AttentionShape>,
    /// Columns of the widest product whose sums go through an activation.
    pub widest_product: usize,
    /// Columns of the logits.
    pub vocabulary: usize,
}

impl StepNeeds {
    /// Whether memory for these does for `other` too.
    pub fn cover(&self, other: &Self) -> bool {
        let sizes = |needs: &Self| [needs.rows, needs.positions, needs.widest_product, needs.vocabulary];
        sizes(self).iter().zip(sizes(other)).all(|(&have, wanted)| have >= wanted) && self.attention == other.attention
    }
}

/// What the rows (outputs) of a matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixRows {
    /// One output each.
    Plain,
    /// The fused projection `[gate | up]` of a gated feed-forward layer, for [`Backend::linear_swiglu`].
    GateUp,
}

/// Activations to be prepared, and how the matrix is stored that they will be multiplied with.
pub type Target<'a, B> = (&'a mut <B as Backend>::Operand, WeightType);

/// Gains of the per-head RMSNorms of queries and keys.
#[derive(Debug)]
pub struct QkNorm<'a, B: Backend> {
    /// `[head_dim]`, shared by all query heads.
    pub q: &'a B::Vector,
    /// `[head_dim]`, shared by all key heads.
    pub k: &'a B::Vector,
    /// Added to the mean square.
    pub eps: f32,
}

/// What one decoder step needs from hardware. Activations are f32 `[rows, width]`; weights and pages have their own dtypes.
///
/// Every implementation is batch-invariant, that on a GPU if it was asked to be: a row of any result has the same bits whatever other rows are computed with it.
/// Only the first `batch.rows()` (or `rows`) rows of a buffer are read or written.
pub trait Backend: Send + Sync + Sized + 'static {
    /// A weight matrix `[out, in]` in the backend's own arrangement.
    type Matrix: Send + Sync;
    /// A vector of f32 gains.
    type Vector: Send + Sync + std::fmt::Debug;
    /// f32 activations `[rows, width]`; the width is given by each use and at most what was allocated.
    type Buffer: Send;
    /// Activations `[rows, width]` prepared for a product: what computes them arranges (and perhaps rounds) them as products read them.
    type Operand: Send;
    /// Keys and values of one layer, in pages.
    type Pages: Send;
    /// Cosines and sines of the rotary embedding.
    type Rope: Send + Sync;
    /// Answers on their way from a device; nothing where there is none.
    type Returning: Send;

    /// What computes with weights of these types and a KV cache of this type, for the log and the fingerprint: equal names promise equal bits.
    fn arithmetic(&self, weights: &[WeightType], kv_cache: KvType) -> String;

    /// Takes over a weight matrix `[out, in]`, stored as `stored`.
    ///
    /// # Errors
    /// [`OpError`] when memory is refused, a value does not fit `stored`, or blocks do not divide the rows.
    fn matrix(&self, source: &TensorData<'_>, rows: MatrixRows, stored: WeightType) -> Result<Self::Matrix, OpError>;

    /// How a matrix is stored.
    fn stored_as(&self, matrix: &Self::Matrix) -> WeightType;

    /// Name and version of the arrangement of [`Self::Matrix`], where it can be kept in a file and taken back: equal names promise equal
    /// bytes for equal weights. `None`, the default, for a backend whose matrices live elsewhere or cost nothing to make.
    fn packed_layout(&self) -> Option<&'static str> {
        None
    }

    /// The bytes of a matrix as it is arranged; `Some` where [`Self::packed_layout`] is.
    fn packed_bytes(&self, _matrix: &Self::Matrix) -> Option<WeightBytes> {
        None
    }

    /// The matrix `[out, in]` that gave `bytes`; `None` when their number does not fit the shape.
    fn matrix_from_packed(
        &self,
        _shape: (usize, usize),
        _rows: MatrixRows,
        _stored: WeightType,
        _bytes: &WeightBytes,
    ) -> Option<Self::Matrix> {
        None
    }

    /// Takes memory for steps of up to `needs`, beside what [`Self::buffer`] and [`Self::operand`] give. Called before the first step.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    fn reserve(&self, _needs: &StepNeeds) -> Result<(), OpError> {
        Ok(())
    }

    /// Bytes that [`Self::reserve`] will take, and the backend itself has taken since its memory was asked for.
    fn reserved_bytes(&self, _needs: &StepNeeds) -> u64 {
        0
    }

    /// Begins a step over the rows of `batch`: the operations until the next one begins are given the same.
    fn begin_step(&self, _batch: &PackedBatch) {}

    /// All layers of the step are done: what follows are its logits.
    fn end_forward(&self) {}

    /// Bytes that were taken of a device's own memory since the backend was made, with those that recordings will take; `None` where there is no
    /// such memory.
    ///
    /// # Errors
    /// [`OpError::Device`].
    fn taken_bytes(&self) -> Result<Option<u64>, OpError> {
        Ok(None)
    }

    /// Whether an operation is done when its call returns, so that times between calls are those of operations.
    fn is_done_at_once(&self) -> bool {
        true
    }

    /// Promises that all later steps use the same matrices, buffers, operands and pages, so that a backend may record what it sends.
    fn keep_memory(&self) {}

    /// Waits for what was sent; what went wrong, if anything. A runner is told by [`Self::receive`].
    ///
    /// # Errors
    /// [`OpError::Device`].
    #[cfg(test)]
    fn end_step(&self) -> Result<(), OpError> {
        Ok(())
    }

    /// Takes over a vector of gains.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    fn vector(&self, values: &[f32]) -> Result<Self::Vector, OpError>;

    /// Allocates activations `[rows, width]`, zeroed.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    fn buffer(&self, rows: usize, width: usize) -> Result<Self::Buffer, OpError>;

    /// Allocates activations `[rows, width]` for products with matrices stored as any of `weights`.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    fn operand(&self, rows: usize, width: usize, weights: &[WeightType]) -> Result<Self::Operand, OpError>;

    /// Allocates one layer's pages, zeroed.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    fn pages(&self, shape: PageShape) -> Result<Self::Pages, OpError>;

    /// Tables for positions `0..positions`: angle `p * theta^(-2j / head_dim)` for `j < head_dim / 2`.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    fn rope(&self, positions: usize, head_dim: usize, theta: f64) -> Result<Self::Rope, OpError>;

    /// `out[row] = table[tokens[row]]`, `[rows, d]`.
    fn embed(&self, table: &Self::Matrix, batch: &PackedBatch, out: &mut Self::Buffer);

    /// `out = x / sqrt(mean(x^2) + eps) * gain` by row, width = length of `gain`.
    fn rms_norm(&self, x: &Self::Buffer, norm: (&Self::Vector, f32), rows: usize, out: Target<'_, Self>);

    /// `out[row] = x[row] @ weight^T`, `[rows, in] -> [rows, out]`.
    fn linear(&self, weight: &Self::Matrix, x: &Self::Operand, rows: usize, out: &mut Self::Buffer);

    /// `residual[row] += x[row] @ weight^T`, `[rows, in] -> [rows, out]`.
    fn linear_add(&self, weight: &Self::Matrix, x: &Self::Operand, rows: usize, residual: &mut Self::Buffer);

    /// `out = silu(gate) * up` with `[gate | up] = x @ weight^T`, for a matrix of [`MatrixRows::GateUp`]: `[rows, in] -> [rows, out / 2]`.
    fn linear_swiglu(&self, weight: &Self::Matrix, x: &Self::Operand, rows: usize, out: Target<'_, Self>);

    /// `out = silu(x @ weight^T)`, `[rows, in] -> [rows, out]`, for feed-forward layers without a gate.
    fn linear_silu(&self, weight: &Self::Matrix, x: &Self::Operand, rows: usize, out: Target<'_, Self>);

    /// Per-head RMSNorm of q and k (if any), rotation of q and k, and k and v to their pages. `qkv`: `[rows, q | k | v]`, q in place.
    fn qk_norm_rope_store(
        &self,
        qkv: &mut Self::Buffer,
        attention: (AttentionShape, Option<QkNorm<'_, Self>>),
        rope: &Self::Rope,
        batch: &PackedBatch,
        pages: &mut Self::Pages,
    );

    /// Causal attention of every row over its sequence's pages, scaled by `1 / sqrt(head_dim)`: `[rows, q | k | v] -> [rows, q]`.
    fn paged_attention(&self, qkv: &Self::Buffer, shape: AttentionShape, batch: &PackedBatch, pages: &Self::Pages, out: Target<'_, Self>);

    /// `out[i] = x[rows[i]] @ head^T` to host memory, `[rows.len(), vocabulary]`. Where these are not all rows of `x`, they are put together
    /// in `room`, an operand as `x` with room for them.
    fn logits(&self, head: &Self::Matrix, x: &Self::Operand, chosen: (&[u32], &mut Self::Operand), out: &mut [f32]);

    /// Room for tasks about up to `rows` rows of logits, for a backend that answers them where the logits are; `None` for one that leaves that
    /// to the host.
    fn task_limits(&self, _rows: usize, _vocabulary: usize) -> Option<TaskLimits> {
        None
    }

    /// Answers the tasks: as [`Self::logits`] of their rows, which stay where they are. Only for a backend that has [`Self::task_limits`]. Where
    /// a batch has [`AWAITED_TOKEN`]s, they are those of the tasks answered last before it.
    fn answer(&self, _head: &Self::Matrix, _x: &Self::Operand, _room: &mut Self::Operand, _tasks: &mut RowTasks) {
        unreachable!("there are no tasks for a backend without room for them");
    }

    /// Sends the answers that were asked for last to the host, none where there are no tasks, without waiting for them. Operations of the next step may come
    /// before [`Self::receive`].
    fn send_back(&self, tasks: &RowTasks) -> Self::Returning;

    /// Waits for the answers, and for everything that was sent before them.
    ///
    /// # Errors
    /// [`OpError::Device`] when the device has failed, in whatever operation.
    fn receive(&self, returning: Self::Returning, tasks: &mut RowTasks) -> Result<(), OpError>;

    /// Runs `task(0..count)`, possibly in parallel on the backend's threads: host work of a step such as sampling.
    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync));

    /// Fills blocks with NaN, so that a read of memory nobody wrote shows (tests).
    fn poison(&self, pages: &mut Self::Pages, blocks: &[u32]);

    /// Overwrites the first values of a buffer.
    #[cfg(test)]
    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]);

    /// The first `count` values of a buffer.
    #[cfg(test)]
    fn read(&self, buffer: &Self::Buffer, count: usize) -> Vec<f32>;

    /// Fills an operand with rows of `width` values.
    #[cfg(test)]
    fn write_operand(&self, operand: Target<'_, Self>, width: usize, values: &[f32]);

    /// The values of `rows` rows of `width` values, as products see them.
    fn read_operand(&self, operand: &Self::Operand, rows: usize, width: usize) -> Vec<f32>;
}

#[cfg(test)]
pub(crate) mod tests;
