//! Rounds weights one input after the other and lets the later ones make up for what was lost, as GPTQ does (arXiv 2210.17323).
//!
//! With the Gram matrix `H = mean(x x^T)` of the inputs and `H^-1 = U^T U`, `U` upper triangular: once weight `i` of a row has become `q_i`, the
//! squared error of the output is least if `w_j -= (w_i - q_i) / U_ii * U_ij` for all later `j`, and what remains is `((w_i - q_i) / U_ii)^2`. So
//! `1 / U_ii^2` is the importance with which the scale of a block is searched, on the weights as they have become. Readers see ordinary blocks.

use super::calibrate::Gram;
use super::search::search_q4_0;
use crate::ops::{BLOCK_VALUES, Block};
use std::ops::Range;

/// Added to the diagonal of a Gram matrix, as a share of its mean: a text shows too little of some inputs.
const DAMPING: f64 = 0.01;

/// `U` of some neighbouring inputs.
struct Factor {
    inputs: Range<usize>,
    /// `[inputs, inputs]`; zero below the diagonal.
    upper: Vec<f32>,
    /// `1 / U_ii^2`.
    importance: Vec<f32>,
}

/// What rows of one matrix are rounded with.
pub(super) struct Compensation(Vec<Factor>);

impl Compensation {
    pub(super) fn new(grams: &[Gram]) -> Self {
        Self(grams.iter().map(Factor::new).collect())
    }

    /// The blocks of a row, in their order. Its inputs are those that were measured.
    pub(super) fn blocks(&self, row: &[f32]) -> Vec<Block> {
        self.0.iter().flat_map(|factor| factor.blocks(&row[factor.inputs.clone()])).collect()
    }
}

impl Factor {
    fn new(gram: &Gram) -> Self {
        let count = gram.inputs.len();
        let rows = upper_factor(gram, count);
        let columns = inverse_columns(&rows, count);
        let mut upper = vec![0.0; count * count];
        for (j, column) in columns.chunks_exact(count).enumerate() {
            for (i, value) in column.iter().enumerate().take(j + 1) {
                upper[i * count + j] = *value as f32;
            }
        }
        let importance: Vec<f64> = (0..count).map(|i| columns[i * count + i].powi(-2)).collect();
        // Only ratios matter; near 1 they are far from the ends of f32.
        let mean = importance.iter().sum::<f64>() / count.max(1) as f64;
        let importance = importance.iter().map(|value| (value / mean) as f32).collect();
        Self { inputs: gram.inputs.clone(), upper, importance }
    }

    fn blocks(&self, row: &[f32]) -> Vec<Block> {
        let count = row.len();
        let mut weights = row.to_vec();
        let mut blocks = Vec::with_capacity(count / BLOCK_VALUES);
        for start in (0..count).step_by(BLOCK_VALUES) {
            let end = start + BLOCK_VALUES;
            let of = |values: &[f32]| -> [f32; BLOCK_VALUES] { values[start..end].try_into().expect("a whole block") };
            let mut block = search_q4_0(&of(&weights), &of(&self.importance));
            let errors = self.round(&mut block, &mut weights[start..end], start);
            blocks.push(block);
            let later = &mut weights[end..];
            for (index, error) in errors.into_iter().enumerate() {
                let factors = &self.upper[(start + index) * count + end..(start + index + 1) * count];
                later.iter_mut().zip(factors).for_each(|(weight, factor)| *weight -= error * factor);
            }
        }
        blocks
    }

    /// Rounds the weights of the block that begins at input `start` at the block's scale, in their order. Returns `(w_i - q_i) / U_ii`.
    fn round(&self, block: &mut Block, weights: &mut [f32], start: usize) -> [f32; BLOCK_VALUES] {
        let (count, scale) = (self.inputs.len(), block.scale.to_f32());
        let mut errors = [0.0; BLOCK_VALUES];
        if !scale.is_finite() {
            return errors;
        }
        for index in 0..BLOCK_VALUES {
            let q = if scale == 0.0 { 0.0 } else { (weights[index] / scale).round().clamp(-8.0, 7.0) };
            block.q[index] = q as i8;
            let row = &self.upper[(start + index) * count + start..][..BLOCK_VALUES];
            errors[index] = (weights[index] - scale * q) / row[index];
            for later in index + 1..BLOCK_VALUES {
                weights[later] -= errors[index] * row[later];
            }
        }
        errors
    }
}

/// `R`, upper triangular, with `R R^T` = the damped Gram matrix: rows of `[count, count]`.
fn upper_factor(gram: &Gram, count: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| f64::from(gram.sums[i * count + j]);
    let mean = (0..count).map(|i| at(i, i)).sum::<f64>() / count.max(1) as f64;
    let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
    let mut rows = vec![0.0; count * count];
    for j in (0..count).rev() {
        let rest = |rows: &[f64], i: usize| dot(&rows[i * count + j + 1..(i + 1) * count], &rows[j * count + j + 1..(j + 1) * count]);
        // Rounding of f32 sums may leave less than what a Gram matrix has at least.
        let square = (at(j, j) + damping - rest(&rows, j)).max(damping * 1e-3);
        rows[j * count + j] = square.sqrt();
        for i in 0..j {
            rows[i * count + j] = (at(i, j) - rest(&rows, i)) / rows[j * count + j];
        }
    }
    rows
}

