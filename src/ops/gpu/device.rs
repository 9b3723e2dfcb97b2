//! What the GPU backend asks of a device: memory, copies, launches of its kernels, and one kind of matrix product.
//!
//! All work is sent to one queue and happens in its order. [`Device::download`] waits for all of it, [`Device::receive`] for what was
//! sent up to some moment, and uploads where a device has no room for what is on its way.

/// Something that a device refused or could not do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// Memory.
    #[error("the device refused {bytes} bytes for {what}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// What they were for.
        what: &'static str,
    },
    /// A call that failed; after most of them nothing else succeeds.
    #[error("{call}: {detail}")]
    Call {
        /// The function that failed, or the kernel.
        call: String,
        /// What the driver says.
        detail: String,
    },
    /// Nothing here talks to such devices: the build or the machine has no part for it.
    #[error("{0}")]
    Absent(String),
    /// There is no such device, or it cannot be used.
    #[error("{0}")]
    Missing(String),
}

/// The 16-bit type in which a device keeps weights, the operands of products and pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// 16-bit brain float.
    Bf16,
    /// 16-bit IEEE.
    F16,
}

impl Half {
    /// As names of kernels have it.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// The operation of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Rows of the embedding.
    Embed,
    /// RMSNorm by row.
    RmsNorm,
    /// RMSNorm of heads, rotation, write to pages.
    QkNormRopeStore,
    /// Attention over a part of the context.
    PagedAttention,
    /// Parts put together.
    AttentionMerge,
    /// SiLU(gate) · up.
    Swiglu,
    /// SiLU.
    Silu,
    /// Rows put together.
    Gather,
    /// A product of few rows.
    Matvec,
    /// The same with SwiGLU, where it is one kernel.
    MatvecSwiglu,
    /// A product of many rows, where it is a kernel.
    Matmul,
    /// Tokens chosen from logits; the same for all types.
    Choose,
}

impl Operation {
    /// Name of its kernels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::RmsNorm => "rms_norm",
            Self::QkNormRopeStore => "qk_norm_rope_store",
            Self::PagedAttention => "paged_attention",
            Self::AttentionMerge => "attention_merge",
            Self::Swiglu => "swiglu",
            Self::Silu => "silu",
            Self::Gather => "gather",
            Self::Matvec => "matvec",
            Self::MatvecSwiglu => "matvec_swiglu",
            Self::Matmul => "matmul",
            Self::Choose => "choose",
        }
    }
}

/// One kernel: an operation for a type, and where it matters the width of a head and the queries of a warp, or the rows of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// What it does.
    pub operation: Operation,
    /// The 16-bit type.
    pub half: Half,
    /// Width of a head; 0 where it does not matter.
    pub head_dim: usize,
    /// Queries of a warp, or rows of a product; 0 where it does not matter.
    pub queries: usize,
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.operation.name())?;
        if self.operation == Operation::Choose {
            return Ok(());
        }
        write!(f, "_{}", self.half.suffix())?;
        [self.head_dim, self.queries].into_iter().filter(|&n| n > 0).try_for_each(|n| write!(f, "_{n}"))
    }
}

/// A place in device memory.
#[derive(Debug)]
pub struct At<'a, M> {
    /// The allocation.
    pub memory: &'a M,
    /// Bytes from its start.
    pub offset: usize,
}

impl<M> Clone for At<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for At<'_, M> {}

impl<'a, M> At<'a, M> {
    /// The start of an allocation.
    pub fn start(memory: &'a M) -> Self {
        Self { memory, offset: 0 }
    }
}

/// An argument of a kernel.
#[derive(Debug)]
pub enum Arg<'a, M> {
    /// A pointer.
    At(At<'a, M>),
    /// A 32-bit integer.
    Int(i32),
    /// A 32-bit number.
    Float(f32),
}

/// A kernel with its grid and arguments.
#[derive(Debug)]
pub struct Launch<'a, M> {
    /// Which.
    pub kernel: Kernel,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// In the order of the kernel's parameters.
    pub args: &'a [Arg<'a, M>],
}

/// `out = x @ weight^T`, or `out += ...`, with sums in f32: `[rows, inputs] · [outputs, inputs] -> [rows, outputs]`, all row-major.
#[derive(Debug)]
pub struct Product<'a, M> {
    /// `[outputs, inputs]` in `half`.
    pub weight: At<'a, M>,
    /// `[rows, inputs]` in `half`.
    pub x: At<'a, M>,
    /// `[rows, outputs]` f32.
    pub out: At<'a, M>,
    /// Rows of `x`.
    pub rows: usize,
    /// Columns of both.
    pub inputs: usize,
    /// Rows of `weight`.
    pub outputs: usize,
    /// Type of `weight` and `x`.
    pub half: Half,
    /// Add to what `out` holds.
    pub is_added: bool,
}

