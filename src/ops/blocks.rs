//! Blocks of 32 quantised weights, byte for byte as GGUF files hold them.
//!
//! | format | bytes | content | value |
//! |---|--:|---|---|
//! | `Q8_0` | 34 | f16 `d`, 32 × i8 `q` | `d * q` |
//! | `Q4_0` | 18 | f16 `d`, 16 bytes: weight `i` in the low, `i + 16` in the high half of byte `i` | `d * (q - 8)` |
//! | `Q4_1` | 20 | f16 `d`, f16 `m`, 16 bytes likewise | `d * q + m` |
//!
//! Source of the formats: ggml's `block_q8_0`, `block_q4_0` and `block_q4_1`, as the GGUF specification refers to them.

use half::f16;

/// Weights in a block.
pub const BLOCK_VALUES: usize = 32;

/// How 32 neighbouring weights of a row share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 8 bits and a scale: 8.5 bits a weight.
    Q8_0,
    /// 4 bits and a scale: 4.5 bits a weight.
    Q4_0,
    /// 4 bits, a scale and a minimum: 5 bits a weight.
    Q4_1,
}

impl BlockFormat {
    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
        }
    }

    /// The values of a block: the scale, the minimum, and the integers that the scale multiplies.
    ///
    /// # Panics
    /// When `block` has not [`Self::bytes`].
    pub fn unpack(self, block: &[u8]) -> Block {
        assert_eq!(block.len(), self.bytes());
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
        let mut q = [0; BLOCK_VALUES];
        match self {
            Self::Q8_0 => q.iter_mut().zip(&block[2..]).for_each(|(q, &byte)| *q = byte as i8),
            Self::Q4_0 | Self::Q4_1 => {
                let offset = if self == Self::Q4_0 { 8 } else { 0 };
                for (i, &byte) in block[self.bytes() - BLOCK_VALUES / 2..].iter().enumerate() {
                    q[i] = (byte & 15) as i8 - offset;
                    q[i + BLOCK_VALUES / 2] = (byte >> 4) as i8 - offset;
                }
            }
        }
        Block { scale: half(0), minimum: if self == Self::Q4_1 { half(2) } else { f16::ZERO }, q }
    }

    /// Writes a block; the integers must be in [`Self::range`].
    ///
    /// # Panics
    /// When `out` has not [`Self::bytes`].
    pub fn pack(self, block: &Block, out: &mut [u8]) {
        assert_eq!(out.len(), self.bytes());
        debug_assert!(block.q.iter().all(|q| self.range().contains(q)));
        out[..2].copy_from_slice(&block.scale.to_le_bytes());
        match self {
            Self::Q8_0 => out[2..].iter_mut().zip(&block.q).for_each(|(byte, &q)| *byte = q as u8),
            Self::Q4_0 | Self::Q4_1 => {
                if self == Self::Q4_1 {
                    out[2..4].copy_from_slice(&block.minimum.to_le_bytes());
                }
                let offset = if self == Self::Q4_0 { 8 } else { 0 };
                for (i, byte) in out[self.bytes() - BLOCK_VALUES / 2..].iter_mut().enumerate() {
                    *byte = (block.q[i] + offset) as u8 | ((block.q[i + BLOCK_VALUES / 2] + offset) as u8) << 4;
                }
            }
        }
    }

    /// The integers a block may hold.
    pub fn range(self) -> std::ops::RangeInclusive<i8> {
        match self {
            Self::Q8_0 => i8::MIN..=i8::MAX,
            Self::Q4_0 => -8..=7,
            Self::Q4_1 => 0..=15,
        }
    }

    /// The block nearest to `values` by the plain rule of the format: the largest magnitude (`Q4_1`: smallest and largest value) becomes the
    /// end of the range, everything else is rounded. A scale beyond f16 becomes infinite, and a value that is no
    /// finite number makes it NaN; see [`Block::is_finite`].
    pub fn quantize(self, values: &[f32; BLOCK_VALUES]) -> Block {
        if values.iter().any(|value| !value.is_finite()) {
            // No integer says it.
            return Block { scale: f16::NAN, minimum: f16::ZERO, q: [0; BLOCK_VALUES] };
        }
        match self {
            Self::Q8_0 => {
                let largest = values.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
                let scale = largest / 127.0;
                let inverse = inverse(scale);
                Block { scale: f16::from_f32(scale), minimum: f16::ZERO, q: values.map(|v| (v * inverse).round() as i8) }
            }
            Self::Q4_0 => {
                let largest = values.iter().fold(0.0_f32, |a, &v| if v.abs() > a.abs() { v } else { a });
                let scale = largest / -8.0;
                let inverse = inverse(scale);
                let q = values.map(|v| ((v * inverse + 8.5) as i8).min(15) - 8);
                Block { scale: f16::from_f32(scale), minimum: f16::ZERO, q }
            }
            Self::Q4_1 => {
                let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
                let scale = (high - low) / 15.0;
                let inverse = inverse(scale);
                let q = values.map(|v| (((v - low) * inverse + 0.5) as i8).min(15));
                Block { scale: f16::from_f32(scale), minimum: f16::from_f32(low), q }
            }
        }
    }
}

