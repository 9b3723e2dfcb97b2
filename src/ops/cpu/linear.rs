//! `y[rows, out] = x[rows, in] * w[out, in]^T` over panels, and what is done with y while it is in registers.
//!
//! Every output is one lane, and sees its k in ascending order (pairs of k with [`Lanes::dot_bf16`]): the same bits for any number of rows,
//! any tile, any split over threads, and any instruction set of the same arithmetic.
//!
//! Panels are the outer loop, so that weights are read once and in address order; the tiles of rows after the first find the panel in the
//! second-level cache. With many tiles, a group of panels stays there while all rows go through it, and who has done its share helps the others.

use super::block_product::{Blocks, Q4Product, Q8Product};
use super::claims::Claims;
use super::lanes::{ByteLanes, Kernel, Lanes, Part, WIDTH};
use super::math::silu;
use super::matrix::{PANEL, PanelMatrix};
use super::memory::SharedMut;
use super::operand::{Operand, OperandMut, UnitFormat};
use super::product::{Bf16DotProduct, Bf16Weights, F16Weights, F32Weights, Fused, Pairs};
use super::tile::{MOST_ROWS, Prefetch, Product, Sums, TileInput};
use crate::ops::{BlockFormat, DType, MatrixRows, WeightType};
use std::ops::Range;

/// Bytes of panels that many rows go through before the next panels are read: they stay in the second-level cache.
const GROUP_BYTES: usize = 256 << 10;

/// Row tiles from which on panels are grouped, and taken from other threads that are behind. With fewer a panel is so short that taking
/// one gains nothing, and costs where cores are shared.
const GROUP_FROM_TILES: usize = 32;

/// Rows of a tile up to which a whole panel is read at once also where [`Lanes::TILE_VECTORS`] is 1: a decode step is bound by memory, which
/// gives most when it is read in address order.
const NARROW_WHOLE_ROWS: usize = 2;

/// Tiles over which the prefetch of the next panel is spread.
const PREFETCH_TILES: usize = 4;

/// How far ahead a single tile prefetches.
const PREFETCH_AHEAD: usize = 16 << 10;

/// Rows from which on memory is prefetched by software. With fewer the arithmetic of a cache line is so short that the hardware's own
/// prefetcher keeps up, and more instructions cost up to a fifth.
fn prefetches_from(format: UnitFormat) -> usize {
    match format {
        UnitFormat::F32 | UnitFormat::Bytes(BlockFormat::Q4_0 | BlockFormat::Q4_1) => 4,
        UnitFormat::Bytes(BlockFormat::Q8_0) => 5,
        UnitFormat::Bf16Pair => 8,
    }
}

/// Where the sums go, `[rows, outputs]` without gaps.
pub(super) enum Output<'a> {
    /// `out = sums`.
    Store(SharedMut<'a, f32>),
    /// `out += sums`.
    Add(SharedMut<'a, f32>),
    /// `out = silu(gate) * up` of paired rows, as the next product reads it.
    SwiGlu(OperandMut<'a>),
    /// `out = silu(sums)`, as the next product reads it.
    Silu(OperandMut<'a>),
}

/// One product.
pub(super) struct Linear<'a> {
    weight: &'a PanelMatrix,
    x: &'a Operand,
    out: Output<'a>,
    /// All panels, shared out, where threads help each other.
    claims: Option<Claims>,
}

impl Kernel for Linear<'_> {
    #[inline(always)]
    unsafe fn run<V: ByteLanes>(&self, part: Part) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.weight.stored(), self.x.layout().format) {
                (WeightType::Scalar(DType::Bf16), UnitFormat::F32) => self.panels::<V, Pairs<Fused<Bf16Weights>>>(part),
                (WeightType::Scalar(DType::F16), UnitFormat::F32) => self.panels::<V, Pairs<Fused<F16Weights>>>(part),
                (WeightType::Scalar(DType::F32), UnitFormat::F32) => self.panels::<V, Pairs<Fused<F32Weights>>>(part),
                (WeightType::Scalar(DType::Bf16), UnitFormat::Bf16Pair) if V::NATIVE_DOT || cfg!(test) => {
                    self.panels::<V, Pairs<Bf16DotProduct>>(part);
                }
                (weights, format) => unreachable!("{weights} weights with activations as {format:?}"),
            }
        }
    }
}

