//! Keys and values of one layer in pages, arranged so that scores need no sum across lanes.
//!
//! A block holds, for every kv head, first K as `[block_size / 32 tiles][head_dim][32 positions]` (a lane is a position), then V as
//! `[block_size][head_dim]` (a lane is a dimension). Blocks of one layer lie one after the other.

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

    /// V of `position` of the block: `[head_dim]`.
    #[inline(always)]
    pub(super) fn value(self, block: usize, head: usize, position: usize) -> usize {
        block * self.block_elements() + (2 * head + 1) * self.head_elements() + position * self.head_dim
    }
}

/// A dtype that keys and values are stored in.
pub(super) trait KvElement: Copy + Send + Sync {
    fn narrow(value: f32) -> Self;
    /// Reads 16 values.
    ///
    /// # Safety
    /// 16 values at `from`; as the methods of [`Lanes`].
    unsafe fn load<V: Lanes>(from: *const Self) -> V;
}

impl KvElement for f32 {
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }

    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct KvBf16(u16);

impl KvElement for KvBf16 {
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self(bf16::from_f32(value).to_bits())
    }

    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's promise; the type is a transparent u16.
        unsafe { V::load_bf16(from.cast()) }
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct KvF16(u16);

impl KvElement for KvF16 {
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self(f16::from_f32(value).to_bits())
    }

    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's promise; the type is a transparent u16.
        unsafe { V::load_f16(from.cast()) }
    }
}
