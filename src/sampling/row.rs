//! Passes over a row of logits, written so that the compiler vectorises them.
//!
//! **Architecture invariant:** only IEEE additions, multiplications and comparisons of single values, sums of integers, and a logarithm from
//! `libm`: a row gives the same bits on every machine and thread, whatever vector width the compiler picks, and on a GPU, whose threads add
//! in another order. So passes are compiled for wider vectors too, and the CPU decides which version runs.

use multiversion::multiversion;

/// Independent accumulators of a pass.
const LANES: usize = 16;

/// Values of which the largest is found before its index is looked for.
const PEAK_BLOCK: usize = 512;

/// Values that pass through a buffer at once.
const BLOCK: usize = 256;

/// Below this, [`exp`] is 0: the smallest power whose result is a normal number.
const EXP_MIN: f32 = -87.0;

/// Index of the first value that is NaN or infinite.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn first_non_finite(row: &[f32]) -> Option<usize> {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut found = [false; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            found[lane] |= !chunk[lane].is_finite();
        }
    }
    let any = found.contains(&true) || rest.iter().any(|value| !value.is_finite());
    if any { row.iter().position(|value| !value.is_finite()) } else { None }
}

/// The first of the largest values and its index, found in one pass; `None` for an empty row and for one with NaN or infinite values.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn peak(row: &[f32]) -> Option<(usize, f32)> {
    let (mut best, mut start, mut zero) = (None, 0, 0.0);
    for block in row.chunks(PEAK_BLOCK) {
        let (largest, block_zero) = block_peak(block);
        zero += block_zero;
        if best.is_none_or(|(_, value)| largest > value) {
            best = Some((start, largest));
        }
        start += block.len();
    }
    // A sum of zeros, unless a product was NaN.
    let (start, largest) = best.filter(|_| zero == 0.0)?;
    let offset = row[start..].iter().position(|value| *value == largest)?;
    Some((start + offset, largest))
}

/// The largest value of a block, and 0 if all are finite, else NaN.
#[inline(always)]
fn block_peak(block: &[f32]) -> (f32, f32) {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = block.as_chunks::<LANES>();
    let (mut largest, mut zeros) = ([f32::NEG_INFINITY; LANES], [0.0f32; LANES]);
    for chunk in chunks {
        for lane in 0..LANES {
            largest[lane] = larger(largest[lane], chunk[lane]);
            zeros[lane] += chunk[lane] * 0.0;
        }
    }
    let rest = rest.iter().fold((f32::NEG_INFINITY, 0.0), |(top, zero), &v| (larger(top, v), zero + v * 0.0));
    (largest.into_iter().fold(rest.0, larger), zeros.into_iter().fold(rest.1, |a, b| a + b))
}

/// The largest value; negative infinity for an empty row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn max(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], chunk[lane]);
        }
    }
    rest.iter().copied().fold(lanes.into_iter().fold(f32::NEG_INFINITY, larger), larger)
}

/// The smallest value; infinity for an empty row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn min(row: &[f32]) -> f32 {
    let smaller = |a: f32, b: f32| if b < a { b } else { a };
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::INFINITY; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = smaller(lanes[lane], chunk[lane]);
        }
    }
    rest.iter().copied().fold(lanes.into_iter().fold(f32::INFINITY, smaller), smaller)
}

/// `e^x` for `x <= 0` (negative infinity gives 0), relative error below 2e-7, not subject to the platform's mathematics library.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; the Taylor polynomial of degree 7 in `r` errs by less than 1e-8; `2^n` is written into the exponent.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // ln 2 in two parts, the first short enough that n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < EXP_MIN { EXP_MIN } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut polynomial = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        polynomial = polynomial * r + coefficient;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < EXP_MIN { 0.0 } else { polynomial * power }
}

/// The mass of a weight in `0..=1`, in units of 2^-40, rounded to the nearest, ties to even. A row of 2^23 tokens has less than 2^63.
#[inline(always)]
pub(super) fn mass(weight: f32) -> u64 {
    // Numbers from 2^12 to 2^13 are 2^-40 apart: the sum has the rounded weight in its low bits.
    const ROUND: f64 = 6144.0;
    (f64::from(weight) + ROUND).to_bits().wrapping_sub(ROUND.to_bits())
}

