//! The CPU backend: panels of weights, pages of keys, one thread pool, SIMD chosen at run time.
//!
//! Kernels are written once over sixteen f32 lanes (`lanes`) with one fixed order of operations, so all instruction sets give the same bits,
//! for any batch, chunk and number of threads. There are three arithmetics: weights widened to f32 (portable), `vdpbf16ps` on bf16
//! weights (`select`), and products of bytes for weights in blocks (`block_product`).
//!
//! **Architecture invariant:** work is split over outputs (panels, rows, heads), never over a sum.

// Kernels index several register arrays by one counter; an iterator over one of them would hide which lanes go together.
#![allow(clippy::needless_range_loop)]

mod attention;
mod block_product;
mod claims;
mod elementwise;
mod host;
mod lanes;
pub mod limits;
mod linear;
mod math;
mod matrix;
mod memory;
mod operand;
mod pages;
mod pool;
mod product;
mod quantize;
mod rope;
mod select;
mod tile;

pub use host::HostThreads;
pub use matrix::PanelMatrix;
pub use memory::Aligned;
pub use operand::Operand;
pub use pages::Pages;
pub use rope::RopeTable;
pub use select::{CpuKernels, KernelsError};

use super::{
    ATTENTION_TILE, AttentionShape, Backend, DType, KvType, MatrixRows, OpError, PackedBatch, PageShape, QkNorm, RowTasks, Target,
    TensorData, WeightBytes, WeightType,
};
use attention::Attention;
use elementwise::RmsNorm;
use lanes::{Isa, Kernel};
use linear::{BlockLinear, Linear, Output};
use memory::{Arena, SharedMut};
use operand::{OperandMut, UnitFormat};
use pages::{KvElement, PageLayout, PagesMut, PagesView, Store};
use pool::ThreadPool;
use quantize::Quantize;
use rope::QkNormRopeStore;

/// Widest attention head the kernels take.
pub const MAX_HEAD_DIM: usize = attention::MAX_HEAD_DIM;

/// The CPU and its threads.
pub struct CpuBackend {
    isa: Isa,
    /// Products of bf16 weights and pages by [`lanes::Lanes::dot_bf16`], which has other bits than the rest.
    dot: bool,
    pool: ThreadPool,
    weights: Arena,
}

impl CpuBackend {
    /// Uses `kernels` with the best instruction set of this CPU, and `threads` threads, the caller's included.
    ///
    /// # Errors
    /// [`KernelsError`] when the CPU lacks an instruction, or the system refuses a thread.
    pub fn new(kernels: CpuKernels, threads: usize) -> Result<Self, KernelsError> {
        let (isa, dot) = kernels.choose()?;
        let pool = ThreadPool::new(threads).map_err(KernelsError::Threads)?;
        Ok(Self { isa, dot, pool, weights: Arena::default() })
    }

    /// One backend per instruction set this CPU has, slowest first: they must agree bit for bit.
    #[cfg(test)]
    pub(crate) fn portable_variants(threads: usize) -> Vec<Self> {
        Isa::portable().into_iter().map(|isa| Self::forced(isa, false, threads)).collect()
    }

    /// The arithmetic of `vdpbf16ps`: spelled out in every instruction set, and the instruction itself where the CPU has it. They must
    /// agree bit for bit.
    #[cfg(test)]
    pub(crate) fn dot_variants(threads: usize) -> Vec<Self> {
        let all = Isa::portable().into_iter().chain(Isa::native_dot());
        all.map(|isa| Self::forced(isa, true, threads)).collect()
    }

    #[cfg(test)]
    fn forced(isa: Isa, dot: bool, threads: usize) -> Self {
        Self { isa, dot, pool: ThreadPool::new(threads).expect("threads"), weights: Arena::default() }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> &'static str {
        self.isa.name()
    }

    /// Kernels and instruction set, for the log: `portable avx2`, `avx512-bf16`.
    pub fn kernels(&self) -> String {
        if self.dot { self.isa.name().to_string() } else { format!("portable {}", self.isa.name()) }
    }

