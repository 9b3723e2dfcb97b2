//! The CPU backend: panels of weights, pages of keys, one thread pool, SIMD chosen at run time.
//!
//! Kernels are written once over sixteen f32 lanes (`lanes`) with one fixed order of operations, so scalar, AVX2 and AVX-512 give the same
//! bits, for any batch, chunk and number of threads.
//!
//! **Architecture invariant:** work is split over outputs (panels, rows, heads), never over a sum.

// Kernels index several register arrays by one counter; an iterator over one of them would hide which lanes go together.
#![allow(clippy::needless_range_loop)]

mod attention;
mod elementwise;
mod lanes;
mod linear;
mod math;
mod matrix;
mod memory;
mod pages;
mod pool;
mod rope;

pub use matrix::PanelMatrix;
pub use memory::Aligned;
pub use pages::Pages;
pub use rope::RopeTable;

use super::{ATTENTION_TILE, AttentionShape, Backend, DType, OpError, PackedBatch, PageShape, QkNorm, TensorData, WeightBytes};
use attention::Attention;
use elementwise::{Activation, NormInput, RmsNorm};
use lanes::{Isa, Kernel};
use linear::Linear;
use memory::SharedMut;
use pages::{KvBf16, KvElement, KvF16, PageLayout, Store};
use pool::ThreadPool;
use rope::QkNormRopeStore;

/// Widest attention head the kernels take.
pub const MAX_HEAD_DIM: usize = attention::MAX_HEAD_DIM;

/// The CPU and its threads.
pub struct CpuBackend {
    isa: Isa,
    pool: ThreadPool,
}

impl CpuBackend {
    /// Uses the best instruction set of this CPU and `threads` threads, the caller's included.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let isa = Isa::available().pop().unwrap_or(Isa::Scalar);
        Ok(Self { isa, pool: ThreadPool::new(threads)? })
    }

    /// One backend per instruction set this CPU has, slowest first: they must agree bit for bit.
    #[cfg(test)]
    pub(crate) fn variants(threads: usize) -> Vec<Self> {
        Isa::available().into_iter().map(|isa| Self { isa, pool: ThreadPool::new(threads).expect("threads") }).collect()
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> &'static str {
        self.isa.name()
    }

    fn run(&self, kernel: &impl Kernel) {
        // SAFETY: the instruction set is one of this CPU's; the jobs below give every part its own outputs, and check their pointers.
        self.pool.run(&|part| unsafe { self.isa.run(kernel, part) });
    }

    fn linear_to(&self, weight: &PanelMatrix, x: &[f32], rows: usize, out: SharedMut<'_, f32>) {
        assert!(x.len() >= rows * weight.inputs(), "activations of {} rows", x.len() / weight.inputs());
        self.run(&Linear { weight, x, rows, out });
    }

    fn attend<T: KvElement>(&self, pages: &[T], job: Attention<'_, f32>) {
        let Attention { qkv, shape, batch, layout, out, .. } = job;
        self.run(&Attention { qkv, shape, batch, pages, layout, out });
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

/// The pages' values as another type of the same size.
fn cast<T: KvElement>(pages: &Aligned<u16>) -> &[T] {
    const { assert!(size_of::<T>() == 2) };
    // SAFETY: T is a transparent u16.
    unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), pages.len()) }
}