/// `1 / scale`, 0 for a block of zeros or of what is too small to divide by.
fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

impl std::fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
        })
    }
}

/// A block, taken apart: weight `i` is `scale * q[i] + minimum`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// What the integers are multiplied with.
    pub scale: f16,
    /// What is added; 0 in formats without.
    pub minimum: f16,
    /// The integers.
    pub q: [i8; BLOCK_VALUES],
}

impl Block {
    /// The weights.
    pub fn values(&self) -> [f32; BLOCK_VALUES] {
        let (scale, minimum) = (self.scale.to_f32(), self.minimum.to_f32());
        self.q.map(|q| scale * f32::from(q) + minimum)
    }

    /// Whether scale and minimum are numbers: f16 ends at 65,504.
    pub fn is_finite(&self) -> bool {
        self.scale.is_finite() && self.minimum.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::noise;

    const FORMATS: [BlockFormat; 3] = [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4_1];

    fn block(seed: u64) -> [f32; BLOCK_VALUES] {
        noise(seed, BLOCK_VALUES).try_into().expect("32 values")
    }

    #[test]
    fn bytes_and_blocks_are_each_other_s_inverse() {
        for format in FORMATS {
            for seed in 0..200 {
                let block = format.quantize(&block(seed));
                let mut bytes = vec![0; format.bytes()];
                format.pack(&block, &mut bytes);
                assert_eq!(format.unpack(&bytes), block, "{format}");
            }
        }
    }

    #[test]
    fn the_error_is_within_half_a_step() {
        for format in FORMATS {
            for seed in 0..200 {
                let values = block(seed);
                let block = format.quantize(&values);
                // Q4_0 has one step less on the side away from its largest magnitude; the scale itself is rounded to f16.
                let steps = if format == BlockFormat::Q4_0 { 1.01 } else { 0.51 };
                let worst = values.iter().zip(block.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let allowed = block.scale.to_f32().abs() * steps + 0.001 * values.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
                assert!(worst <= allowed, "{format}: {worst} of {allowed}");
            }
        }
    }

    #[test]
    fn known_blocks_have_the_bytes_of_the_format() {
        let mut values = [0.0; BLOCK_VALUES];
        (values[0], values[1], values[16], values[31]) = (-8.0, 7.0, 1.0, -1.0);
        let mut bytes = vec![0; 18];
        BlockFormat::Q4_0.pack(&BlockFormat::Q4_0.quantize(&values), &mut bytes);
        // d = 1.0 is 0x3c00; weight 0 is 0 and weight 16 is 9; weight 1 is 15 and weight 17 is 8; weight 15 is 8 and weight 31 is 7.
        assert_eq!((&bytes[..4], bytes[17]), (&[0x00, 0x3c, 0x90, 0x8f][..], 0x78));
        let mut bytes = vec![0; 34];
        BlockFormat::Q8_0.pack(&BlockFormat::Q8_0.quantize(&values.map(|v| v * 127.0 / 8.0)), &mut bytes);
        assert_eq!((&bytes[..4], bytes[18]), (&[0x00, 0x3c, 0x81, 111][..], 16));
    }

    #[test]
    fn zeros_stay_zeros_and_what_f16_cannot_scale_shows() {
        for format in FORMATS {
            assert_eq!(format.quantize(&[0.0; BLOCK_VALUES]).values(), [0.0; BLOCK_VALUES]);
            let mut values = [0.0; BLOCK_VALUES];
            values[3] = 1e9;
            assert!(!format.quantize(&values).is_finite(), "{format}");
            assert!(format.quantize(&block(1)).is_finite());
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                values[3] = bad;
                assert!(!format.quantize(&values).is_finite(), "{format} {bad}");
            }
            for tiny in [1e-39, -1e-39, 1e-45, -1e-38] {
                values = [tiny / 3.0; BLOCK_VALUES];
                values[3] = tiny;
                let block = format.quantize(&values);
                assert!(block.is_finite() && block.q.iter().all(|q| format.range().contains(q)), "{format} {tiny}");
                assert!(block.values().iter().all(|v| v.abs() < 1e-6));
            }
        }
    }
}