    /// Backend, instruction set and threads, for people.
    pub fn description(&self) -> String {
        let (threads, plural) = (self.threads(), if self.threads() == 1 { "" } else { "s" });
        format!("cpu {} ({threads} thread{plural})", self.kernels())
    }

    fn run(&self, kernel: &impl Kernel) {
        // SAFETY: the instruction set is one of this CPU's; the jobs below give every part its own outputs, and check their pointers.
        self.pool.run(&|part| unsafe { self.isa.run(kernel, part) });
    }

    /// As [`Self::run`], for work that is split by rows: one row is done at once by the calling thread.
    fn run_rows(&self, rows: usize, kernel: &impl Kernel) {
        if rows == 1 {
            // SAFETY: as in `run`; there is one part.
            unsafe { self.isa.run(kernel, lanes::Part { index: 0, of: 1 }) };
        } else {
            self.run(kernel);
        }
    }

    fn product(&self, weight: &PanelMatrix, x: &Operand, rows: usize, out: Output<'_>) {
        assert_eq!(x.layout().rows, rows, "other rows than were prepared");
        let linear = Linear::new(weight, x, out, self.threads());
        match weight.stored() {
            WeightType::Scalar(_) => self.run(&linear),
            WeightType::Blocks(_) => self.run(&BlockLinear(linear)),
        }
    }

    /// How products with matrices stored as `weights` read activations.
    fn unit_format(&self, weights: WeightType) -> UnitFormat {
        match weights {
            WeightType::Scalar(DType::Bf16) if self.dot => UnitFormat::Bf16Pair,
            WeightType::Scalar(_) => UnitFormat::F32,
            WeightType::Blocks(format) => UnitFormat::Bytes(format),
        }
    }

    /// To write `rows` rows of `width` values for a product with weights stored as said.
    fn start<'a>(&self, (operand, weights): Target<'a, Self>, rows: usize, width: usize) -> OperandMut<'a> {
        operand.start(self.unit_format(weights), rows, width)
    }

    /// Ends the writing of an operand: rows that become bytes are complete.
    fn finish(&self, written: OperandMut<'_>) {
        let layout = written.layout();
        if matches!(layout.format, UnitFormat::Bytes(_)) {
            self.run_rows(layout.rows, &Quantize { to: written });
        }
    }
}

/// What the attention kernels rely on beyond the bounds that they check themselves.
fn check_shape(shape: AttentionShape, pages: &Pages) {
    assert!(shape.head_dim.is_multiple_of(lanes::WIDTH) && shape.head_dim <= MAX_HEAD_DIM, "head_dim {}", shape.head_dim);
    assert!(shape.kv_heads > 0 && shape.q_heads.is_multiple_of(shape.kv_heads), "{} heads over {}", shape.q_heads, shape.kv_heads);
    let layout = pages.layout();
    assert_eq!((layout.head_dim, layout.kv_heads), (shape.head_dim, shape.kv_heads), "pages of another layer");
    assert!(layout.block_size.is_multiple_of(ATTENTION_TILE), "a tile lies in one block");
}

/// Pages without scales, to be read.
fn numbers<T: KvElement>(values: &Aligned<T>, layout: PageLayout) -> PagesView<'_, T> {
    PagesView { values: values.as_slice(), scales: &[], layout }
}

/// Pages without scales, to be written.
fn numbers_mut<T: KvElement>(values: &mut Aligned<T>, layout: PageLayout) -> PagesMut<'_, T> {
    PagesMut { values: values.shared(), scales: SharedMut::of(&mut []), layout }
}

impl Backend for CpuBackend {
    type Matrix = PanelMatrix;
    type Vector = Vec<f32>;
    type Buffer = Aligned<f32>;
    type Operand = Operand;
    type Pages = Pages;
    type Rope = RopeTable;
    type Returning = ();

    fn arithmetic(&self, weights: &[WeightType], kv_cache: KvType) -> String {
        // The instruction set is not part of it: all that share an arithmetic give the same bits.
        let dot = self.dot && (weights.contains(&DType::Bf16.into()) || kv_cache == DType::Bf16.into());
        let blocks = weights.iter().any(|stored| matches!(stored, WeightType::Blocks(_)));
        format!("cpu-{}{}", if dot { "bf16dot" } else { "f32fma" }, if blocks { "-int8" } else { "" })
    }

