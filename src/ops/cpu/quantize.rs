//! Activations in eight bits: 32 neighbouring values of a row share a scale, so a row's bytes depend on nothing but the row.
//!
//! `scale = max |x| / 127`, `q = round(x / scale)`, ties to even, from -127 to 127. Beside them stands what the products of these 32
//! activations need: see [`Factor`].

use super::block_product::extra;
use super::lanes::{ByteLanes, Kernel, Part, WIDTH, sum_tree};
use super::operand::{Factor, OperandMut, UnitFormat};
use crate::ops::{BLOCK_VALUES, BlockFormat};

/// Values of which none is larger become zeros: 127 divided by it must be finite.
pub(super) const LEAST: f32 = 1e-35;

/// Turns the staged rows of an operand into bytes.
pub(super) struct Quantize<'a> {
    pub(super) to: OperandMut<'a>,
}

impl Kernel for Quantize<'_> {
    #[inline(always)]
    unsafe fn run<V: ByteLanes>(&self, part: Part) {
        let layout = self.to.layout();
        let UnitFormat::Bytes(weights) = layout.format else { return };
        for row in part.range(layout.rows) {
            // SAFETY: the caller's promise; a row belongs to one part only.
            unsafe { self.row::<V>(row, weights) };
        }
    }
}

impl Quantize<'_> {
    /// # Safety
    /// The row belongs to the caller's part only; as the methods of [`super::lanes::Lanes`].
    #[inline(always)]
    unsafe fn row<V: ByteLanes>(&self, row: usize, weights: BlockFormat) {
        let (layout, place) = (self.to.layout(), self.to.layout().place(row));
        let staged = self.to.staged(place);
        // SAFETY: `staged` has the whole width, of which blocks are a part; the rest is the caller's promise.
        unsafe {
            // 0, or NaN when any value is infinite or none.
            let mut check = V::splat(0.0);
            for block in 0..layout.blocks() {
                let from = staged.add(block * BLOCK_VALUES);
                let values = [V::load(from), V::load(from.add(WIDTH))];
                check = values[0].mul_add(V::splat(0.0), values[1].mul_add(V::splat(0.0), check));
                let (scale, sum) = self.block(self.to.bytes(place, block), values);
                self.to.set_factor(place, block, Factor { scale, extra: extra(weights, scale, sum) });
            }
            if sum_tree(check.to_array()).is_nan() {
                // Bytes cannot say it; a scale that is not a number makes every output so.
                let broken = Factor { scale: f32::NAN, extra: f32::NAN.to_bits() };
                (0..layout.blocks()).for_each(|block| self.to.set_factor(place, block, broken));
            }
        }
    }

    /// Writes 32 bytes; returns their scale and their sum.
    ///
    /// # Safety
    /// Room for 32 bytes; as the methods of [`super::lanes::Lanes`].
    #[inline(always)]
    unsafe fn block<V: ByteLanes>(&self, bytes: *mut u8, values: [V; 2]) -> (f32, f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let magnitude = |v: V| v.max(V::splat(0.0).sub(v));
            let largest = magnitude(values[0]).max(magnitude(values[1])).largest();
            let inverse = if largest >= LEAST { 127.0 / largest } else { 0.0 };
            // The product of value and inverse may round to a bit above 127.
            let nearest = |v: V| V::splat(127.0).min(V::splat(-127.0).max(v.mul(V::splat(inverse)).round()));
            let (low, high) = (nearest(values[0]), nearest(values[1]));
            low.store_i8(bytes);
            high.store_i8(bytes.add(WIDTH));
            // Integers of at most 13 bits: exact in any order.
            (largest / 127.0, sum_tree(low.add(high).to_array()))
        }
    }
}
