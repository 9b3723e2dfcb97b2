//! Activations as the matrix kernel reads them: prepared once by whatever computes them, in tiles of rows.
//!
//! A *unit* is 4 bytes of one row: one f32, two neighbouring bf16, or four neighbouring bytes. A *block* is 8 units, and the rows of a tile
//! lie together: `[tile][block][rows of the tile][8 units]`, so that a tile is read from start to end. Tiles are balanced (17 rows in tiles
//! of at most 8 are 5, 6 and 6), contiguous (no stride that falls into few sets of the first-level cache) and padded with zeros to 16 values
//! a row.
//!
//! Bytes have factors beside them, one for each row and block. A block has 32 values then, and whoever computes activations gives 16 at a
//! time: they are staged as f32, and `quantize` turns rows into bytes when all are there.

use super::lanes::{Lanes, Part, WIDTH};
use super::memory::{Aligned, Plain, SharedMut, at};
use crate::ops::{BLOCK_VALUES, BlockFormat, OpError};

/// Units in a block.
pub(super) const BLOCK_UNITS: usize = 8;

/// What a unit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnitFormat {
    /// One f32.
    F32,
    /// Two bf16, the even one in the low half.
    Bf16Pair,
    /// Four i8 of a block of 32 with one scale, for weights in such blocks.
    Bytes(BlockFormat),
}

impl UnitFormat {
    /// Blocks of a row of `width` values, whole vectors of 16.
    fn blocks(self, width: usize) -> usize {
        let vectors = width.div_ceil(WIDTH);
        match self {
            Self::F32 => 2 * vectors,
            Self::Bf16Pair => vectors,
            Self::Bytes(_) => width / BLOCK_VALUES,
        }
    }

    fn is_bytes(self) -> bool {
        matches!(self, Self::Bytes(_))
    }
}

/// What goes with 32 activations in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(super) struct Factor {
    /// What the bytes are multiplied with.
    pub(super) scale: f32,
    /// What [`super::block_product`] adds for the block: an i32 or an f32, by the format of the weights.
    pub(super) extra: u32,
}

impl Plain for Factor {}

/// Most rows of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TileRows {
    /// Of f32 and of pairs of bf16.
    pub(super) numbers: usize,
    pub(super) bytes: usize,
}

/// How the rows of one use lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OperandLayout {
    pub(super) format: UnitFormat,
    pub(super) rows: usize,
    /// Values in a row.
    pub(super) width: usize,
    tile_rows: TileRows,
}

/// Where a row lies: the unit it starts at, and the units from one of its blocks to the next.
#[derive(Clone, Copy)]
pub(super) struct RowPlace {
    row: usize,
    start: usize,
    stride: usize,
}

impl RowPlace {
    /// The unit at which `block` starts.
    #[inline(always)]
    pub(super) fn block(self, block: usize) -> usize {
        self.start + block * self.stride
    }
}

impl OperandLayout {
    /// Number of tiles.
    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(if self.format.is_bytes() { self.tile_rows.bytes } else { self.tile_rows.numbers })
    }

    /// Rows of tile `index`.
    pub(super) fn tile(&self, index: usize) -> std::ops::Range<usize> {
        Part { index, of: self.tiles() }.range(self.rows)
    }

    pub(super) fn blocks(&self) -> usize {
        self.format.blocks(self.width)
    }

    fn units(&self) -> usize {
        self.rows * self.blocks() * BLOCK_UNITS
    }

    /// Where `row` lies.
    pub(super) fn place(&self, row: usize) -> RowPlace {
        let guess = row * self.tiles() / self.rows;
        // Rounding may put the guess one tile too low.
        let tile = if self.tile(guess).end > row { self.tile(guess) } else { self.tile(guess + 1) };
        let start = (tile.start * self.blocks() + row - tile.start) * BLOCK_UNITS;
        RowPlace { row, start, stride: tile.len() * BLOCK_UNITS }
    }
}

/// Prepared activations; which rows, how wide and in what format is said by the last use that wrote them.
pub struct Operand {
    layout: OperandLayout,
    units: Aligned<u32>,
    /// One for each row and block of bytes, in the order of the blocks.
    factors: Aligned<Factor>,
    /// Rows that become bytes, one after the other.
    staged: Aligned<f32>,
}