/// A product with weights in blocks, which multiplies bytes.
pub(super) struct BlockLinear<'a>(pub(super) Linear<'a>);

impl Kernel for BlockLinear<'_> {
    const BYTES: bool = true;

    #[inline(always)]
    unsafe fn run<V: ByteLanes>(&self, part: Part) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.0.weight.stored(), self.0.x.layout().format) {
                (WeightType::Blocks(BlockFormat::Q8_0), UnitFormat::Bytes(BlockFormat::Q8_0)) => {
                    self.0.panels::<V, Blocks<Q8Product>>(part)
                }
                (WeightType::Blocks(BlockFormat::Q4_0), UnitFormat::Bytes(BlockFormat::Q4_0)) => {
                    self.0.panels::<V, Blocks<Q4Product<false>>>(part)
                }
                (WeightType::Blocks(BlockFormat::Q4_1), UnitFormat::Bytes(BlockFormat::Q4_1)) => {
                    self.0.panels::<V, Blocks<Q4Product<true>>>(part);
                }
                (weights, format) => unreachable!("{weights} weights with activations as {format:?}"),
            }
        }
    }
}

impl<'a> Linear<'a> {
    /// The product of `weight` and `x`, for `threads` threads.
    ///
    /// # Panics
    /// When their shapes and the output's do not fit each other.
    pub(super) fn new(weight: &'a PanelMatrix, x: &'a Operand, out: Output<'a>, threads: usize) -> Self {
        let claims = (x.layout().tiles() >= GROUP_FROM_TILES).then(|| Claims::new(threads, weight.panels()));
        let job = Self { weight, x, out, claims };
        job.check();
        job
    }

    #[inline(always)]
    unsafe fn panels<V: ByteLanes, P: Product>(&self, part: Part) {
        let (tiles, panel_bytes) = (self.x.layout().tiles(), self.weight.panel_bytes());
        let group = if self.claims.is_none() { 1 } else { (GROUP_BYTES / panel_bytes).clamp(1, 8) };
        let own = part.range(self.weight.panels());
        let mut left = own.clone();
        while let Some(panels) = self.take(part, &mut left, group) {
            for tile in 0..tiles {
                for panel in panels.clone() {
                    let next = own.contains(&panel) && panel + group < own.end;
                    // SAFETY: the caller's promise; every panel is taken once, so its outputs belong to this part only.
                    unsafe { self.tile::<V, P>(panel, tile, self.prefetch::<P>((panel, group, next), tile)) };
                }
            }
        }
    }

    /// The panels that come next: of the own share `left`, or of all that is left.
    #[inline(always)]
    fn take(&self, part: Part, left: &mut Range<usize>, group: usize) -> Option<Range<usize>> {
        match &self.claims {
            Some(claims) => claims.next(part, group),
            None => left.next().map(|panel| panel..panel + 1),
        }
    }

    /// What `tile` of a panel prefetches: its share of the panel a group further on, or, when it is the only one, what lies a bit ahead.
    #[inline(always)]
    fn prefetch<P: Product>(&self, (panel, group, next): (usize, usize, bool), tile: usize) -> Prefetch {
        let (layout, here) = (self.x.layout(), self.weight.panel(panel).as_ptr());
        let tiles = layout.tiles();
        let spread = tiles.min(PREFETCH_TILES);
        if !next || layout.rows < prefetches_from(layout.format) || tile >= spread {
            return Prefetch { from: here, bytes: 0 };
        }
        let bytes = (P::BLOCK_BYTES / spread).next_multiple_of(64);
        let blocks = self.weight.inputs().div_ceil(P::BLOCK_INPUTS);
        let ahead = if tiles == 1 { PREFETCH_AHEAD } else { group * self.weight.panel_bytes() + tile * blocks * bytes };
        Prefetch { from: here.wrapping_add(ahead), bytes }
    }

