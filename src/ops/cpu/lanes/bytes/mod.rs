//! Products of bytes: eight- and four-bit weights times activations of eight bits, summed exactly.
//!
//! A lane adds the products of 4 k at a time (a *unit*): with `vpdpbusd` or `sdot` in one instruction, with `smmla` for two
//! rows and units in two, elsewhere in several. Weights are
//! stored without a sign, as `q + 128` or `q + 8`; activations are signed and never -128. Instructions that want unsigned weights start their sums
//! at minus the offset times the sum of the activations, which whoever prepares activations knows; the others take the offset off the
//! weights. Both give the same integers, and at most 32 * 128 * 127 < 2^24 of them, so that f32 holds each exactly.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "aarch64")]
mod smmla;

use super::Lanes;

/// Sixteen sums of products of bytes.
///
/// # Safety
/// All methods require the instruction set of the type; pointers must be valid for what the method says, of any alignment.
pub(in super::super) trait ByteLanes: Lanes {
    /// Rows of a tile of the matrix kernel that keep their sums of bytes in registers.
    const BYTE_TILE_ROWS: usize = Self::TILE_ROWS;
    /// Rows of a tile from which on four-bit weights are summed by [`Self::add_nibble_column`].
    const NIBBLE_COLUMN_FROM_ROWS: usize = usize::MAX;
    /// Rows of a tile from which on blocks are summed by [`Self::byte_block`] and [`Self::nibble_block`].
    const BLOCK_FROM_ROWS: usize = usize::MAX;

    /// 4 weights of 8 bits in each of 16 lanes.
    type Bytes: Copy;
    /// Sums of their products.
    type ByteSums: Copy;
    /// 4 weights of 4 bits in each of 16 lanes.
    type Nibbles: Copy;
    /// Sums of their products, of at most 8 units.
    type NibbleSums: Copy;

    /// Sums before the first product. `correction` is -128 times the sum of the activations that will be added.
    unsafe fn byte_sums(correction: i32) -> Self::ByteSums;
    /// Reads 64 weights `q + 128`, lane after lane.
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes;
    /// Adds to each lane the products of its 4 weights with the 4 activations at `x`.
    unsafe fn add_bytes(sums: Self::ByteSums, weights: Self::Bytes, x: *const u32) -> Self::ByteSums;
    /// Sums of a block of 32 weights in each of 16 lanes times the activations of each row. A unit of weights is `stride` bytes after the one
    /// before; the activations of the first row are at `x`, those of the next one a block of units further on.
    ///
    /// # Panics
    /// Where [`Self::BLOCK_FROM_ROWS`] rules it out.
    #[inline(always)]
    unsafe fn byte_block<const R: usize>(_weights: *const u8, _stride: usize, _x: *const u32) -> [Self::ByteSums; R] {
        unreachable!("blocks are summed by unit")
    }
    /// The sums, exactly.
    unsafe fn from_byte_sums(sums: Self::ByteSums) -> Self;

    /// Sums before the first product. `correction` is what will be added to them: -8 times the sum of the activations, or 0.
    unsafe fn nibble_sums(correction: i32) -> Self::NibbleSums;
    /// Reads 64 bytes, lane after lane: the weights in their low halves and those in their high ones, from 0 to 15.
    unsafe fn load_nibbles(from: *const u8) -> (Self::Nibbles, Self::Nibbles);
    /// Adds to each lane the products of its 4 weights with the 4 activations at `x`.
    unsafe fn add_nibbles(sums: Self::NibbleSums, weights: Self::Nibbles, x: *const u32) -> Self::NibbleSums;
    /// Adds to vector `vector` of the sums of each row the products of `weights` with 4 activations. Those of the first row are at `x`, those
    /// of the next one a block of units further on.
    ///
    /// # Panics
    /// Where [`Self::NIBBLE_COLUMN_FROM_ROWS`] rules it out.
    #[inline(always)]
    unsafe fn add_nibble_column<const R: usize, const H: usize>(
        _sums: &mut [[Self::NibbleSums; H]; R],
        _vector: usize,
        _weights: Self::Nibbles,
        _x: *const u32,
    ) {
        unreachable!("tiles are summed by row")
    }
    /// As [`Self::byte_block`], of four-bit weights: two units in each `stride`. `correction` of each row is as in [`Self::nibble_sums`].
    ///
    /// # Panics
    /// Where [`Self::BLOCK_FROM_ROWS`] rules it out.
    #[inline(always)]
    unsafe fn nibble_block<const R: usize>(
        _weights: *const u8,
        _stride: usize,
        _x: *const u32,
        _correction: impl Fn(usize) -> i32,
    ) -> [Self::NibbleSums; R] {
        unreachable!("blocks are summed by unit")
    }
    /// The sums and `correction`, exactly.
    unsafe fn from_nibble_sums(sums: Self::NibbleSums, correction: i32) -> Self;

    /// Writes 16 integers of -127 to 127 as bytes. What becomes of other values is open.
    unsafe fn store_i8(self, to: *mut u8);
}
