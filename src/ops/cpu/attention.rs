//! Causal attention straight from the pages, with an online softmax over tiles of 32 absolute positions.
//!
//! For one row and one query head: scores of a tile (a lane is a position, dimensions in ascending order), its maximum, exponentials, and
//! the weighted sum of values (a lane is a dimension, positions in ascending order); tiles from position 0 on. That order is the same in
//! prefill and decode, so results do not depend on the batch or the chunk. Scores of masked slots are replaced, whatever was computed
//! there, and their values are never read (0 × NaN). The query heads of a group go through a tile together and share its loads; each has
//! its own lanes, so the grouping changes no bit.
//!
//! Where keys and values have a scale by position, that of a key multiplies its score, and that of a value the value's weight.
//!
//! With `DOT` (bf16 pages only), queries and weights are rounded to bf16 and both products are [`Lanes::dot_bf16`] over pairs.

use super::lanes::{ByteLanes, Kernel, Lanes, Part, WIDTH, sum_tree};
use super::math::exp;
use super::memory::at;
use super::operand::OperandMut;
use super::pages::{KvElement, PagesView};
use crate::ops::{ATTENTION_TILE, AttentionShape, PackedBatch};
use std::mem::MaybeUninit;

/// Most query heads that share the loads of a tile at once.
const MAX_GROUP: usize = 4;

/// Widest head.
pub(in crate::ops) const MAX_HEAD_DIM: usize = 256;

/// Rows of a sequence from which on its keys and values are found in the second-level cache, brought there by the row before.
const PREFETCH_BELOW: usize = 8;

/// Vectors in a tile of positions.
const TILE_VECTORS: usize = ATTENTION_TILE / WIDTH;

/// `[rows, q | k | v] -> [rows, q]`; keys and values come from the pages, the current ones too.
pub(super) struct Attention<'a, T> {
    pub(super) qkv: &'a [f32],
    pub(super) shape: AttentionShape,
    pub(super) batch: &'a PackedBatch,
    pub(super) pages: PagesView<'a, T>,
    /// Products of bf16 pairs; for paired pages only.
    pub(super) dot: bool,
    pub(super) out: OperandMut<'a>,
}

/// The keys and values of a tile.
#[derive(Clone, Copy)]
struct Tile<T> {
    keys: *const T,
    values: *const T,
    /// Scales of the 32 keys and of the 32 values, where there are some.
    scales: Option<(*const f32, *const f32)>,
}

/// What one row's attention to one kv head is about.
#[derive(Clone, Copy)]
struct Queries {
    row: usize,
    kv_head: usize,
    /// The first query head.
    first: usize,
}

/// Running softmax of `G` query heads.
struct Running<V, const G: usize> {
    maximum: [f32; G],
    /// Sums of exponentials, by lane.
    weights: [V; G],
    /// Weighted sums of values, of which the first `head_dim` are set by the first tile.
    values: MaybeUninit<[[f32; MAX_HEAD_DIM]; G]>,
}

impl<V, const G: usize> Running<V, G> {
    #[inline(always)]
    fn values(&mut self, g: usize) -> *mut f32 {
        self.values.as_mut_ptr().cast::<f32>().wrapping_add(g * MAX_HEAD_DIM)
    }
}

impl<V: Lanes, const G: usize> Running<V, G> {
    /// Takes the maximum of a tile in: sums so far are scaled to it, or begin in the first tile. Returns the maximum of all tiles.
    ///
    /// # Safety
    /// `head_dim <= MAX_HEAD_DIM`; `is_first` for the first tile and no other; as the methods of [`Lanes`].
    #[inline(always)]
    unsafe fn raise(&mut self, g: usize, highest: f32, (is_first, head_dim): (bool, usize)) -> f32 {
        let largest = if highest > self.maximum[g] { highest } else { self.maximum[g] };
        // SAFETY: the caller's promise.
        unsafe {
            if is_first {
                for d in (0..head_dim).step_by(WIDTH) {
                    V::splat(0.0).store(self.values(g).add(d));
                }
            } else if largest != self.maximum[g] {
                let fade = exp(V::splat(self.maximum[g] - largest));
                self.weights[g] = self.weights[g].mul(fade);
                for d in (0..head_dim).step_by(WIDTH) {
                    let to = self.values(g).add(d);
                    V::load(to).mul(fade).store(to);
                }
            }
        }
        self.maximum[g] = largest;
        largest
    }
}

/// Weights of a tile: f32 a position, or bf16 pairs of positions.
type TileWeights<const G: usize> = [[f32; ATTENTION_TILE]; G];

