//! Keys and values of one layer in pages, arranged so that scores need no sum across lanes.
//!
//! A block holds, for every kv head, first K as `[block_size / 32 tiles][head_dim][32 positions]` (a lane is a position), then V as
//! `[block_size][head_dim]` (a lane is a dimension); in bf16 two dimensions of K and two positions of V lie together, see [`KvElement`].
//! Blocks of one layer lie one after the other.

use super::lanes::Lanes;
use super::memory::Aligned;
use crate::ops::{ATTENTION_TILE, DType, OpError, PageShape};
use half::{bf16, f16};

/// The values, by dtype.
pub(super) enum Store {
    F32(Aligned<f32>),
    Bf16(Aligned<u16>),
    F16(Aligned<u16>),
}

/// One layer's pages.
pub struct Pages {
    pub(super) shape: PageShape,
    pub(super) store: Store,
}

impl Pages {
    /// Allocates zeroed pages.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    pub(super) fn new(shape: PageShape) -> Result<Self, OpError> {
        let count = 2 * shape.elements();
        let store = match shape.dtype {
            DType::F32 => Store::F32(Aligned::zeroed(count, "the KV cache")?),
            DType::Bf16 => Store::Bf16(Aligned::zeroed(count, "the KV cache")?),
            DType::F16 => Store::F16(Aligned::zeroed(count, "the KV cache")?),
        };
        Ok(Self { shape, store })
    }

    /// Where things lie.
    pub(super) fn layout(&self) -> PageLayout {
        PageLayout { block_size: self.shape.block_size, kv_heads: self.shape.kv_heads, head_dim: self.shape.head_dim }
    }

    /// Fills `blocks` with NaN.
    pub(super) fn poison(&mut self, blocks: &[u32]) {
        let width = self.layout().block_elements();
        for &block in blocks {
            let range = block as usize * width..(block as usize + 1) * width;
            match &mut self.store {
                Store::F32(v) => v.as_mut_slice()[range].fill(f32::NAN),
                Store::Bf16(v) => v.as_mut_slice()[range].fill(bf16::NAN.to_bits()),
                Store::F16(v) => v.as_mut_slice()[range].fill(f16::NAN.to_bits()),
            }
        }
    }
}

/// Offsets within a layer's pages, in elements.
#[derive(Clone, Copy)]
pub(super) struct PageLayout {
    pub(super) block_size: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl PageLayout {
    /// Elements of K or V of one head in a block.
    fn head_elements(self) -> usize {
        self.block_size * self.head_dim
    }

    /// Elements of a whole block, K and V of all heads.
    pub(super) fn block_elements(self) -> usize {
        2 * self.kv_heads * self.head_elements()
    }

    /// K of the tile that holds `position` of the block: `[head_dim][32]`.
    #[inline(always)]
    pub(super) fn key_tile(self, block: usize, head: usize, position: usize) -> usize {
        block * self.block_elements() + 2 * head * self.head_elements() + position / ATTENTION_TILE * ATTENTION_TILE * self.head_dim
    }

    /// V of the tile that holds `position` of the block: `[32][head_dim]`.
    #[inline(always)]
    pub(super) fn value_tile(self, block: usize, head: usize, position: usize) -> usize {
        self.key_tile(block, head, position) + self.head_elements()
    }
}

/// A dtype that keys and values are stored in.
///
/// Both are matrices `[sum][lane]`: attention adds over the first index (dimensions of a key, positions of a value) and has the second in
/// its lanes. With `PAIRED`, two neighbours along the sum lie together, `[sum / 2][lane][2]`.
pub(super) trait KvElement: Copy + Send + Sync {
    const PAIRED: bool;

    /// The element nearest to `value`.
    fn narrow(value: f32) -> Self;

    /// Elements `(sum, lane)` and `(sum + 1, lane)` for 16 lanes, `sum` even, of a matrix of `lanes` lanes.
    ///
    /// # Safety
    /// The matrix at `from` has these elements; as the methods of [`Lanes`].
    unsafe fn pair<V: Lanes>(from: *const Self, sum: usize, lane: usize, lanes: usize) -> (V, V);

    /// Place of an element in a matrix of `lanes` lanes.
    #[inline(always)]
    fn place(sum: usize, lane: usize, lanes: usize) -> usize {
        if Self::PAIRED { (sum / 2 * lanes + lane) * 2 + sum % 2 } else { sum * lanes + lane }
    }
}

impl KvElement for f32 {
    const PAIRED: bool = false;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }

    #[inline(always)]
    unsafe fn pair<V: Lanes>(from: *const Self, sum: usize, lane: usize, lanes: usize) -> (V, V) {
        // SAFETY: the caller's promise.
        unsafe { (V::load(from.add(sum * lanes + lane)), V::load(from.add((sum + 1) * lanes + lane))) }
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct KvBf16(u16);

impl KvElement for KvBf16 {
    const PAIRED: bool = true;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self(bf16::from_f32(value).to_bits())
    }

    #[inline(always)]
    unsafe fn pair<V: Lanes>(from: *const Self, sum: usize, lane: usize, lanes: usize) -> (V, V) {
        // SAFETY: the caller's promise; the type is a transparent u16.
        unsafe { V::load_bf16_pairs(from.add(sum * lanes + 2 * lane).cast()) }
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct KvF16(u16);

impl KvElement for KvF16 {
    const PAIRED: bool = false;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self(f16::from_f32(value).to_bits())
    }

    #[inline(always)]
    unsafe fn pair<V: Lanes>(from: *const Self, sum: usize, lane: usize, lanes: usize) -> (V, V) {
        // SAFETY: the caller's promise; the type is a transparent u16.
        unsafe { (V::load_f16(from.add(sum * lanes + lane).cast()), V::load_f16(from.add((sum + 1) * lanes + lane).cast())) }
    }
}