/// The inverse of an upper triangular matrix, by columns: column `j` at `[j * count..]`.
fn inverse_columns(rows: &[f64], count: usize) -> Vec<f64> {
    let mut columns = vec![0.0; count * count];
    for j in 0..count {
        columns[j * count + j] = 1.0 / rows[j * count + j];
        for i in (0..j).rev() {
            let sum = dot(&rows[i * count + i + 1..=i * count + j], &columns[j * count + i + 1..=j * count + j]);
            columns[j * count + i] = -sum / rows[i * count + i];
        }
    }
    columns
}

/// With four sums, so that it is not bound by the latency of one.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, a_rest) = a.as_chunks::<4>();
    let (b, b_rest) = b.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..4 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::BlockFormat;
    use crate::ops::tests::noise;

    const COUNT: usize = 64;

    /// Inputs of which neighbours go together, and their Gram matrix.
    fn inputs() -> (Vec<[f32; COUNT]>, Gram) {
        let noise = noise(11, 400 * COUNT);
        let row = |values: &[f32]| -> [f32; COUNT] {
            let mut row = [0.0; COUNT];
            for i in 0..COUNT {
                row[i] = values[i] + if i > 0 { 0.9 * row[i - 1] } else { 0.0 };
            }
            row
        };
        let rows: Vec<[f32; COUNT]> = noise.chunks_exact(COUNT).map(row).collect();
        let mut sums = vec![0.0; COUNT * COUNT];
        for row in &rows {
            for i in 0..COUNT {
                for j in i..COUNT {
                    sums[i * COUNT + j] += row[i] * row[j];
                }
            }
        }
        (rows, Gram { inputs: 0..COUNT, sums })
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let (_, gram) = inputs();
        let rows = upper_factor(&gram, COUNT);
        let columns = inverse_columns(&rows, COUNT);
        let mean = (0..COUNT).map(|i| f64::from(gram.sums[i * COUNT + i])).sum::<f64>() / COUNT as f64;
        for i in 0..COUNT {
            for j in i..COUNT {
                let of_rows: f64 = (0..COUNT).map(|k| rows[i * COUNT + k] * rows[j * COUNT + k]).sum();
                let wanted = f64::from(gram.sums[i * COUNT + j]) + if i == j { DAMPING * mean } else { 0.0 };
                assert!((of_rows - wanted).abs() < 1e-6 * mean, "R R^T at {i}, {j}");
                let identity: f64 = (0..COUNT).map(|k| rows[i * COUNT + k] * columns[j * COUNT + k]).sum();
                assert!((identity - f64::from(u8::from(i == j))).abs() < 1e-9, "R U at {i}, {j}");
            }
        }
    }

    #[test]
    fn outputs_are_nearer_than_with_the_best_rounding_of_each_weight() {
        let (rows, gram) = inputs();
        let compensation = Compensation::new(&[gram]);
        let (mut alone, mut together) = (0.0, 0.0);
        for weights in noise(5, 20 * COUNT).chunks_exact(COUNT) {
            let error = |blocks: &[Block]| -> f32 {
                let stored: Vec<f32> = blocks.iter().flat_map(Block::values).collect();
                let output = |row: &[f32; COUNT]| (0..COUNT).map(|i| (weights[i] - stored[i]) * row[i]).sum::<f32>();
                rows.iter().map(|row| output(row).powi(2)).sum()
            };
            let of_block = |values: &[f32; BLOCK_VALUES]| search_q4_0(values, &[1.0; BLOCK_VALUES]);
            alone += error(&weights.as_chunks().0.iter().map(of_block).collect::<Vec<_>>());
            let blocks = compensation.blocks(weights);
            assert!(blocks.iter().flat_map(|block| block.q).all(|q| BlockFormat::Q4_0.range().contains(&q)));
            together += error(&blocks);
        }
        assert!(together < 0.5 * alone, "{together} of {alone}");
    }

    #[test]
    fn inputs_that_never_carry_anything_change_nothing_else() {
        let gram = Gram { inputs: 0..COUNT, sums: vec![0.0; COUNT * COUNT] };
        let weights = noise(9, COUNT);
        let found = Compensation::new(&[gram]).blocks(&weights);
        for (block, values) in found.iter().zip(weights.as_chunks::<BLOCK_VALUES>().0) {
            assert_eq!(block.q, search_q4_0(values, &[1.0; BLOCK_VALUES]).q);
        }
        let gram = Gram { inputs: 0..COUNT, sums: vec![0.0; COUNT * COUNT] };
        assert!(Compensation::new(&[gram]).blocks(&[0.0; COUNT]).iter().all(|block| block.values() == [0.0; BLOCK_VALUES]));
    }
}