impl<T: KvElement> Kernel for Attention<'_, T> {
    #[inline(always)]
    unsafe fn run<V: ByteLanes>(&self, part: Part) {
        // SAFETY: the caller's promise.
        unsafe {
            if T::PAIRED && self.dot && (V::NATIVE_DOT || cfg!(test)) {
                self.items::<V, true>(part);
            } else {
                self.items::<V, false>(part);
            }
        }
    }
}

impl<T: KvElement> Attention<'_, T> {
    #[inline(always)]
    unsafe fn items<V: Lanes, const DOT: bool>(&self, part: Part) {
        let (rows, group) = (self.batch.rows(), self.shape.group());
        // One head after the other, so that its keys and values stay in the second-level cache for all rows of a prefill; rows interleaved,
        // because a later one reads more positions.
        for item in (part.index..rows * self.shape.kv_heads).step_by(part.of) {
            let (kv_head, row) = (item / rows, item % rows);
            let (mut first, end) = (kv_head * group, (kv_head + 1) * group);
            while first < end {
                let queries = Queries { row, kv_head, first };
                // SAFETY: the caller's promise; a row and kv head belong to one part only.
                unsafe {
                    first += match end - first {
                        1 => self.attend::<V, 1, DOT>(queries),
                        2 | 3 => self.attend::<V, 2, DOT>(queries),
                        _ => self.attend::<V, MAX_GROUP, DOT>(queries),
                    }
                }
            }
        }
    }

    /// `G` query heads from `queries.first` on; returns `G`.
    #[inline(always)]
    unsafe fn attend<V: Lanes, const G: usize, const DOT: bool>(&self, queries: Queries) -> usize {
        let (head_dim, Queries { row, first, .. }) = (self.shape.head_dim, queries);
        let q = at(self.qkv, row * self.shape.qkv_width() + first * head_dim, G * head_dim);
        let length = self.batch.positions()[row] as usize + 1;
        // SAFETY: `q` holds G heads; `tile_at` checks the pages; the outputs belong to this part only.
        unsafe {
            let mut narrow = MaybeUninit::<[f32; MAX_GROUP * MAX_HEAD_DIM / 2]>::uninit();
            let q = if DOT { narrow_queries::<V>(q, G * head_dim, narrow.as_mut_ptr().cast()) } else { q };
            let mut running =
                Running::<V, G> { maximum: [f32::NEG_INFINITY; G], weights: [V::splat(0.0); G], values: MaybeUninit::uninit() };
            let (mut tile, ahead) = (self.tile_at(queries, 0), self.batch.rows_beside(row) < PREFETCH_BELOW);
            for start in (0..length).step_by(ATTENTION_TILE) {
                let following = start + ATTENTION_TILE;
                let following = if following < length { self.tile_at(queries, following) } else { tile };
                let next = if ahead { following } else { tile };
                self.add_tile::<V, G, DOT>(q, (tile, next), (start, ATTENTION_TILE.min(length - start)), &mut running);
                tile = following;
            }
            let place = self.out.layout().place(row);
            for g in 0..G {
                let total = V::splat(sum_tree(running.weights[g].to_array()));
                for d in (0..head_dim).step_by(WIDTH) {
                    self.out.put(place, (first + g) * head_dim + d, V::load(running.values(g).add(d)).div(total));
                }
            }
        }
        G
    }

    /// The tile of absolute positions `start..start + 32`.
    #[inline(always)]
    fn tile_at(&self, queries: Queries, start: usize) -> Tile<T> {
        let PagesView { values, scales, layout } = self.pages;
        let (position, count) = (start % layout.block_size, ATTENTION_TILE * self.shape.head_dim);
        let (block, head) = (self.batch.table_of_row(queries.row)[start / layout.block_size] as usize, queries.kv_head);
        let scale = |place| at(scales, place, ATTENTION_TILE);
        Tile {
            keys: at(values, layout.key_tile(block, head, position), count),
            values: at(values, layout.value_tile(block, head, position), count),
            scales: T::SCALED.then(|| (scale(layout.key_scale(block, head, position)), scale(layout.value_scale(block, head, position)))),
        }
    }

    /// Adds a tile from position `start` on, of which the first `valid` positions are visible, and prefetches the next one.
    #[inline(always)]
    unsafe fn add_tile<V: Lanes, const G: usize, const DOT: bool>(
        &self,
        q: *const f32,
        (tile, next): (Tile<T>, Tile<T>),
        (start, valid): (usize, usize),
        running: &mut Running<V, G>,
    ) {
        let head_dim = self.shape.head_dim;
        // SAFETY: the whole tile of keys, of values and of scales was checked; what is not visible is not used.
        unsafe {
            let mut scores = scores::<V, T, G, DOT>(q, (tile, next), head_dim);
            let mut p: TileWeights<G> = [[0.0; ATTENTION_TILE]; G];
            for g in 0..G {
                let highest = softmax::<V>(&mut scores[g], valid, self.scale());
                let largest = running.raise(g, highest, (start == 0, head_dim));
                for v in 0..TILE_VECTORS {
                    let visible = valid.saturating_sub(v * WIDTH);
                    let e = visible_only(exp(scores[g][v].sub(V::splat(largest))), visible);
                    running.weights[g] = running.weights[g].add(e);
                    let weights = match tile.scales {
                        Some((_, values)) => visible_only(e.mul(V::load(values.add(v * WIDTH))), visible),
                        None => e,
                    };
                    if DOT {
                        weights.store_bf16(p[g].as_mut_ptr().cast::<u16>().add(v * WIDTH));
                    } else {
                        weights.store(p[g].as_mut_ptr().add(v * WIDTH));
                    }
                }
            }
            let mut d = 0;
            while two_vectors_fit::<V, G>() && d + 2 * WIDTH <= head_dim {
                add_values::<V, T, G, 2, DOT>(&p, (tile.values, next.values), (valid, head_dim, d), running);
                d += 2 * WIDTH;
            }
            while d < head_dim {
                add_values::<V, T, G, 1, DOT>(&p, (tile.values, next.values), (valid, head_dim, d), running);
                d += WIDTH;
            }
        }
    }

    #[inline(always)]
    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }
}

