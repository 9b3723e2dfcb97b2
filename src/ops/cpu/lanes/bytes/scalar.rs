//! Products of bytes in plain Rust: their definition.

use super::super::{Lanes, Scalar, WIDTH};
use super::ByteLanes;

/// Four bytes a lane.
type Units = [[i32; 4]; WIDTH];

/// Adds the products of 16 lanes of 4 weights with 4 activations.
///
/// # Safety
/// Four bytes at `x`.
#[inline(always)]
unsafe fn add(mut sums: [i32; WIDTH], weights: Units, x: *const u32) -> [i32; WIDTH] {
    // SAFETY: the caller's promise.
    let x = unsafe { x.read_unaligned() }.to_le_bytes();
    for (sum, weights) in sums.iter_mut().zip(weights) {
        for (weight, x) in weights.into_iter().zip(x) {
            *sum += weight * i32::from(x as i8);
        }
    }
    sums
}

/// Reads 16 lanes of 4 bytes.
///
/// # Safety
/// 64 bytes at `from`.
#[inline(always)]
unsafe fn load(from: *const u8, value: impl Fn(u8) -> i32) -> Units {
    // SAFETY: the caller's promise.
    std::array::from_fn(|lane| std::array::from_fn(|k| value(unsafe { *from.add(4 * lane + k) })))
}

/// # Safety
/// None: integers of less than 24 bits.
#[inline(always)]
unsafe fn widen(sums: [i32; WIDTH]) -> Scalar {
    let sums = sums.map(|sum| sum as f32);
    // SAFETY: an array of 16 values.
    unsafe { Scalar::load(sums.as_ptr()) }
}

impl ByteLanes for Scalar {
    type Bytes = Units;
    type ByteSums = [i32; WIDTH];
    type Nibbles = Units;
    type NibbleSums = [i32; WIDTH];

    #[inline(always)]
    unsafe fn byte_sums(_correction: i32) -> [i32; WIDTH] {
        [0; WIDTH]
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Units {
        // SAFETY: the caller's promise.
        unsafe { load(from, |byte| i32::from(byte) - 128) }
    }

    #[inline(always)]
    unsafe fn add_bytes(sums: [i32; WIDTH], weights: Units, x: *const u32) -> [i32; WIDTH] {
        // SAFETY: the caller's promise.
        unsafe { add(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn from_byte_sums(sums: [i32; WIDTH]) -> Self {
        // SAFETY: nothing is asked.
        unsafe { widen(sums) }
    }

    #[inline(always)]
    unsafe fn nibble_sums(_correction: i32) -> [i32; WIDTH] {
        [0; WIDTH]
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> (Units, Units) {
        // SAFETY: the caller's promise.
        unsafe { (load(from, |byte| i32::from(byte & 15)), load(from, |byte| i32::from(byte >> 4))) }
    }

    #[inline(always)]
    unsafe fn add_nibbles(sums: [i32; WIDTH], weights: Units, x: *const u32) -> [i32; WIDTH] {
        // SAFETY: the caller's promise.
        unsafe { add(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn from_nibble_sums(sums: [i32; WIDTH], correction: i32) -> Self {
        // SAFETY: nothing is asked.
        unsafe { widen(sums.map(|sum| sum + correction)) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut u8) {
        // SAFETY: the caller promises room for 16 bytes.
        unsafe {
            for (i, value) in self.to_array().into_iter().enumerate() {
                *to.add(i) = value as i8 as u8;
            }
        }
    }
}