    fn matrix(&self, source: &TensorData<'_>, rows: MatrixRows, stored: WeightType) -> Result<PanelMatrix, OpError> {
        PanelMatrix::pack(source, stored, rows, (&self.weights, &self.pool))
    }

    fn stored_as(&self, matrix: &PanelMatrix) -> WeightType {
        matrix.stored()
    }

    fn packed_layout(&self) -> Option<&'static str> {
        Some(matrix::LAYOUT)
    }

    fn packed_bytes(&self, matrix: &PanelMatrix) -> Option<WeightBytes> {
        Some(matrix.bytes().clone())
    }

    fn matrix_from_packed(&self, shape: (usize, usize), rows: MatrixRows, stored: WeightType, bytes: &WeightBytes) -> Option<PanelMatrix> {
        PanelMatrix::from_packed(shape, (rows, stored), bytes, (&self.weights, &self.pool))
    }

    fn vector(&self, values: &[f32]) -> Result<Vec<f32>, OpError> {
        Ok(values.to_vec())
    }

    fn buffer(&self, rows: usize, width: usize) -> Result<Aligned<f32>, OpError> {
        Aligned::zeroed(rows.saturating_mul(width), "activations")
    }

    fn operand(&self, rows: usize, width: usize, weights: &[WeightType]) -> Result<Operand, OpError> {
        let formats: Vec<UnitFormat> = weights.iter().map(|&stored| self.unit_format(stored)).collect();
        Operand::new(&formats, self.isa.tile_rows(), rows, width)
    }

    fn pages(&self, shape: PageShape) -> Result<Pages, OpError> {
        Pages::new(shape)
    }

    fn rope(&self, positions: usize, head_dim: usize, theta: f64) -> Result<RopeTable, OpError> {
        Ok(RopeTable::new(positions, head_dim, theta))
    }

    fn embed(&self, table: &PanelMatrix, batch: &PackedBatch, out: &mut Aligned<f32>) {
        let out = out.shared();
        self.pool.run(&|part| matrix::gather(table, batch.tokens(), out, part));
    }

    fn rms_norm(&self, x: &Aligned<f32>, (gain, eps): (&Vec<f32>, f32), rows: usize, out: Target<'_, Self>) {
        let out = self.start(out, rows, gain.len());
        self.run_rows(rows, &RmsNorm { x: x.as_slice(), gain, eps, out });
        self.finish(out);
    }

    fn linear(&self, weight: &PanelMatrix, x: &Operand, rows: usize, out: &mut Aligned<f32>) {
        self.product(weight, x, rows, Output::Store(out.shared()));
    }

    fn linear_add(&self, weight: &PanelMatrix, x: &Operand, rows: usize, residual: &mut Aligned<f32>) {
        self.product(weight, x, rows, Output::Add(residual.shared()));
    }

    fn linear_swiglu(&self, weight: &PanelMatrix, x: &Operand, rows: usize, out: Target<'_, Self>) {
        let out = self.start(out, rows, weight.outputs() / 2);
        self.product(weight, x, rows, Output::SwiGlu(out));
        self.finish(out);
    }

    fn linear_silu(&self, weight: &PanelMatrix, x: &Operand, rows: usize, out: Target<'_, Self>) {
        let out = self.start(out, rows, weight.outputs());
        self.product(weight, x, rows, Output::Silu(out));
        self.finish(out);
    }

    fn qk_norm_rope_store(
        &self,
        qkv: &mut Aligned<f32>,
        attention: (AttentionShape, Option<QkNorm<'_, Self>>),
        rope: &RopeTable,
        batch: &PackedBatch,
        pages: &mut Pages,
    ) {
        let (shape, norm) = attention;
        check_shape(shape, pages);
        assert_eq!(rope.head_dim(), shape.head_dim, "the rotary tables are made for the width of a head");
        let norm = norm.as_ref().map(|n| (n.q.as_slice(), n.k.as_slice(), n.eps));
        let (qkv, layout) = (qkv.shared(), pages.layout());
        match &mut pages.store {
            Store::F32(v) => self.run_rows(batch.rows(), &QkNormRopeStore { qkv, shape, norm, rope, batch, pages: numbers_mut(v, layout) }),
            Store::Bf16(v) => {
                self.run_rows(batch.rows(), &QkNormRopeStore { qkv, shape, norm, rope, batch, pages: numbers_mut(v, layout) })
            }
            Store::F16(v) => self.run_rows(batch.rows(), &QkNormRopeStore { qkv, shape, norm, rope, batch, pages: numbers_mut(v, layout) }),
            Store::Int8 { values, scales } => {
                let pages = PagesMut { values: values.shared(), scales: scales.shared(), layout };
                self.run_rows(batch.rows(), &QkNormRopeStore { qkv, shape, norm, rope, batch, pages });
            }
        }
    }

    fn paged_attention(&self, qkv: &Aligned<f32>, shape: AttentionShape, batch: &PackedBatch, pages: &Pages, out: Target<'_, Self>) {
        check_shape(shape, pages);
        let (layout, dot) = (pages.layout(), self.dot);
        let (qkv, out) = (qkv.as_slice(), self.start(out, batch.rows(), shape.q_heads * shape.head_dim));
        match &pages.store {
            Store::F32(v) => self.run(&Attention { qkv, shape, batch, pages: numbers(v, layout), dot, out }),
            Store::Bf16(v) => self.run(&Attention { qkv, shape, batch, pages: numbers(v, layout), dot, out }),
            Store::F16(v) => self.run(&Attention { qkv, shape, batch, pages: numbers(v, layout), dot, out }),
            Store::Int8 { values, scales } => {
                let pages = PagesView { values: values.as_slice(), scales: scales.as_slice(), layout };
                self.run(&Attention { qkv, shape, batch, pages, dot, out });
            }
        }
        self.finish(out);
    }

    fn logits(&self, head: &PanelMatrix, x: &Operand, (rows, room): (&[u32], &mut Operand), out: &mut [f32]) {
        let all = rows.len() == x.layout().rows && rows.iter().enumerate().all(|(i, &row)| i == row as usize);
        if all {
            return self.product(head, x, rows.len(), Output::Store(SharedMut::of(out)));
        }
        x.gather(rows, room);
        self.product(head, room, rows.len(), Output::Store(SharedMut::of(out)));
    }

    fn send_back(&self, _tasks: &RowTasks) {}

    fn receive(&self, (): (), _tasks: &mut RowTasks) -> Result<(), OpError> {
        Ok(())
    }

    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        host::for_each(&self.pool, count, task);
    }

    fn poison(&self, pages: &mut Pages, blocks: &[u32]) {
        pages.poison(blocks);
    }

    #[cfg(test)]
    fn write(&self, buffer: &mut Aligned<f32>, values: &[f32]) {
        buffer.as_mut_slice()[..values.len()].copy_from_slice(values);
    }

    #[cfg(test)]
    fn read(&self, buffer: &Aligned<f32>, count: usize) -> Vec<f32> {
        buffer.as_slice()[..count].to_vec()
    }

    #[cfg(test)]
    fn write_operand(&self, operand: Target<'_, Self>, width: usize, values: &[f32]) {
        let out = self.start(operand, values.len() / width, width);
        for (row, values) in values.chunks_exact(width).enumerate() {
            for k in (0..width).step_by(lanes::WIDTH) {
                // SAFETY: the scalar lanes need nothing; this is the only writer.
                unsafe {
                    let lanes = lanes::Lanes::load_first(values.as_ptr().add(k), width - k);
                    out.put::<lanes::Scalar>(out.layout().place(row), k, lanes);
                }
            }
        }
        self.finish(out);
    }

    fn read_operand(&self, operand: &Operand, rows: usize, width: usize) -> Vec<f32> {
        assert_eq!((operand.layout().rows, operand.layout().width), (rows, width));
        (0..rows).flat_map(|row| operand.row(row)).collect()
    }
}
