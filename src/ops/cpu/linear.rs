//! `y[rows, out] = x[rows, in] * w[out, in]^T` over panels, and what is done with y while it is in registers.
//!
//! Every output is one lane, and sees its k in ascending order (pairs of k with [`Lanes::dot_bf16`]): the same bits for any number of rows,
//! any tile, any split over threads, and any instruction set of the same arithmetic.
//!
//! Panels are the outer loop, so that weights are read once and in address order; the tiles of rows after the first find the panel in the
//! second-level cache. With many tiles, a group of panels stays there while all rows go through it, and who has done its share helps the others.

use super::claims::Claims;
use super::lanes::{Kernel, Lanes, Part, WIDTH};
use super::math::silu;
use super::matrix::{PANEL, PanelMatrix};
use super::memory::SharedMut;
use super::operand::{BLOCK_UNITS, Operand, OperandMut, UnitFormat};
use super::product::{Bf16DotProduct, Bf16Product, F16Product, F32Product, Product};
use crate::ops::{DType, MatrixRows};
use std::ops::Range;

/// Bytes of panels that many rows go through before the next panels are read: they stay in the second-level cache.
const GROUP_BYTES: usize = 256 << 10;

/// Row tiles from which on panels are grouped, and taken from other threads that are behind. With fewer a panel is so short that taking
/// one gains nothing, and costs where cores are shared.
const GROUP_FROM_TILES: usize = 32;

/// Rows of a tile up to which a whole panel is read at once also where [`Lanes::TILE_VECTORS`] is 1: a decode step is bound by memory, which
/// gives most when it is read in address order.
const NARROW_WHOLE_ROWS: usize = 2;

/// Most rows of a tile, over all instruction sets.
const MOST_ROWS: usize = 8;

/// Tiles over which the prefetch of the next panel is spread.
const PREFETCH_TILES: usize = 4;

/// How far ahead a single tile prefetches.
const PREFETCH_AHEAD: usize = 16 << 10;

