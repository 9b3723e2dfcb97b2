//! Causal attention straight from the pages, with an online softmax over tiles of 32 absolute positions.
//!
//! For one row and one query head: scores of a tile (a lane is a position, dimensions in ascending order), its maximum, exponentials, and
//! the weighted sum of values (a lane is a dimension, positions in ascending order); tiles from position 0 on. That order is the same in
//! prefill and decode, so results do not depend on the batch or the chunk. Scores of
//! masked slots are replaced, whatever was computed there, and their values are never read (0 × NaN). The query heads of
//! a group go through a tile together and share its loads; each has its own lanes, so the grouping changes no bit.

use super::lanes::{Kernel, Lanes, Part, WIDTH, max_tree, sum_tree};
use super::math::exp;
use super::memory::{SharedMut, at};
use super::pages::{KvElement, PageLayout};
use crate::ops::{ATTENTION_TILE, AttentionShape, PackedBatch};

/// Most query heads that share the loads of a tile at once.
const MAX_GROUP: usize = 4;

/// Widest head.
pub(in crate::ops) const MAX_HEAD_DIM: usize = 256;

/// Vectors in a tile of positions.
const TILE_VECTORS: usize = ATTENTION_TILE / WIDTH;

/// `[rows, q | k | v] -> [rows, q]`; keys and values come from the pages, the current ones too.
pub(super) struct Attention<'a, T> {
    pub(super) qkv: &'a [f32],
    pub(super) shape: AttentionShape,
    pub(super) batch: &'a PackedBatch,
    pub(super) pages: &'a [T],
    pub(super) layout: PageLayout,
    pub(super) out: SharedMut<'a, f32>,
}

/// Running softmax of `G` query heads.
struct Running<V, const G: usize> {
    maximum: [f32; G],
    /// Sums of exponentials, by lane.
    weights: [V; G],
    values: [[f32; MAX_HEAD_DIM]; G],
}

impl<T: KvElement> Kernel for Attention<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(&self, part: Part) {
        let heads = self.shape.kv_heads;
        // Interleaved, because a later row of a prefill reads more positions.
        for item in (part.index..self.batch.rows() * heads).step_by(part.of) {
            // SAFETY: the caller's promise; a row and kv head belong to one part only.
            unsafe { self.kv_head::<V>(item / heads, item % heads) };
        }
    }
}

