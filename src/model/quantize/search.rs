//! Better four bits at the same size: the scale of a block is searched instead of taken from its largest weight.
//!
//! A block stores `d` and integers `q` from -8 to 7; a weight becomes `d * q`. The plain rule gives the largest magnitude the integer -8 and
//! so spends the range on one weight of 32. Here the error `sum_i importance_i * (x_i - d * q_i)^2` is made small: for a set of scales
//! around the plain one, of both signs, integers are rounded and then `d` is the least-squares solution
//! `sum(importance * q * x) / sum(importance * q^2)`, which is rounded to f16 as it will be stored. The best of all, the plain block among
//! them, is taken, so the weighted error never grows. Readers see an ordinary `Q4_0` block.

use crate::ops::{BLOCK_VALUES, Block, BlockFormat};
use half::f16;

/// Integers that the largest magnitude is given in turn, from beyond the range (it is clipped) to well inside of it.
const LARGEST_BECOMES: [f32; 25] = [
    -9.6, -9.3, -9.0, -8.8, -8.6, -8.4, -8.2, -8.0, -7.8, -7.6, -7.4, -7.2, -7.0, -6.8, -6.6, -6.4, -6.2, -6.0, 8.2, 7.9, 7.6, 7.3, 7.0,
    6.7, 6.4,
];

/// How often integers are rounded anew after the scale has moved.
const ROUNDS: usize = 3;

/// The best `Q4_0` block that is found for `values`; every importance is positive.
pub fn search_q4_0(values: &[f32; BLOCK_VALUES], importance: &[f32; BLOCK_VALUES]) -> Block {
    let plain = BlockFormat::Q4_0.quantize(values);
    let largest = values.iter().fold(0.0_f32, |a, &v| if v.abs() > a.abs() { v } else { a });
    if largest == 0.0 || !plain.is_finite() || !largest.is_finite() {
        return plain;
    }
    let (mut best, mut least) = (plain, error(&plain, values, importance));
    for target in LARGEST_BECOMES {
        let mut scale = largest / target;
        for _ in 0..ROUNDS {
            let Some(block) = refine(scale, values, importance) else { break };
            let found = error(&block, values, importance);
            if found < least {
                (best, least) = (block, found);
            }
            let next = block.scale.to_f32();
            if next == scale {
                break;
            }
            scale = next;
        }
    }
    best
}

/// Rounds to integers at `scale`, and takes the scale that suits them best; `None` where all became 0 or f16 ends.
fn refine(scale: f32, values: &[f32; BLOCK_VALUES], importance: &[f32; BLOCK_VALUES]) -> Option<Block> {
    let inverse = 1.0 / scale;
    let q = values.map(|v| (v * inverse).round().clamp(-8.0, 7.0));
    let (mut product, mut square) = (0.0, 0.0);
    for i in 0..BLOCK_VALUES {
        product += importance[i] * q[i] * values[i];
        square += importance[i] * q[i] * q[i];
    }
    let scale = f16::from_f32(product / square);
    (scale.is_finite() && scale != f16::ZERO).then(|| Block { scale, minimum: f16::ZERO, q: q.map(|q| q as i8) })
}

/// The weighted squared error of a block.
pub fn error(block: &Block, values: &[f32; BLOCK_VALUES], importance: &[f32; BLOCK_VALUES]) -> f32 {
    let stored = block.values();
    (0..BLOCK_VALUES).map(|i| importance[i] * (values[i] - stored[i]) * (values[i] - stored[i])).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVEN: [f32; BLOCK_VALUES] = [1.0; BLOCK_VALUES];

    fn block() -> impl Strategy<Value = [f32; BLOCK_VALUES]> {
        prop::collection::vec(-2.0_f32..2.0, BLOCK_VALUES).prop_map(|v| v.try_into().expect("32 values"))
    }

    proptest! {
        #[test]
        fn the_error_never_grows(values in block(), importance in prop::collection::vec(1e-3_f32..10.0, BLOCK_VALUES)) {
            let importance = importance.try_into().expect("32 values");
            let (plain, searched) = (BlockFormat::Q4_0.quantize(&values), search_q4_0(&values, &importance));
            prop_assert!(error(&searched, &values, &importance) <= error(&plain, &values, &importance));
            prop_assert!(searched.q.iter().all(|q| BlockFormat::Q4_0.range().contains(q)));
        }
    }

    #[test]
    fn bell_shaped_weights_lose_a_tenth_less() {
        // Sums of twelve even numbers are nearly Gaussian.
        let even = crate::ops::tests::noise(7, 200 * BLOCK_VALUES * 12);
        let values: Vec<f32> = even.chunks_exact(12).map(|twelve| twelve.iter().sum()).collect();
        let total = |quantize: fn(&[f32; BLOCK_VALUES]) -> Block| -> f32 {
            values.as_chunks().0.iter().map(|block| error(&quantize(block), block, &EVEN)).sum()
        };
        let (plain, searched) = (total(|block| BlockFormat::Q4_0.quantize(block)), total(|block| search_q4_0(block, &EVEN)));
        assert!(searched < 0.9 * plain, "{searched} of {plain}");
    }

    #[test]
    fn what_is_important_is_kept_best() {
        let mut values: [f32; BLOCK_VALUES] = crate::ops::tests::noise(3, BLOCK_VALUES).try_into().expect("32 values");
        values[5] = 3.0;
        let mut importance = EVEN;
        importance[9] = 1e4;
        let (even, weighted) = (search_q4_0(&values, &EVEN).values(), search_q4_0(&values, &importance).values());
        assert!((weighted[9] - values[9]).abs() < (even[9] - values[9]).abs().max(1e-3));
    }

    #[test]
    fn blocks_without_a_scale_stay_plain() {
        for values in [[0.0; BLOCK_VALUES], [1e9; BLOCK_VALUES], [f32::NAN; BLOCK_VALUES], [1e-30; BLOCK_VALUES]] {
            let (plain, searched) = (BlockFormat::Q4_0.quantize(&values), search_q4_0(&values, &EVEN));
            assert_eq!((plain.scale.to_bits(), plain.q), (searched.scale.to_bits(), searched.q));
        }
    }
}