/// Mass of `exp(value - max)` over the row.
pub(super) fn mass_of_exp(row: &[f32], max: f32) -> u64 {
    // Through a buffer: exponentials in vectors of f32 first, then their masses in wider ones, each loop with few live registers.
    let mut buffer = [0.0f32; BLOCK];
    let mut total = 0;
    for block in row.chunks(BLOCK) {
        let weights = &mut buffer[..block.len()];
        exp_into(block, max, 1.0, weights);
        total += mass_of(weights);
    }
    total
}

/// Natural logarithm of the sum of `exp(value)` over a row whose largest value is `max` and which has this [`mass_of_exp`].
pub(super) fn log_sum_exp(max: f32, mass: u64) -> f64 {
    f64::from(max) + libm::log(mass as f64 * (1.0 / (1u64 << 40) as f64))
}

/// `weights[i] = exp((row[i] - max) * scale)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn exp_into(row: &[f32], max: f32, scale: f32, weights: &mut [f32]) {
    for (weight, value) in weights.iter_mut().zip(row) {
        *weight = exp((value - max) * scale);
    }
}

/// Mass of all weights.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn mass_of(weights: &[f32]) -> u64 {
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let mut lanes = [0; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += mass(chunk[lane]);
        }
    }
    lanes.iter().sum::<u64>() + rest.iter().map(|weight| mass(*weight)).sum::<u64>()
}

/// How many values are larger than `value`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn count_above(row: &[f32], value: f32) -> usize {
    count(row, |other| other > value)
}

/// How many values equal `value`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn count_equal(row: &[f32], value: f32) -> usize {
    count(row, |other| other == value)
}

#[inline(always)]
fn count(row: &[f32], is_counted: impl Fn(f32) -> bool) -> usize {
    let (chunks, rest) = row.as_chunks::<LANES>();
    // Counted in f32, exact up to 2^24 a lane, because that adds what the comparison gives without a conversion.
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += if is_counted(chunk[lane]) { 1.0 } else { 0.0 };
        }
    }
    lanes.iter().sum::<f32>() as usize + rest.iter().filter(|value| is_counted(**value)).count()
}

/// `buckets[i]` = distance of `row[i]` from `max` times `scale`, rounded, at most `last`. `scale` is finite, `last` below 2^16.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn buckets_into(row: &[f32], max: f32, (scale, last): (f32, u16), buckets: &mut [u16]) {
    // Added to a number below 2^23, it leaves the rounded number in the low bits.
    const ROUND: f32 = 8_388_608.0;
    let last = f32::from(last);
    for (bucket, value) in buckets.iter_mut().zip(row) {
        let distance = (max - value) * scale;
        let bounded = if distance < last { distance } else { last };
        *bucket = (bounded + ROUND).to_bits() as u16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some logits, and their passes value by value, as this function is compiled: for the oldest CPU. What runs may be another version.
    #[test]
    fn every_version_of_a_pass_gives_the_same_bits() {
        for length in [1, 15, 16, 257, 4_099] {
            let mut state = 7_u32;
            let mut logit = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 20) as f32 - 8.0
            };
            let row: Vec<f32> = (0..length).map(|_| logit()).collect();
            let mut weights = vec![0.0; length];
            exp_into(&row, 8.0, 0.7, &mut weights);
            let expected: Vec<f32> = row.iter().map(|value| exp((value - 8.0) * 0.7)).collect();
            assert!(weights.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "exp of {length}");
            // Every product is exact in f64.
            let total: u64 = expected.iter().map(|weight| (f64::from(*weight) * (1u64 << 40) as f64).round_ties_even() as u64).sum();
            assert_eq!(mass_of(&weights), total, "mass of {length}");
            let mut buckets = vec![0; length];
            buckets_into(&row, 8.0, (60.0, 1_023), &mut buckets);
            let bucket = |value: &f32| ((8.0 - value) * 60.0).min(1_023.0).round_ties_even() as u16;
            assert!(buckets.iter().zip(&row).all(|(found, value)| *found == bucket(value)), "buckets of {length}");
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!((max(&row), peak(&row).map(|(_, value)| value)), (largest, Some(largest)));
            assert_eq!(min(&row), row.iter().copied().fold(f32::INFINITY, f32::min));
            assert_eq!(count_above(&row, 1.0) + count_equal(&row, 1.0), row.iter().filter(|value| **value >= 1.0).count());
        }
    }
}
