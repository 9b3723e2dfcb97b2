//! Keys and values of one layer in pages, arranged so that scores need no sum across lanes.
//!
//! A block holds, for every kv head, first K as `[block_size / 32 tiles][head_dim][32 positions]` (a lane is a position), then V as
//! `[block_size][head_dim]` (a lane is a dimension); in bf16 two dimensions of K and two positions of V lie together, see [`KvElement`].
//! Blocks of one layer lie one after the other. Where values have scales, these lie apart: a block holds, for every kv head, one for each
//! position's key, then one for each position's value.

use super::lanes::Lanes;
use super::memory::{Aligned, Plain, SharedMut};
use crate::ops::{ATTENTION_TILE, DType, KvType, OpError, PageShape};
use half::{bf16, f16};

/// The values, by type.
pub(super) enum Store {
    F32(Aligned<f32>),
    Bf16(Aligned<KvBf16>),
    F16(Aligned<KvF16>),
    Int8 { values: Aligned<KvInt8>, scales: Aligned<f32> },
}

/// One layer's pages.
pub struct Pages {
    shape: PageShape,
    pub(super) store: Store,
}

/// What [`OpError::Allocation`] calls it.
const WHAT: &str = "the KV cache";

impl Pages {
    /// Allocates zeroed pages.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    pub(super) fn new(shape: PageShape) -> Result<Self, OpError> {
        let count = 2 * shape.elements();
        let store = match shape.stored {
            KvType::Scalar(DType::F32) => Store::F32(Aligned::zeroed(count, WHAT)?),
            KvType::Scalar(DType::Bf16) => Store::Bf16(Aligned::zeroed(count, WHAT)?),
            KvType::Scalar(DType::F16) => Store::F16(Aligned::zeroed(count, WHAT)?),
            KvType::Int8 => {
                let scales = Aligned::zeroed(count / shape.head_dim, WHAT)?;
                Store::Int8 { values: Aligned::zeroed(count, WHAT)?, scales }
            }
        };
        Ok(Self { shape, store })
    }

    /// Where things lie.
    pub(super) fn layout(&self) -> PageLayout {
        PageLayout { block_size: self.shape.block_size, kv_heads: self.shape.kv_heads, head_dim: self.shape.head_dim }
    }

    /// Fills `blocks` with NaN; where bytes cannot say it, their scales.
    pub(super) fn poison(&mut self, blocks: &[u32]) {
        let layout = self.layout();
        match &mut self.store {
            Store::F32(v) => fill(v, layout.block_elements(), blocks, f32::NAN),
            Store::Bf16(v) => fill(v, layout.block_elements(), blocks, KvBf16(bf16::NAN.to_bits())),
            Store::F16(v) => fill(v, layout.block_elements(), blocks, KvF16(f16::NAN.to_bits())),
            Store::Int8 { scales, .. } => fill(scales, layout.block_scales(), blocks, f32::NAN),
        }
    }
}

fn fill<T: Plain>(values: &mut Aligned<T>, width: usize, blocks: &[u32], value: T) {
    for &block in blocks {
        values.as_mut_slice()[block as usize * width..][..width].fill(value);
    }
}

/// Pages as attention reads them.
#[derive(Clone, Copy)]
pub(super) struct PagesView<'a, T> {
    pub(super) values: &'a [T],
    /// None, unless [`KvElement::SCALED`].
    pub(super) scales: &'a [f32],
    pub(super) layout: PageLayout,
}

/// Pages as they are written, by several threads.
#[derive(Clone, Copy)]
pub(super) struct PagesMut<'a, T> {
    pub(super) values: SharedMut<'a, T>,
    /// None, unless [`KvElement::SCALED`].
    pub(super) scales: SharedMut<'a, f32>,
    pub(super) layout: PageLayout,
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
    fn block_elements(self) -> usize {
        2 * self.kv_heads * self.head_elements()
    }

    /// Scales of a whole block, of K and V of all heads.
    fn block_scales(self) -> usize {
        2 * self.kv_heads * self.block_size
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

    /// The scale of the key of `position`, among the scales.
    #[inline(always)]
    pub(super) fn key_scale(self, block: usize, head: usize, position: usize) -> usize {
        block * self.block_scales() + 2 * head * self.block_size + position
    }

    /// The scale of the value of `position`, among the scales.
    #[inline(always)]
    pub(super) fn value_scale(self, block: usize, head: usize, position: usize) -> usize {
        self.key_scale(block, head, position) + self.block_size
    }
}

/// A type that keys and values are stored in.
///
/// Both are matrices `[sum][lane]`: attention adds over the first index (dimensions of a key, positions of a value) and has the second in
/// its lanes. With `PAIRED`, two neighbours along the sum lie together, `[sum / 2][lane][2]`.
pub(super) trait KvElement: Plain {
    const PAIRED: bool;

    /// Whether a stored value is to be multiplied by a scale of its position and head.
    const SCALED: bool = false;

    /// The element nearest to `value`, which has been divided by its scale, if there is one.
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

/// The bits of a bf16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct KvBf16(u16);

impl Plain for KvBf16 {}

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

/// The bits of an f16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct KvF16(u16);

impl Plain for KvF16 {}

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

/// A signed byte, see [`KvType::Int8`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct KvInt8(i8);

impl Plain for KvInt8 {}

impl KvElement for KvInt8 {
    const PAIRED: bool = false;
    const SCALED: bool = true;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        // The quotient may have been rounded to a bit above 127. NaN, which the scale keeps, becomes 0.
        Self(value.round_ties_even().clamp(-127.0, 127.0) as i8)
    }

    #[inline(always)]
    unsafe fn pair<V: Lanes>(from: *const Self, sum: usize, lane: usize, lanes: usize) -> (V, V) {
        // SAFETY: the caller's promise; the type is a transparent i8.
        unsafe { (V::load_i8(from.add(sum * lanes + lane).cast()), V::load_i8(from.add((sum + 1) * lanes + lane).cast())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_take_the_bytes_that_the_type_says() {
        let numbers = [DType::F32, DType::Bf16, DType::F16].map(KvType::Scalar);
        for stored in numbers.into_iter().chain([KvType::Int8]) {
            let shape = PageShape { num_blocks: 3, block_size: 64, kv_heads: 5, head_dim: 48, stored };
            let bytes = match Pages::new(shape).unwrap().store {
                Store::F32(v) => size_of_val(v.as_slice()),
                Store::Bf16(v) => size_of_val(v.as_slice()),
                Store::F16(v) => size_of_val(v.as_slice()),
                Store::Int8 { values, scales } => size_of_val(values.as_slice()) + size_of_val(scales.as_slice()),
            };
            assert_eq!(bytes, 3 * 64 * 5 * stored.head_bytes(48), "{stored}");
        }
    }
}