impl Operand {
    /// Room for `rows` rows of at most `width` values in any of `formats`.
    ///
    /// # Errors
    /// [`OpError::Allocation`] when memory is refused.
    pub(super) fn new(formats: &[UnitFormat], tile_rows: TileRows, rows: usize, width: usize) -> Result<Self, OpError> {
        let blocks = formats.iter().map(|format| format.blocks(width)).max().unwrap_or(0);
        let of_bytes = if formats.iter().any(|format| format.is_bytes()) { rows } else { 0 };
        let layout = OperandLayout { format: formats.first().copied().unwrap_or(UnitFormat::F32), rows: 0, width, tile_rows };
        Ok(Self {
            layout,
            units: Aligned::zeroed(rows.saturating_mul(blocks * BLOCK_UNITS), "activations")?,
            factors: Aligned::zeroed(of_bytes.saturating_mul(width / BLOCK_VALUES), "activations")?,
            staged: Aligned::zeroed(of_bytes.saturating_mul(width), "activations")?,
        })
    }

    /// How the rows lie that were written last.
    pub(super) fn layout(&self) -> OperandLayout {
        self.layout
    }

    /// To write `rows` rows of `width` values, which replace what was there.
    pub(super) fn start(&mut self, format: UnitFormat, rows: usize, width: usize) -> OperandMut<'_> {
        self.layout = OperandLayout { format, rows, width, ..self.layout };
        let (units, factors, staged) = (self.units.shared(), self.factors.shared(), self.staged.shared());
        units.at(0, self.layout.units());
        OperandMut { layout: self.layout, units, factors, staged }
    }

    /// The units and, of bytes, the factors of tile `index`.
    #[inline(always)]
    pub(super) fn tile(&self, index: usize) -> (*const u32, *const Factor) {
        let (rows, blocks) = (self.layout.tile(index), self.layout.blocks());
        let (first, count) = (rows.start * blocks, rows.len() * blocks);
        let factors = if self.layout.format.is_bytes() { at(self.factors.as_slice(), first, count) } else { std::ptr::null() };
        (at(self.units.as_slice(), first * BLOCK_UNITS, count * BLOCK_UNITS), factors)
    }

    /// Copies the given rows, in their order, to `to`, which has room for them.
    pub(super) fn gather(&self, rows: &[u32], to: &mut Self) {
        let layout = self.layout;
        let to = to.start(layout.format, rows.len(), layout.width);
        for (row, &from) in rows.iter().enumerate() {
            let (from, place) = (layout.place(from as usize), to.layout.place(row));
            for block in 0..layout.blocks() {
                let source = &self.units.as_slice()[from.block(block)..][..BLOCK_UNITS];
                // SAFETY: `to` is borrowed mutably and nothing else of it is in use.
                unsafe { to.units.slice(place.block(block), BLOCK_UNITS) }.copy_from_slice(source);
                if layout.format.is_bytes() {
                    // SAFETY: as above.
                    unsafe { to.set_factor(place, block, self.factors.as_slice()[from.block(block) / BLOCK_UNITS]) };
                }
            }
        }
    }

    /// The values of `row`.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = f32> {
        let place = self.layout.place(row);
        (0..self.layout.width).map(move |k| self.value(place, k))
    }

    fn value(&self, place: RowPlace, k: usize) -> f32 {
        let block = |values: usize| &self.units.as_slice()[place.block(k / values)..][..BLOCK_UNITS];
        match self.layout.format {
            UnitFormat::F32 => f32::from_bits(block(8)[k % 8]),
            UnitFormat::Bf16Pair => f32::from_bits(block(16)[k % 16 / 2] >> (16 * (k % 2)) << 16),
            UnitFormat::Bytes(_) => {
                let factor = self.factors.as_slice()[place.block(k / BLOCK_VALUES) / BLOCK_UNITS];
                f32::from(block(BLOCK_VALUES)[k % BLOCK_VALUES / 4].to_le_bytes()[k % 4] as i8) * factor.scale
            }
        }
    }
}

/// An operand being written, by several threads at once, each its own values.
#[derive(Clone, Copy)]
pub(super) struct OperandMut<'a> {
    layout: OperandLayout,
    units: SharedMut<'a, u32>,
    factors: SharedMut<'a, Factor>,
    staged: SharedMut<'a, f32>,
}