    /// One panel times one tile of rows, with the number of rows as a constant so that all accumulators are registers.
    #[inline(always)]
    unsafe fn tile<V: ByteLanes, P: Product>(&self, panel: usize, tile: usize, prefetch: Prefetch) {
        let rows = self.x.layout().tile(tile);
        let mut sums = [[0.0; PANEL]; MOST_ROWS];
        // SAFETY: the caller's promise; the guards keep tiles away that the instruction set has no registers for.
        unsafe {
            match rows.len() {
                1 => self.halves::<V, P, 1>(panel, tile, prefetch, &mut sums),
                2 => self.halves::<V, P, 2>(panel, tile, prefetch, &mut sums),
                3 if P::tile_rows::<V>() >= 3 => self.halves::<V, P, 3>(panel, tile, prefetch, &mut sums),
                4 if P::tile_rows::<V>() >= 4 => self.halves::<V, P, 4>(panel, tile, prefetch, &mut sums),
                5 if P::tile_rows::<V>() >= 5 => self.halves::<V, P, 5>(panel, tile, prefetch, &mut sums),
                6 if P::tile_rows::<V>() >= 6 => self.halves::<V, P, 6>(panel, tile, prefetch, &mut sums),
                7 if P::tile_rows::<V>() >= 7 => self.halves::<V, P, 7>(panel, tile, prefetch, &mut sums),
                8 if P::tile_rows::<V>() >= 8 => self.halves::<V, P, 8>(panel, tile, prefetch, &mut sums),
                other => unreachable!("a tile has at most {} rows, not {other}", P::tile_rows::<V>()),
            }
            for (row, sums) in rows.zip(&sums) {
                self.finish::<V>(panel, row, sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn halves<V: ByteLanes, P: Product, const R: usize>(&self, panel: usize, tile: usize, prefetch: Prefetch, sums: &mut Sums) {
        let (units, factors) = self.x.tile(tile);
        let input = TileInput { weights: self.weight.panel(panel).as_ptr(), units, factors, inputs: self.weight.inputs() };
        // SAFETY: the panel holds all inputs, the tile R rows of as many; `check` compared their widths.
        unsafe {
            if V::TILE_VECTORS == 2 || R <= NARROW_WHOLE_ROWS {
                P::tile::<V, R, 2>(input, 0, prefetch, sums);
            } else {
                P::tile::<V, R, 1>(input, 0, prefetch, sums);
                P::tile::<V, R, 1>(input, 1, Prefetch { bytes: 0, ..prefetch }, sums);
            }
        }
    }

    /// Takes the 32 sums of one row to where they go.
    #[inline(always)]
    unsafe fn finish<V: Lanes>(&self, panel: usize, row: usize, sums: &[f32; PANEL]) {
        let outputs = self.weight.outputs();
        // SAFETY: 32 sums; every place is checked, and its values belong to this part only.
        unsafe {
            let halves = [V::load(sums.as_ptr()), V::load(sums.as_ptr().add(WIDTH))];
            if let Output::SwiGlu(out) = &self.out {
                return out.put(out.layout().place(row), panel * WIDTH, silu(halves[0]).mul(halves[1]));
            }
            for (half, sum) in halves.into_iter().enumerate() {
                let at = panel * PANEL + half * WIDTH;
                if at >= outputs {
                    break;
                }
                let count = WIDTH.min(outputs - at);
                match &self.out {
                    Output::Store(out) => sum.store_first(out.at(row * outputs + at, count), count),
                    Output::Add(out) => {
                        let to = out.at(row * outputs + at, count);
                        V::load_first(to, count).add(sum).store_first(to, count);
                    }
                    Output::Silu(out) | Output::SwiGlu(out) => out.put(out.layout().place(row), at, silu(sum)),
                }
            }
        }
    }

    /// Whether weight, activations and output fit each other.
    fn check(&self) {
        let (weight, x) = (self.weight, self.x.layout());
        assert_eq!(x.width, weight.inputs(), "activations of another width than the weights");
        let (rows, width, paired) = match &self.out {
            Output::Store(out) | Output::Add(out) => {
                out.at(0, x.rows * weight.outputs());
                (x.rows, weight.outputs(), false)
            }
            Output::SwiGlu(out) => (out.layout().rows, 2 * out.layout().width, true),
            Output::Silu(out) => (out.layout().rows, out.layout().width, false),
        };
        assert_eq!((rows, width), (x.rows, weight.outputs()), "an output of another shape");
        assert_eq!(weight.rows() == MatrixRows::GateUp, paired, "paired rows are for SwiGLU, and only for it");
    }
}