/// Rows from which on memory is prefetched by software. With fewer the arithmetic of a cache line is so short that the hardware's own
/// prefetcher keeps up, and more instructions cost up to a fifth.
fn prefetches_from(format: UnitFormat) -> usize {
    match format {
        UnitFormat::F32 => 4,
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

/// What a tile asks for while it computes.
#[derive(Clone, Copy)]
struct Prefetch {
    from: *const u8,
    /// Bytes for each block of activations.
    bytes: usize,
}

/// The sums of a tile, `[rows][32 outputs]`.
type Sums = [[f32; PANEL]; MOST_ROWS];

impl Kernel for Linear<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(&self, part: Part) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.weight.dtype(), self.x.layout().format) {
                (DType::Bf16, UnitFormat::F32) => self.panels::<V, Bf16Product>(part),
                (DType::F16, UnitFormat::F32) => self.panels::<V, F16Product>(part),
                (DType::F32, UnitFormat::F32) => self.panels::<V, F32Product>(part),
                (DType::Bf16, UnitFormat::Bf16Pair) if V::NATIVE_DOT || cfg!(test) => self.panels::<V, Bf16DotProduct>(part),
                (dtype, format) => unreachable!("{dtype} weights with activations as {format:?}"),
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
    unsafe fn panels<V: Lanes, P: Product>(&self, part: Part) {
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
        let bytes = (P::BLOCK_PAIRS * P::PAIR_BYTES / spread).next_multiple_of(64);
        let blocks = self.weight.inputs().div_ceil(2 * P::BLOCK_PAIRS);
        let ahead = if tiles == 1 { PREFETCH_AHEAD } else { group * self.weight.panel_bytes() + tile * blocks * bytes };
        Prefetch { from: here.wrapping_add(ahead), bytes }
    }

    /// One panel times one tile of rows, with the number of rows as a constant so that all accumulators are registers.
    #[inline(always)]
    unsafe fn tile<V: Lanes, P: Product>(&self, panel: usize, tile: usize, prefetch: Prefetch) {
        let rows = self.x.layout().tile(tile);
        let mut sums = [[0.0; PANEL]; MOST_ROWS];
        // SAFETY: the caller's promise; the guards keep tiles away that the instruction set has no registers for.
        unsafe {
            match rows.len() {
                1 => self.halves::<V, P, 1>(panel, tile, prefetch, &mut sums),
                2 => self.halves::<V, P, 2>(panel, tile, prefetch, &mut sums),
                3 if V::TILE_ROWS >= 3 => self.halves::<V, P, 3>(panel, tile, prefetch, &mut sums),
                4 if V::TILE_ROWS >= 4 => self.halves::<V, P, 4>(panel, tile, prefetch, &mut sums),
                5 if V::TILE_ROWS >= 5 => self.halves::<V, P, 5>(panel, tile, prefetch, &mut sums),
                6 if V::TILE_ROWS >= 6 => self.halves::<V, P, 6>(panel, tile, prefetch, &mut sums),
                7 if V::TILE_ROWS >= 7 => self.halves::<V, P, 7>(panel, tile, prefetch, &mut sums),
                8 if V::TILE_ROWS >= 8 => self.halves::<V, P, 8>(panel, tile, prefetch, &mut sums),
                other => unreachable!("a tile has at most {} rows, not {other}", V::TILE_ROWS),
            }
            for (row, sums) in rows.zip(&sums) {
                self.finish::<V>(panel, row, sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn halves<V: Lanes, P: Product, const R: usize>(&self, panel: usize, tile: usize, prefetch: Prefetch, sums: &mut Sums) {
        let (weights, x) = (self.weight.panel(panel).as_ptr(), self.x.tile_units(tile));
        let pairs = self.weight.inputs().div_ceil(2);
        // SAFETY: the panel holds all pairs of k, the tile R rows of as many; `check` compared their widths.
        unsafe {
            if V::TILE_VECTORS == 2 || R <= NARROW_WHOLE_ROWS {
                products::<V, P, R, 2>((weights, 0), x, pairs, prefetch, sums);
            } else {
                products::<V, P, R, 1>((weights, 0), x, pairs, prefetch, sums);
                products::<V, P, R, 1>((weights, 1), x, pairs, Prefetch { bytes: 0, ..prefetch }, sums);
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

/// `R` rows times `16 * H` outputs of a panel, from half `half` on.
///
/// # Safety
/// The panel has `pairs` pairs of k; `x` is a tile of `R` rows with as many; as the methods of [`Lanes`].
#[inline(always)]
unsafe fn products<V: Lanes, P: Product, const R: usize, const H: usize>(
    (weights, half): (*const u8, usize),
    x: *const u32,
    pairs: usize,
    prefetch: Prefetch,
    out: &mut Sums,
) {
    // SAFETY: the caller's promise; prefetched addresses need not be readable.
    unsafe {
        let (mut weights, mut x, mut ahead) = (weights, x, prefetch.from);
        let mut sums = [[V::splat(0.0); H]; R];
        for _ in 0..pairs / P::BLOCK_PAIRS {
            for line in (0..prefetch.bytes).step_by(64) {
                V::prefetch(ahead.wrapping_add(line));
            }
            ahead = ahead.wrapping_add(prefetch.bytes);
            for pair in 0..P::BLOCK_PAIRS {
                add_pair::<V, P, R, H>((weights.add(pair * P::PAIR_BYTES), half), x.add(pair * P::PAIR_UNITS), &mut sums);
            }
            weights = weights.add(P::BLOCK_PAIRS * P::PAIR_BYTES);
            x = x.add(R * BLOCK_UNITS);
        }
        for pair in 0..pairs % P::BLOCK_PAIRS {
            add_pair::<V, P, R, H>((weights.add(pair * P::PAIR_BYTES), half), x.add(pair * P::PAIR_UNITS), &mut sums);
        }
        for r in 0..R {
            for h in 0..H {
                sums[r][h].store(out[r].as_mut_ptr().add((half + h) * WIDTH));
            }
        }
    }
}

/// Adds two k.
///
/// # Safety
/// As [`products`], for one pair.
#[inline(always)]
unsafe fn add_pair<V: Lanes, P: Product, const R: usize, const H: usize>(
    (weights, half): (*const u8, usize),
    x: *const u32,
    sums: &mut [[V; H]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if V::TILE_VECTORS < H {
            // Sixteen registers hold the weights of one half beside the sums, not those of both.
            for h in 0..H {
                let pair = P::load::<V>(weights, half + h);
                for r in 0..R {
                    sums[r][h] = P::add(sums[r][h], pair, x.add(r * BLOCK_UNITS));
                }
            }
            return;
        }
        let mut pair = [P::load::<V>(weights, half); H];
        for h in 1..H {
            pair[h] = P::load::<V>(weights, half + h);
        }
        for r in 0..R {
            let x = x.add(r * BLOCK_UNITS);
            for h in 0..H {
                sums[r][h] = P::add(sums[r][h], pair[h], x);
            }
        }
    }
}
