//! Per-head RMSNorm of queries and keys, rotation, and the write of keys and values to their pages, in one pass over a row.

use super::elementwise::{inverse_rms, scale_by};
use super::lanes::{ByteLanes, Kernel, Lanes, Part, WIDTH};
use super::memory::{SharedMut, at};
use super::pages::{KvElement, PagesMut};
use super::quantize::LEAST;
use crate::ops::{ATTENTION_TILE, AttentionShape, PackedBatch};

/// Cosines and sines `[positions][head_dim / 2]`.
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTable {
    /// Angle `p * theta^(-2j / head_dim)`, computed in f64 by portable routines and rounded once.
    pub(in crate::ops) fn new(positions: usize, head_dim: usize, theta: f64) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f64> = (0..half).map(|j| libm::pow(theta, -((2 * j) as f64) / head_dim as f64)).collect();
        let table = |f: fn(f64) -> f64| (0..positions).flat_map(|p| frequencies.iter().map(move |w| f(p as f64 * w) as f32)).collect();
        Self { cos: table(libm::cos), sin: table(libm::sin), half }
    }

    /// Width of the heads it is made for.
    pub(super) fn head_dim(&self) -> usize {
        2 * self.half
    }

    /// Cosines and sines of one position.
    ///
    /// # Panics
    /// When the table is shorter: the model's context limit keeps positions below it.
    pub(in crate::ops) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Rotates pairs (j, j + head_dim / 2) of one head in place.
///
/// # Safety
/// `2 * cos.len()` values at `head`; as the methods of [`Lanes`].
#[inline(always)]
unsafe fn rotate<V: Lanes>(head: *mut f32, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for i in (0..half).step_by(WIDTH) {
        let count = half - i;
        // SAFETY: all slices hold `half` values, the head twice as many.
        unsafe {
            let (c, s) = (V::load_first(cos.as_ptr().add(i), count), V::load_first(sin.as_ptr().add(i), count));
            let (low, high) = (V::load_first(head.add(i), count), V::load_first(head.add(half + i), count));
            let minus = V::splat(0.0).sub(high);
            minus.mul_add(s, low.mul(c)).store_first(head.add(i), count);
            low.mul_add(s, high.mul(c)).store_first(head.add(half + i), count);
        }
    }
}

/// See the module. `qkv` is `[rows, q | k | v]`; q and k are changed in place.
pub(super) struct QkNormRopeStore<'a, T> {
    pub(super) qkv: SharedMut<'a, f32>,
    pub(super) shape: AttentionShape,
    /// Gains of q and k `[head_dim]`, and eps.
    pub(super) norm: Option<(&'a [f32], &'a [f32], f32)>,
    pub(super) rope: &'a RopeTable,
    pub(super) batch: &'a PackedBatch,
    pub(super) pages: PagesMut<'a, T>,
}

impl<T: KvElement> Kernel for QkNormRopeStore<'_, T> {
    #[inline(always)]
    unsafe fn run<V: ByteLanes>(&self, part: Part) {
        for row in part.range(self.batch.rows()) {
            // SAFETY: the caller's promise; a row and its slot belong to one part only.
            unsafe { self.row::<V>(row) };
        }
    }
}

impl<T: KvElement> QkNormRopeStore<'_, T> {
    #[inline(always)]
    unsafe fn row<V: Lanes>(&self, row: usize) {
        let (head_dim, width) = (self.shape.head_dim, self.shape.qkv_width());
        let (cos, sin) = self.rope.at(self.batch.positions()[row] as usize);
        let rotated = self.shape.q_heads + self.shape.kv_heads;
        for head in 0..rotated {
            let values = self.qkv.at(row * width + head * head_dim, head_dim);
            // SAFETY: `head_dim` values were checked; gains have the same length.
            unsafe {
                if let Some((q, k, eps)) = self.norm {
                    let gain = if head < self.shape.q_heads { q } else { k };
                    let scale = inverse_rms::<V>(values, head_dim, eps);
                    scale_by::<V>(values, at(gain, 0, head_dim), scale, head_dim, values);
                }
                rotate::<V>(values, cos, sin);
            }
        }
        let (block, offset) = self.batch.slot_of_row(row);
        for head in 0..self.shape.kv_heads {
            let (layout, in_tile) = (self.pages.layout, offset % ATTENTION_TILE);
            let of_key = (layout.key_tile(block, head, offset), layout.key_scale(block, head, offset));
            let of_value = (layout.value_tile(block, head, offset), layout.value_scale(block, head, offset));
            // SAFETY: the slices lie in this row; the slot is this row's alone; `in_tile` is below 32, and `d` below `head_dim`.
            unsafe {
                let key = self.qkv.slice(row * width + (self.shape.q_heads + head) * head_dim, head_dim);
                self.store(of_key, key, |d| T::place(d, in_tile, ATTENTION_TILE));
                let value = self.qkv.slice(row * width + (rotated + head) * head_dim, head_dim);
                self.store(of_value, value, |d| T::place(in_tile, d, head_dim));
            }
        }
    }

    /// Writes a head's values to the tile at `tile`, each to its place in it, and their scale to `scale`.
    ///
    /// # Safety
    /// The slot is the caller's alone; places lie below 32 times the number of values.
    #[inline(always)]
    unsafe fn store(&self, (tile, scale): (usize, usize), values: &[f32], place: impl Fn(usize) -> usize) {
        let tile = self.pages.values.at(tile, ATTENTION_TILE * values.len());
        // SAFETY: the tile was checked; the rest is the caller's promise.
        unsafe {
            let factor = self.set_scale(scale, values);
            for (d, &value) in values.iter().enumerate() {
                tile.add(place(d)).write(T::narrow(value * factor));
            }
        }
    }

    /// Writes the scale of a head's values to `place`; returns what the values are multiplied by before they are stored.
    ///
    /// # Safety
    /// The place is the caller's alone.
    #[inline(always)]
    unsafe fn set_scale(&self, place: usize, values: &[f32]) -> f32 {
        if !T::SCALED {
            return 1.0;
        }
        // Magnitudes are ordered as their bits are; what is not finite lies above all.
        let largest = f32::from_bits(values.iter().fold(0, |largest, value| value.abs().to_bits().max(largest)));
        let (scale, factor) = match largest {
            _ if !largest.is_finite() => (f32::NAN, 0.0),
            _ if largest < LEAST => (0.0, 0.0),
            _ => (largest / 127.0, 127.0 / largest),
        };
        // SAFETY: the caller's promise.
        unsafe { self.pages.scales.at(place, 1).write(scale) };
        factor
    }
}