/// Makes the weights of all but the first `visible` positions 0, whatever was computed there.
///
/// # Safety
/// As the methods of [`Lanes`].
#[inline(always)]
unsafe fn visible_only<V: Lanes>(weights: V, visible: usize) -> V {
    // SAFETY: the caller's promise.
    if visible < WIDTH { unsafe { weights.keep_first(visible, 0.0) } } else { weights }
}

/// Rounds `count` values to bf16 pairs.
///
/// # Safety
/// `count` values at `q` and half as many f32 at `to`; `count` is a multiple of 16; as the methods of [`Lanes`].
#[inline(always)]
unsafe fn narrow_queries<V: Lanes>(q: *const f32, count: usize, to: *mut f32) -> *const f32 {
    for i in (0..count).step_by(WIDTH) {
        // SAFETY: the caller's promise.
        unsafe { V::load(q.add(i)).store_bf16(to.cast::<u16>().add(i)) };
    }
    to
}

/// Scales the scores of a tile, hides all but the first `valid`, and returns the largest.
///
/// # Safety
/// As the methods of [`Lanes`].
#[inline(always)]
unsafe fn softmax<V: Lanes>(scores: &mut [V; TILE_VECTORS], valid: usize, scale: f32) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        for (v, score) in scores.iter_mut().enumerate() {
            *score = score.mul(V::splat(scale));
            if valid < ATTENTION_TILE {
                *score = score.keep_first(valid.saturating_sub(v * WIDTH), f32::NEG_INFINITY);
            }
        }
        scores[0].max(scores[1]).largest()
    }
}

/// Whether sums of `2 * G` vectors stay in registers: those of a tile do.
#[inline(always)]
fn two_vectors_fit<V: Lanes, const G: usize>() -> bool {
    2 * G <= MAX_GROUP * V::TILE_VECTORS
}

/// Products of `G` queries with the 32 keys of a tile, dimension by dimension, times the scales of the keys.
///
/// # Safety
/// `G * head_dim` values at `q` (with `DOT` as bf16), `head_dim * 32` keys and 32 scales; as the methods of [`Lanes`].
#[inline(always)]
unsafe fn scores<V: Lanes, T: KvElement, const G: usize, const DOT: bool>(
    q: *const f32,
    (tile, next): (Tile<T>, Tile<T>),
    head_dim: usize,
) -> [[V; TILE_VECTORS]; G] {
    let (keys, next_keys) = (tile.keys, next.keys);
    // SAFETY: the caller's promise.
    unsafe {
        let mut scores = [[V::splat(0.0); TILE_VECTORS]; G];
        if two_vectors_fit::<V, G>() {
            add_scores::<V, T, G, 2, DOT>(q, (keys, next_keys), (head_dim, 0), &mut scores);
        } else {
            add_scores::<V, T, G, 1, DOT>(q, (keys, next_keys), (head_dim, 0), &mut scores);
            add_scores::<V, T, G, 1, DOT>(q, (keys, next_keys), (head_dim, 1), &mut scores);
        }
        if let Some((keys, _)) = tile.scales {
            for (v, score) in scores.as_flattened_mut().iter_mut().enumerate() {
                *score = score.mul(V::load(keys.add(v % TILE_VECTORS * WIDTH)));
            }
        }
        if let Some((keys, values)) = next.scales {
            prefetch::<V, f32>(keys, 0, ATTENTION_TILE);
            prefetch::<V, f32>(values, 0, ATTENTION_TILE);
        }
        scores
    }
}

