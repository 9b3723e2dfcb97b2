//! `y[rows, out] = x[rows, in] * w[out, in]^T` over panels.
//!
//! Every output is one lane, and sees one fused multiply-add per k in ascending order: the same bits for any number of rows, any tile,
//! any split over threads and any instruction set.

use super::lanes::{Kernel, Lanes, Part, WIDTH};
use super::matrix::{Bf16Panels, F16Panels, F32Panels, PANEL, PanelElement, PanelMatrix};
use super::memory::{SharedMut, at};
use crate::ops::DType;

/// Bytes of panels that many rows go through before the next panels are read: they stay in the second-level cache.
const GROUP_BYTES: usize = 256 << 10;

/// Row tiles from which on panels are grouped.
const GROUP_FROM_TILES: usize = 32;

/// One product. `x` is `[rows, inputs]`, `out` is `[rows, outputs]`, both without gaps.
pub(super) struct Linear<'a> {
    pub(super) weight: &'a PanelMatrix,
    pub(super) x: &'a [f32],
    pub(super) rows: usize,
    pub(super) out: SharedMut<'a, f32>,
}

impl Kernel for Linear<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(&self, part: Part) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.weight.dtype() {
                DType::Bf16 => self.panels::<V, Bf16Panels>(part),
                DType::F16 => self.panels::<V, F16Panels>(part),
                DType::F32 => self.panels::<V, F32Panels>(part),
            }
        }
    }
}

impl Linear<'_> {
    #[inline(always)]
    unsafe fn panels<V: Lanes, E: PanelElement>(&self, part: Part) {
        let tiles = self.rows.div_ceil(V::TILE_ROWS);
        let group = if tiles < GROUP_FROM_TILES { 1 } else { (GROUP_BYTES / self.weight.panel_bytes()).clamp(1, 8) };
        let panels = part.range(self.weight.panels());
        for first in panels.clone().step_by(group) {
            for tile in 0..tiles {
                let rows = Part { index: tile, of: tiles }.range(self.rows);
                for panel in first..(first + group).min(panels.end) {
                    // SAFETY: the caller's promise; a panel's outputs belong to this part only.
                    unsafe { self.tile_rows::<V, E>(panel, rows.clone()) };
                }
            }
        }
    }

    /// One panel times one tile of rows, with the number of rows as a constant so that all accumulators are registers.
    #[inline(always)]
    unsafe fn tile_rows<V: Lanes, E: PanelElement>(&self, panel: usize, rows: std::ops::Range<usize>) {
        // SAFETY: the caller's promise; the guards keep tiles away that the instruction set has no registers for.
        unsafe {
            match rows.len() {
                1 => self.halves::<V, E, 1>(panel, rows.start),
                2 => self.halves::<V, E, 2>(panel, rows.start),
                3 if V::TILE_ROWS >= 3 => self.halves::<V, E, 3>(panel, rows.start),
                4 if V::TILE_ROWS >= 4 => self.halves::<V, E, 4>(panel, rows.start),
                5 if V::TILE_ROWS >= 5 => self.halves::<V, E, 5>(panel, rows.start),
                6 if V::TILE_ROWS >= 6 => self.halves::<V, E, 6>(panel, rows.start),
                7 if V::TILE_ROWS >= 7 => self.halves::<V, E, 7>(panel, rows.start),
                8 if V::TILE_ROWS >= 8 => self.halves::<V, E, 8>(panel, rows.start),
                other => unreachable!("a tile has at most {} rows, not {other}", V::TILE_ROWS),
            }
        }
    }

    #[inline(always)]
    unsafe fn halves<V: Lanes, E: PanelElement, const R: usize>(&self, panel: usize, row: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if V::TILE_VECTORS == 2 {
                self.tile::<V, E, R, 2>(panel, row, 0);
            } else {
                self.tile::<V, E, R, 1>(panel, row, 0);
                self.tile::<V, E, R, 1>(panel, row, 1);
            }
        }
    }

    /// `R` rows times `16 * H` outputs of a panel, from half `half` on.
    #[inline(always)]
    unsafe fn tile<V: Lanes, E: PanelElement, const R: usize, const H: usize>(&self, panel: usize, row: usize, half: usize) {
        let inputs = self.weight.inputs();
        let x = at(self.x, row * inputs, R * inputs);
        let mut weights = self.weight.panel(panel).as_ptr();
        // SAFETY: `x` holds R rows of `inputs`, the panel holds all pairs of k; both were checked by slicing.
        let sums = unsafe {
            let mut sums = [[V::splat(0.0); H]; R];
            for pair in 0..inputs / 2 {
                let (mut even, mut odd) = ([V::splat(0.0); H], [V::splat(0.0); H]);
                for h in 0..H {
                    (even[h], odd[h]) = E::pair::<V>(weights, half + h);
                }
                for r in 0..R {
                    let x = x.add(r * inputs + 2 * pair);
                    let (x0, x1) = (V::splat(*x), V::splat(*x.add(1)));
                    for h in 0..H {
                        sums[r][h] = odd[h].mul_add(x1, even[h].mul_add(x0, sums[r][h]));
                    }
                }
                weights = weights.add(E::PAIR_BYTES);
            }
            if inputs % 2 == 1 {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let last = V::splat(*x.add(r * inputs + inputs - 1));
                    for (h, sum) in sums.iter_mut().enumerate() {
                        *sum = E::pair::<V>(weights, half + h).0.mul_add(last, *sum);
                    }
                }
            }
            sums
        };
        for (r, sums) in sums.into_iter().enumerate() {
            for (h, sum) in sums.into_iter().enumerate() {
                // SAFETY: `store` checks the place; these outputs belong to this part only.
                unsafe { self.store(row + r, panel * PANEL + (half + h) * WIDTH, sum) };
            }
        }
    }

    #[inline(always)]
    unsafe fn store<V: Lanes>(&self, row: usize, output: usize, sum: V) {
        let outputs = self.weight.outputs();
        if output < outputs {
            let count = WIDTH.min(outputs - output);
            // SAFETY: `at` checks that the place exists.
            unsafe { sum.store_first(self.out.at(row * outputs + output, count), count) };
        }
    }
}
