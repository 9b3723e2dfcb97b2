//! The rows of a tile times one column of weights, in assembly.
//!
//! A tile of 6 rows x 16 outputs needs all sixteen registers. The compiler, when it is free to, reads the weights of many columns ahead and
//! puts sums on the stack instead. Here it still chooses the registers, but keeps the order; and since these blocks might write memory for
//! all it knows, it reads no weights across them.

use super::super::super::operand::BLOCK_UNITS;
use super::Avx2;
use std::arch::asm;
use std::arch::x86_64::__m256i;

/// Fewest rows that there is a block of assembly for; the compiler does fewer well.
pub(in super::super) const FEWEST: usize = 3;
/// Most rows of [`add_fused`].
pub(in super::super) const MOST_FUSED: usize = 6;
/// Most rows of [`add_bytes`].
pub(in super::super) const MOST_BYTES: usize = 4;

/// Bytes from the unit of a row to that of the next one.
const ROW_BYTES: usize = size_of::<u32>() * BLOCK_UNITS;

/// `sums += weights * x` of a row, which has the two sums named.
macro_rules! fused {
    ($row:literal $low:ident $high:ident) => {
        concat!(
            "vbroadcastss {x0}, dword ptr [{x} + {row_bytes} * ",
            $row,
            "]\n",
            "vfmadd231ps {",
            stringify!($low),
            "}, {x0}, {weights0}\n",
            "vfmadd231ps {",
            stringify!($high),
            "}, {x0}, {weights1}",
        )
    };
}

/// The same of bytes, in 16 bits: unsigned weights, signed x.
macro_rules! bytes {
    ($row:literal $low:ident $high:ident) => {
        concat!(
            "vpbroadcastd {x1}, dword ptr [{x} + {row_bytes} * ",
            $row,
            "]\n",
            "vpmaddubsw {x0}, {weights0}, {x1}\n",
            "vpmaddubsw {x1}, {weights1}, {x1}\n",
            "vpaddw {",
            stringify!($low),
            "}, {",
            stringify!($low),
            "}, {x0}\n",
            "vpaddw {",
            stringify!($high),
            "}, {",
            stringify!($high),
            "}, {x1}",
        )
    };
}

/// One block of assembly: `$line`s for the rows listed, with the scratch registers they name.
macro_rules! for_rows {
    ($line:ident($($scratch:ident)+), $sums:ident, $vector:ident, $weights:ident, $x:ident; $($row:literal $low:ident $high:ident),+) => {
        asm!(
            $($line!($row $low $high),)+
            $($low = inout(ymm_reg) $sums[$row][$vector].0, $high = inout(ymm_reg) $sums[$row][$vector].1,)+
            $($scratch = out(ymm_reg) _,)+
            weights0 = in(ymm_reg) $weights.0,
            weights1 = in(ymm_reg) $weights.1,
            x = in(reg) $x,
            row_bytes = const ROW_BYTES,
            options(nostack, preserves_flags),
        )
    };
}

/// Adds to vector `vector` of the sums of each row its product with `weights`, rounded once; the row's value is at `x`, the next row's a
/// block of units further on.
///
/// # Safety
/// AVX2 and FMA; so many values at `x`.
///
/// # Panics
/// For fewer than [`FEWEST`] or more than [`MOST_FUSED`] rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn add_fused<const VNNI: bool, const R: usize, const H: usize>(
    sums: &mut [[Avx2<VNNI>; H]; R],
    vector: usize,
    weights: Avx2<VNNI>,
    x: *const u32,
) {
    // SAFETY: reads of the caller's promise, and registers.
    unsafe {
        match R {
            3 => for_rows!(fused(x0), sums, vector, weights, x; 0 a b, 1 c d, 2 e f),
            4 => for_rows!(fused(x0), sums, vector, weights, x; 0 a b, 1 c d, 2 e f, 3 g h),
            5 => for_rows!(fused(x0), sums, vector, weights, x; 0 a b, 1 c d, 2 e f, 3 g h, 4 i j),
            6 => for_rows!(fused(x0), sums, vector, weights, x; 0 a b, 1 c d, 2 e f, 3 g h, 4 i j, 5 k l),
            other => unreachable!("tiles of {other} rows"),
        }
    }
}

/// Adds to vector `vector` of the sums of each row, in 16 bits, those of its pairs of bytes at `x` times unsigned ones of `weights`; the
/// next row's are a block of units further on. The sums of a pair must fit.
///
/// # Safety
/// AVX2; so many units at `x`.
///
/// # Panics
/// For fewer than [`FEWEST`] or more than [`MOST_BYTES`] rows.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn add_bytes<const R: usize, const H: usize>(
    sums: &mut [[(__m256i, __m256i); H]; R],
    vector: usize,
    weights: (__m256i, __m256i),
    x: *const u32,
) {
    // SAFETY: reads of the caller's promise, and registers.
    unsafe {
        match R {
            3 => for_rows!(bytes(x0 x1), sums, vector, weights, x; 0 a b, 1 c d, 2 e f),
            4 => for_rows!(bytes(x0 x1), sums, vector, weights, x; 0 a b, 1 c d, 2 e f, 3 g h),
            other => unreachable!("tiles of {other} rows"),
        }
    }
}