/// Alignment of rows that are read 16 bytes at a time, which they are where their values are a multiple of 8.
#[cfg(any(test, feature = "cuda", all(feature = "metal", target_os = "macos")))]
const CHUNK: usize = 16;

#[cfg(any(test, feature = "cuda", all(feature = "metal", target_os = "macos")))]
impl<M> Product<'_, M> {
    /// Whether weight and `x` start where chunks of rows can be read.
    pub(super) fn is_aligned(&self) -> bool {
        self.weight.offset.is_multiple_of(CHUNK) && self.x.offset.is_multiple_of(CHUNK)
    }
}

/// A device with one queue of work.
pub trait Device: Send + Sync + 'static {
    /// Memory on the device, freed when dropped.
    type Memory: Send + Sync + std::fmt::Debug;

    /// Launches and products that can be sent again together.
    type Recording: Send;

    /// Bytes on their way to the host.
    type Returning: Send;

    /// Whether recording pays; where it does not, nothing is recorded.
    const RECORDS: bool;

    /// Bytes of the device's memory that a recording of the longest step takes.
    fn recording_bytes(&self) -> u64 {
        0
    }

    /// For people: index and model.
    fn description(&self) -> String;

    /// What computes, for the fingerprint: equal names promise equal bits of equal launches.
    fn arithmetic(&self) -> String;

    /// Bytes that can still be allocated.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn free_bytes(&self) -> Result<u64, DeviceError>;

    /// Takes `bytes` bytes, zeroed, aligned to 256.
    ///
    /// # Errors
    /// [`DeviceError::Memory`].
    fn allocate(&self, bytes: usize, what: &'static str) -> Result<Self::Memory, DeviceError>;

    /// Copies to the device, after what was sent before; `bytes` may be reused at once.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn upload(&self, bytes: &[u8], to: At<'_, Self::Memory>) -> Result<(), DeviceError>;

    /// Copies from the device and waits for everything that was sent before.
    ///
    /// # Errors
    /// [`DeviceError`], that of an earlier launch too.
    fn download(&self, from: At<'_, Self::Memory>, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Sends a copy of `bytes` bytes to the host, behind what was sent before, and waits for nothing: the bytes are those that were there then, whatever
    /// is sent afterwards.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn send_back(&self, from: At<'_, Self::Memory>, bytes: usize) -> Result<Self::Returning, DeviceError>;

    /// Waits for such a copy, and for everything that was sent before it. `out` has room for the bytes exactly.
    ///
    /// # Errors
    /// [`DeviceError`], that of an earlier launch too.
    fn receive(&self, returning: Self::Returning, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Waits for everything that was sent before.
    ///
    /// # Errors
    /// [`DeviceError`] of what was sent.
    #[cfg(test)]
    fn wait(&self) -> Result<(), DeviceError>;

    /// Sends a kernel.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn launch(&self, launch: &Launch<'_, Self::Memory>) -> Result<(), DeviceError>;

    /// Sends a product.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn multiply(&self, product: &Product<'_, Self::Memory>) -> Result<(), DeviceError>;

    /// Sends a product whose sums, gates before values, go through SwiGLU to `out`: `[rows, outputs / 2]` in `half`; of `product` the place
    /// of the sums is not used. False if that takes a product and then [`Operation::Swiglu`], which are left to the caller.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn multiply_swiglu(&self, _product: &Product<'_, Self::Memory>, _out: At<'_, Self::Memory>) -> Result<bool, DeviceError> {
        Ok(false)
    }

    /// Begins to record: until [`Self::end_recording`] launches and products are kept and not done, and nothing is copied or allocated. All
    /// kernels among them have run before.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn begin_recording(&self) -> Result<(), DeviceError>;

    /// What was recorded.
    ///
    /// # Errors
    /// [`DeviceError`], also when something that was recorded cannot be.
    fn end_recording(&self) -> Result<Self::Recording, DeviceError>;

    /// Sends what was recorded. The memory it works on must still be there.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn replay(&self, recording: &Self::Recording) -> Result<(), DeviceError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_called_as_in_their_files() {
        let kernel = |operation, half, head_dim, queries| Kernel { operation, half, head_dim, queries }.to_string();
        assert_eq!(kernel(Operation::RmsNorm, Half::Bf16, 0, 0), "rms_norm_bf16");
        assert_eq!(kernel(Operation::AttentionMerge, Half::F16, 128, 0), "attention_merge_f16_128");
        assert_eq!(kernel(Operation::Choose, Half::F16, 0, 0), "choose");
        assert_eq!(kernel(Operation::PagedAttention, Half::Bf16, 64, 8), "paged_attention_bf16_64_8");
    }
}