/// As [`cast`], mutably.
fn cast_mut<T: KvElement>(pages: &mut Aligned<u16>) -> &mut [T] {
    const { assert!(size_of::<T>() == 2) };
    let values = pages.as_mut_slice();
    // SAFETY: T is a transparent u16; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

impl Backend for CpuBackend {
    type Matrix = PanelMatrix;
    type Vector = Vec<f32>;
    type Buffer = Aligned<f32>;
    type Pages = Pages;
    type Rope = RopeTable;

    fn name(&self) -> String {
        // The instruction set is not part of it: all of them give the same bits.
        "cpu-f32fma".to_string()
    }

    fn matrix(&self, source: &TensorData<'_>, dtype: DType) -> Result<PanelMatrix, OpError> {
        PanelMatrix::pack(source, dtype, &self.pool)
    }

    fn packed_layout(&self) -> Option<&'static str> {
        Some(matrix::LAYOUT)
    }

    fn packed_bytes(&self, matrix: &PanelMatrix) -> Option<WeightBytes> {
        Some(matrix.bytes().clone())
    }

    fn matrix_from_packed(&self, shape: (usize, usize), dtype: DType, bytes: WeightBytes) -> Option<PanelMatrix> {
        PanelMatrix::from_packed(shape, dtype, bytes)
    }

    fn vector(&self, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }

    fn buffer(&self, rows: usize, width: usize) -> Result<Aligned<f32>, OpError> {
        Aligned::zeroed(rows.saturating_mul(width), "activations")
    }

    fn pages(&self, shape: PageShape) -> Result<Pages, OpError> {
        Pages::new(shape)
    }

    fn rope(&self, positions: usize, head_dim: usize, theta: f64) -> RopeTable {
        RopeTable::new(positions, head_dim, theta)
    }

    fn embed(&self, table: &PanelMatrix, batch: &PackedBatch, out: &mut Aligned<f32>) {
        let out = out.shared();
        self.pool.run(&|part| matrix::gather(table, batch.tokens(), out, part));
    }

    fn rms_norm(&self, x: &Aligned<f32>, gain: &Vec<f32>, eps: f32, rows: usize, out: &mut Aligned<f32>) {
        self.run(&RmsNorm { input: NormInput::Plain(x.as_slice()), gain, eps, rows, out: out.shared() });
    }

    fn add_rms_norm(&self, x: &mut Aligned<f32>, delta: &Aligned<f32>, norm: (&Vec<f32>, f32), rows: usize, out: &mut Aligned<f32>) {
        let (gain, eps) = norm;
        let input = NormInput::Sum { x: x.shared(), delta: delta.as_slice() };
        self.run(&RmsNorm { input, gain, eps, rows, out: out.shared() });
    }

    fn linear(&self, weight: &PanelMatrix, x: &Aligned<f32>, rows: usize, out: &mut Aligned<f32>) {
        self.linear_to(weight, x.as_slice(), rows, out.shared());
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
            Store::F32(v) => self.run(&QkNormRopeStore { qkv, shape, norm, rope, batch, pages: v.shared(), layout }),
            Store::Bf16(v) => {
                let pages = SharedMut::of(cast_mut::<KvBf16>(v));
                self.run(&QkNormRopeStore { qkv, shape, norm, rope, batch, pages, layout });
            }
            Store::F16(v) => {
                let pages = SharedMut::of(cast_mut::<KvF16>(v));
                self.run(&QkNormRopeStore { qkv, shape, norm, rope, batch, pages, layout });
            }
        }
    }

    fn paged_attention(&self, qkv: &Aligned<f32>, shape: AttentionShape, batch: &PackedBatch, pages: &Pages, out: &mut Aligned<f32>) {
        check_shape(shape, pages);
        let layout: PageLayout = pages.layout();
        let job = Attention { qkv: qkv.as_slice(), shape, batch, pages: &[], layout, out: out.shared() };
        match &pages.store {
            Store::F32(v) => self.attend(v.as_slice(), job),
            Store::Bf16(v) => self.attend(cast::<KvBf16>(v), job),
            Store::F16(v) => self.attend(cast::<KvF16>(v), job),
        }
    }

    fn swiglu(&self, gate_up: &Aligned<f32>, width: usize, rows: usize, out: &mut Aligned<f32>) {
        self.run(&Activation { input: gate_up.as_slice(), gated: true, width, rows, out: out.shared() });
    }

    fn silu(&self, x: &Aligned<f32>, width: usize, rows: usize, out: &mut Aligned<f32>) {
        self.run(&Activation { input: x.as_slice(), gated: false, width, rows, out: out.shared() });
    }

    fn logits(&self, head: &PanelMatrix, x: &Aligned<f32>, rows: &[u32], out: &mut [f32]) {
        let width = head.inputs();
        let x = x.as_slice();
        let gathered: Vec<f32> = rows.iter().flat_map(|&r| &x[r as usize * width..][..width]).copied().collect();
        self.linear_to(head, &gathered, rows.len(), SharedMut::of(out));
    }

    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.pool.run(&|part| (part.index..count).step_by(part.of).for_each(task));
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
}