impl OperandMut<'_> {
    pub(super) fn layout(&self) -> OperandLayout {
        self.layout
    }

    /// Where the values of the row at `place` are staged.
    #[inline(always)]
    pub(super) fn staged(&self, place: RowPlace) -> *const f32 {
        self.staged.at(place.row * self.layout.width, self.layout.width)
    }

    /// Where the bytes of `block` of the row at `place` lie.
    #[inline(always)]
    pub(super) fn bytes(&self, place: RowPlace, block: usize) -> *mut u8 {
        self.units.at(place.block(block), BLOCK_UNITS).cast()
    }

    /// Sets what goes with `block` of the row at `place`.
    ///
    /// # Safety
    /// The row belongs to the caller's part only.
    #[inline(always)]
    pub(super) unsafe fn set_factor(&self, place: RowPlace, block: usize, factor: Factor) {
        // SAFETY: `at` checks the place; the rest is the caller's promise.
        unsafe { *self.factors.at(place.block(block) / BLOCK_UNITS, 1) = factor }
    }

    /// Prefetches the blocks of the row at `place`.
    ///
    /// # Safety
    /// As the methods of [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn prefetch<V: Lanes>(&self, place: RowPlace) {
        for block in 0..self.layout.blocks() {
            // SAFETY: the caller's promise.
            unsafe { V::prefetch(self.units.at(place.block(block), BLOCK_UNITS).cast()) };
        }
    }

    /// Writes values `k..k + 16` of the row at `place`, rounded to the format; `k` is a multiple of 16, and lanes beyond the width become 0.
    ///
    /// # Safety
    /// As the methods of [`Lanes`]; the values belong to the caller's part only.
    #[inline(always)]
    pub(super) unsafe fn put<V: Lanes>(&self, place: RowPlace, k: usize, values: V) {
        debug_assert!(k.is_multiple_of(WIDTH) && k < self.layout.width);
        // SAFETY: `at` checks both places; the rest is the caller's promise.
        unsafe {
            let rest = self.layout.width - k;
            let values = if rest < WIDTH { values.keep_first(rest, 0.0) } else { values };
            match self.layout.format {
                UnitFormat::Bytes(_) => {
                    let count = rest.min(WIDTH);
                    values.store_first(self.staged.at(place.row * self.layout.width + k, count), count);
                }
                UnitFormat::F32 => {
                    let block = k / BLOCK_UNITS;
                    let (low, high) = (self.units.at(place.block(block), BLOCK_UNITS), self.units.at(place.block(block + 1), BLOCK_UNITS));
                    values.store_halves(low.cast(), high.cast());
                }
                UnitFormat::Bf16Pair => values.store_bf16(self.units.at(place.block(k / WIDTH), BLOCK_UNITS).cast()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Scalar;
    use super::*;

    const ROWS: TileRows = TileRows { numbers: 8, bytes: 4 };

    fn filled(format: UnitFormat, rows: usize, width: usize) -> Operand {
        let mut operand = Operand::new(&[format], ROWS, rows, width).unwrap();
        let to = operand.start(format, rows, width);
        for row in 0..rows {
            for k in (0..width).step_by(WIDTH) {
                let values: [f32; WIDTH] = std::array::from_fn(|i| (row % 8 * 16 + (k + i) % 16) as f32);
                // SAFETY: the scalar lanes need nothing; this is the only writer.
                unsafe { to.put(to.layout().place(row), k, Scalar::load(values.as_ptr())) };
            }
        }
        operand
    }

    #[test]
    fn every_value_is_found_where_it_was_put() {
        for format in [UnitFormat::F32, UnitFormat::Bf16Pair] {
            for (rows, width) in [(1, 1), (1, 16), (2, 17), (5, 40), (8, 96), (9, 33), (17, 64)] {
                let operand = filled(format, rows, width);
                for row in 0..rows {
                    let expected = (0..width).map(|k| (row % 8 * 16 + k % 16) as f32);
                    assert!(operand.row(row).eq(expected), "{format:?} {rows}x{width} at {row}");
                }
            }
        }
    }

    #[test]
    fn tiles_are_balanced_and_cover_all_rows() {
        for rows in 1..70 {
            let layout = OperandLayout { format: UnitFormat::F32, rows, width: 16, tile_rows: ROWS };
            let lengths: Vec<usize> = (0..layout.tiles()).map(|i| layout.tile(i).len()).collect();
            assert_eq!(lengths.iter().sum::<usize>(), rows);
            assert!(lengths.iter().all(|&n| n <= 8 && n + 1 >= rows / layout.tiles()), "{rows}: {lengths:?}");
        }
    }

    #[test]
    fn gathered_rows_keep_their_values() {
        for format in [UnitFormat::F32, UnitFormat::Bf16Pair] {
            let mut gathered = Operand::new(&[format], ROWS, 5, 40).unwrap();
            filled(format, 20, 40).gather(&[19, 0, 7], &mut gathered);
            for (row, from) in [(0, 19), (1, 0), (2, 7)] {
                assert!(gathered.row(row).eq((0..40).map(|k| (from % 8 * 16 + k % 16) as f32)));
            }
        }
    }
}