/// Those of `N` vectors of keys, from vector `first` on.
///
/// # Safety
/// As [`scores`].
#[inline(always)]
unsafe fn add_scores<V: Lanes, T: KvElement, const G: usize, const N: usize, const DOT: bool>(
    q: *const f32,
    (keys, next): (*const T, *const T),
    (head_dim, first): (usize, usize),
    scores: &mut [[V; TILE_VECTORS]; G],
) {
    // SAFETY: the caller's promise; prefetched addresses need not be readable.
    unsafe {
        for d in (0..head_dim).step_by(2) {
            prefetch::<V, T>(next, d * ATTENTION_TILE + 2 * first * WIDTH, 2 * N * WIDTH);
            for v in first..first + N {
                if DOT {
                    let key = V::load(keys.add(d * ATTENTION_TILE + 2 * v * WIDTH).cast());
                    for g in 0..G {
                        scores[g][v] = scores[g][v].dot_bf16(key, V::splat(*q.add((g * head_dim + d) / 2)));
                    }
                } else {
                    let (even, odd) = T::pair::<V>(keys, d, v * WIDTH, ATTENTION_TILE);
                    for g in 0..G {
                        let x = q.add(g * head_dim + d);
                        scores[g][v] = odd.mul_add(V::splat(*x.add(1)), even.mul_add(V::splat(*x), scores[g][v]));
                    }
                }
            }
        }
    }
}

/// Prefetches `count` elements from `offset` on.
///
/// # Safety
/// As the methods of [`Lanes`].
#[inline(always)]
unsafe fn prefetch<V: Lanes, T>(from: *const T, offset: usize, count: usize) {
    for byte in (0..count * size_of::<T>()).step_by(64) {
        // SAFETY: the caller's promise.
        unsafe { V::prefetch(from.wrapping_add(offset).cast::<u8>().wrapping_add(byte)) };
    }
}

/// Adds to `16 * D` dimensions from `d` on the values of the first `valid` positions, each times its weight.
///
/// # Safety
/// `32 * head_dim` values at `values`, of which unseen ones may be read but are not used; `running` has these dimensions; as the methods of
/// [`Lanes`].
#[inline(always)]
unsafe fn add_values<V: Lanes, T: KvElement, const G: usize, const D: usize, const DOT: bool>(
    p: &TileWeights<G>,
    (values, next): (*const T, *const T),
    (valid, head_dim, d): (usize, usize, usize),
    running: &mut Running<V, G>,
) {
    // SAFETY: the caller's promise; `head_dim <= MAX_HEAD_DIM`.
    unsafe {
        let mut sums = [[V::splat(0.0); D]; G];
        for g in 0..G {
            for i in 0..D {
                sums[g][i] = V::load(running.values(g).add(d + i * WIDTH));
            }
        }
        for position in (0..valid & !1).step_by(2) {
            prefetch::<V, T>(next, position * head_dim + 2 * d, 2 * D * WIDTH);
            for i in 0..D {
                let lane = d + i * WIDTH;
                if DOT {
                    let value = V::load(values.add(position * head_dim + 2 * lane).cast());
                    for g in 0..G {
                        sums[g][i] = sums[g][i].dot_bf16(value, V::splat(p[g][position / 2]));
                    }
                } else {
                    let (even, odd) = T::pair::<V>(values, position, lane, head_dim);
                    for g in 0..G {
                        let partial = even.mul_add(V::splat(p[g][position]), sums[g][i]);
                        sums[g][i] = odd.mul_add(V::splat(p[g][position + 1]), partial);
                    }
                }
            }
        }
        if valid % 2 == 1 {
            // The partner of the last position was perhaps never written: only the even one may be read.
            for i in 0..D {
                let lane = d + i * WIDTH;
                if DOT {
                    let value = V::load(values.add((valid - 1) * head_dim + 2 * lane).cast()).even_bf16();
                    for g in 0..G {
                        sums[g][i] = sums[g][i].dot_bf16(value, V::splat(p[g][valid / 2]));
                    }
                } else {
                    let (even, _) = T::pair::<V>(values, valid - 1, lane, head_dim);
                    for g in 0..G {
                        sums[g][i] = even.mul_add(V::splat(p[g][valid - 1]), sums[g][i]);
                    }
                }
            }
        }
        for g in 0..G {
            for i in 0..D {
                sums[g][i].store(running.values(g).add(d + i * WIDTH));
            }
        }
    }
}