impl<T: KvElement> Attention<'_, T> {
    #[inline(always)]
    unsafe fn kv_head<V: Lanes>(&self, row: usize, head: usize) {
        let group = self.shape.group();
        let (mut query, end) = (head * group, (head + 1) * group);
        while query < end {
            // SAFETY: the caller's promise.
            unsafe {
                match end - query {
                    1 => self.queries::<V, 1>(row, head, query),
                    2 | 3 => self.queries::<V, 2>(row, head, query),
                    _ => self.queries::<V, MAX_GROUP>(row, head, query),
                }
            }
            query += match end - query {
                1 => 1,
                2 | 3 => 2,
                _ => MAX_GROUP,
            };
        }
    }

    /// Query heads `query..query + G` of `row`, which read kv head `head`.
    #[inline(always)]
    unsafe fn queries<V: Lanes, const G: usize>(&self, row: usize, head: usize, query: usize) {
        let head_dim = self.shape.head_dim;
        let q = at(self.qkv, row * self.shape.qkv_width() + query * head_dim, G * head_dim);
        let (table, length) = (self.batch.table_of_row(row), self.batch.positions()[row] as usize + 1);
        // SAFETY: `q` holds G heads; `tile` checks the pages; the outputs belong to this part only.
        unsafe {
            let mut running =
                Running::<V, G> { maximum: [f32::NEG_INFINITY; G], weights: [V::splat(0.0); G], values: [[0.0; MAX_HEAD_DIM]; G] };
            for start in (0..length).step_by(ATTENTION_TILE) {
                let block = table[start / self.layout.block_size] as usize;
                let place = (block, head, start % self.layout.block_size);
                self.tile::<V, G>(q, place, ATTENTION_TILE.min(length - start), &mut running);
            }
            let out = self.out.at((row * self.shape.q_heads + query) * head_dim, G * head_dim);
            for g in 0..G {
                let total = V::splat(sum_tree(running.weights[g].to_array()));
                for d in (0..head_dim).step_by(WIDTH) {
                    V::load(running.values[g].as_ptr().add(d)).div(total).store(out.add(g * head_dim + d));
                }
            }
        }
    }

    /// Adds one tile, of which the first `valid` positions are visible.
    #[inline(always)]
    unsafe fn tile<V: Lanes, const G: usize>(
        &self,
        q: *const f32,
        place: (usize, usize, usize),
        valid: usize,
        running: &mut Running<V, G>,
    ) {
        let (block, head, position) = place;
        let head_dim = self.shape.head_dim;
        let keys = at(self.pages, self.layout.key_tile(block, head, position), ATTENTION_TILE * head_dim);
        let values = at(self.pages, self.layout.value(block, head, position), ATTENTION_TILE * head_dim);
        // SAFETY: the whole tile of keys and of values was checked; only visible values are read.
        unsafe {
            let mut scores = scores::<V, T, G>(q, keys, head_dim);
            let scale = V::splat(1.0 / (head_dim as f32).sqrt());
            let mut p = [[0.0f32; ATTENTION_TILE]; G];
            for g in 0..G {
                let mut largest = running.maximum[g];
                for v in 0..TILE_VECTORS {
                    let shown = valid.saturating_sub(v * WIDTH);
                    scores[g][v] = scores[g][v].mul(scale).keep_first(shown, f32::NEG_INFINITY);
                    let top = max_tree(scores[g][v].to_array());
                    largest = if top > largest { top } else { largest };
                }
                let fade = exp(V::splat(running.maximum[g] - largest));
                running.maximum[g] = largest;
                let mut sum = running.weights[g].mul(fade);
                for v in 0..TILE_VECTORS {
                    let shown = valid.saturating_sub(v * WIDTH);
                    let e = exp(scores[g][v].sub(V::splat(largest))).keep_first(shown, 0.0);
                    sum = sum.add(e);
                    e.store(p[g].as_mut_ptr().add(v * WIDTH));
                }
                running.weights[g] = sum;
                for d in (0..head_dim).step_by(WIDTH) {
                    let to = running.values[g].as_mut_ptr().add(d);
                    V::load(to).mul(fade).store(to);
                }
            }
            add_values::<V, T, G>(&p, values, (valid, head_dim), &mut running.values);
        }
    }
}

/// Products of `G` queries with 32 keys, dimension by dimension.
///
/// # Safety
/// `G * head_dim` values at `q`, `head_dim * 32` at `keys`; as the methods of [`Lanes`].
#[inline(always)]
unsafe fn scores<V: Lanes, T: KvElement, const G: usize>(q: *const f32, keys: *const T, head_dim: usize) -> [[V; TILE_VECTORS]; G] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut scores = [[V::splat(0.0); TILE_VECTORS]; G];
        for d in 0..head_dim {
            let mut key = [V::splat(0.0); TILE_VECTORS];
            for (v, key) in key.iter_mut().enumerate() {
                *key = T::load::<V>(keys.add(d * ATTENTION_TILE + v * WIDTH));
            }
            for (g, scores) in scores.iter_mut().enumerate() {
                let x = V::splat(*q.add(g * head_dim + d));
                for v in 0..TILE_VECTORS {
                    scores[v] = key[v].mul_add(x, scores[v]);
                }
            }
        }
        scores
    }
}

/// `out[g] += sum over the first valid positions of p[g][position] * values[position]`.
///
/// # Safety
/// `valid * head_dim` values at `values`; as the methods of [`Lanes`].
#[inline(always)]
unsafe fn add_values<V: Lanes, T: KvElement, const G: usize>(
    p: &[[f32; ATTENTION_TILE]; G],
    values: *const T,
    (valid, head_dim): (usize, usize),
    out: &mut [[f32; MAX_HEAD_DIM]; G],
) {
    for d in (0..head_dim).step_by(WIDTH) {
        // SAFETY: the caller's promise; `head_dim <= MAX_HEAD_DIM`.
        unsafe {
            let mut sums = [V::splat(0.0); G];
            for g in 0..G {
                sums[g] = V::load(out[g].as_ptr().add(d));
            }
            for position in 0..valid {
                let value = T::load::<V>(values.add(position * head_dim + d));
                for g in 0..G {
                    sums[g] = value.mul_add(V::splat(p[g][position]), sums[g]);
                }
            }
            for g in 0..G {
                sums[g].store(out[g].as_mut_ptr().add(d));
            }
        }
    }
}
