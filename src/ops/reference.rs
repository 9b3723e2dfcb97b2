//! The plain backend: one loop after the other, sums in f64, nothing fused, nothing shared. What the fast backends are compared with.

use super::{
    AttentionShape, BLOCK_VALUES, Backend, DType, KvType, MatrixRows, OpError, PackedBatch, PageShape, QkNorm, RowTasks, Target,
    TensorData, WeightType,
};
use half::{bf16, f16};

/// See the module.
#[derive(Debug, Default)]
pub struct ReferenceBackend;

/// A matrix `[rows, cols]` of f32, row-major.
#[derive(Debug)]
pub struct PlainMatrix {
    stored: WeightType,
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl PlainMatrix {
    /// `x @ self^T`, `[rows, cols] -> [rows, self.rows]`.
    fn times(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let outputs = |x: &[f32]| self.values.chunks_exact(self.cols).map(|weights| dot(x, weights) as f32).collect::<Vec<_>>();
        x.chunks_exact(self.cols).take(rows).flat_map(outputs).collect()
    }
}

/// Keys and values `[num_blocks, block_size, kv_heads, head_dim]`, rounded to the type of the cache.
#[derive(Debug)]
pub struct PlainPages {
    shape: PageShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl PlainPages {
    fn offset(&self, block: usize, position: usize, head: usize) -> usize {
        ((block * self.shape.block_size + position) * self.shape.kv_heads + head) * self.shape.head_dim
    }
}

/// Cosines and sines `[positions][head_dim / 2]`.
#[derive(Debug)]
pub struct PlainRope(Vec<Vec<(f64, f64)>>);

fn round_to(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::Bf16 => bf16::from_f32(value).to_f32(),
        DType::F16 => f16::from_f32(value).to_f32(),
    }
}

/// Keys or values of a head as the cache gives them back.
fn kept(stored: KvType, values: &[f32]) -> Vec<f32> {
    match stored {
        KvType::Scalar(dtype) => values.iter().map(|&value| round_to(dtype, value)).collect(),
        KvType::Int8 => {
            let scale = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs())) / 127.0;
            let nearest = |value: &f32| if scale > 0.0 { (value / scale).round_ties_even().clamp(-127.0, 127.0) * scale } else { 0.0 };
            values.iter().map(nearest).collect()
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn normalise(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(gain).map(|(&x, &g)| (f64::from(x) * scale * f64::from(g)) as f32).collect()
}

fn sigmoid_times(x: f32) -> f64 {
    f64::from(x) / (1.0 + (-f64::from(x)).exp())
}

impl Backend for ReferenceBackend {
    type Matrix = PlainMatrix;
    type Vector = Vec<f32>;
    type Buffer = Vec<f32>;
    type Operand = Vec<f32>;
    type Pages = PlainPages;
    type Rope = PlainRope;
    type Returning = ();

    fn arithmetic(&self, _weights: &[WeightType], _kv_cache: KvType) -> String {
        "reference".to_string()
    }

    fn matrix(&self, source: &TensorData<'_>, _rows: MatrixRows, stored: WeightType) -> Result<PlainMatrix, OpError> {
        let (rows, cols) = (source.rows(), source.cols());
        let values: Vec<f32> = match stored {
            WeightType::Scalar(dtype) => source.to_f32().into_iter().map(|v| round_to(dtype, v)).collect(),
            WeightType::Blocks(_) if !cols.is_multiple_of(BLOCK_VALUES) => return Err(OpError::Blocks { stored, values: cols }),
            WeightType::Blocks(format) => {
                let block = |index: usize| source.block(index * BLOCK_VALUES / cols, index % (cols / BLOCK_VALUES), format);
                (0..rows * cols / BLOCK_VALUES).flat_map(|index| block(index).values()).collect()
            }
        };
        if let Some(&value) = values.iter().find(|v| v.is_infinite()) {
            return Err(OpError::Range { value, stored });
        }
        Ok(PlainMatrix { stored, rows, cols, values })
    }

    fn stored_as(&self, matrix: &PlainMatrix) -> WeightType {
        matrix.stored
    }

    fn vector(&self, values: &[f32]) -> Result<Vec<f32>, OpError> {
        Ok(values.to_vec())
    }

    fn buffer(&self, rows: usize, width: usize) -> Result<Vec<f32>, OpError> {
        Ok(vec![0.0; rows * width])
    }

    fn operand(&self, rows: usize, width: usize, _weights: &[WeightType]) -> Result<Vec<f32>, OpError> {
        self.buffer(rows, width)
    }

    fn pages(&self, shape: PageShape) -> Result<PlainPages, OpError> {
        Ok(PlainPages { shape, keys: vec![0.0; shape.elements()], values: vec![0.0; shape.elements()] })
    }

    fn rope(&self, positions: usize, head_dim: usize, theta: f64) -> Result<PlainRope, OpError> {
        let angle = |p: usize, j: usize| p as f64 * theta.powf(-((2 * j) as f64) / head_dim as f64);
        let row = |p| (0..head_dim / 2).map(|j| (angle(p, j).cos(), angle(p, j).sin())).collect();
        Ok(PlainRope((0..positions).map(row).collect()))
    }

    fn embed(&self, table: &PlainMatrix, batch: &PackedBatch, out: &mut Vec<f32>) {
        for (row, &token) in batch.tokens().iter().enumerate() {
            let from = token as usize * table.cols;
            out[row * table.cols..][..table.cols].copy_from_slice(&table.values[from..from + table.cols]);
        }
    }

    fn rms_norm(&self, x: &Vec<f32>, (gain, eps): (&Vec<f32>, f32), rows: usize, (out, _): Target<'_, Self>) {
        let width = gain.len();
        for row in 0..rows {
            let normed = normalise(&x[row * width..][..width], gain, eps);
            out[row * width..][..width].copy_from_slice(&normed);
        }
    }

    fn linear(&self, weight: &PlainMatrix, x: &Vec<f32>, rows: usize, out: &mut Vec<f32>) {
        out[..rows * weight.rows].copy_from_slice(&weight.times(x, rows));
    }

    fn linear_add(&self, weight: &PlainMatrix, x: &Vec<f32>, rows: usize, residual: &mut Vec<f32>) {
        for (residual, sum) in residual.iter_mut().zip(weight.times(x, rows)) {
            *residual += sum;
        }
    }

    fn linear_swiglu(&self, weight: &PlainMatrix, x: &Vec<f32>, rows: usize, (out, _): Target<'_, Self>) {
        let width = weight.rows / 2;
        for (row, gate_up) in weight.times(x, rows).chunks_exact(2 * width).enumerate() {
            let (gate, up) = gate_up.split_at(width);
            for i in 0..width {
                out[row * width + i] = (sigmoid_times(gate[i]) * f64::from(up[i])) as f32;
            }
        }
    }

    fn linear_silu(&self, weight: &PlainMatrix, x: &Vec<f32>, rows: usize, (out, _): Target<'_, Self>) {
        for (out, sum) in out.iter_mut().zip(weight.times(x, rows)) {
            *out = sigmoid_times(sum) as f32;
        }
    }

    fn qk_norm_rope_store(
        &self,
        qkv: &mut Vec<f32>,
        attention: (AttentionShape, Option<QkNorm<'_, Self>>),
        rope: &PlainRope,
        batch: &PackedBatch,
        pages: &mut PlainPages,
    ) {
        let (shape, norm) = attention;
        let (head_dim, half) = (shape.head_dim, shape.head_dim / 2);
        for row in 0..batch.rows() {
            let heads = &mut qkv[row * shape.qkv_width()..][..shape.qkv_width()];
            for (head, x) in heads.chunks_exact_mut(head_dim).take(shape.q_heads + shape.kv_heads).enumerate() {
                if let Some(norm) = &norm {
                    x.copy_from_slice(&normalise(x, if head < shape.q_heads { norm.q } else { norm.k }, norm.eps));
                }
                for (j, &(cos, sin)) in rope.0[batch.positions()[row] as usize].iter().enumerate() {
                    let (low, high) = (f64::from(x[j]), f64::from(x[half + j]));
                    x[j] = (low * cos - high * sin) as f32;
                    x[half + j] = (high * cos + low * sin) as f32;
                }
            }
            let (block, position) = batch.slot_of_row(row);
            for head in 0..shape.kv_heads {
                let to = pages.offset(block, position, head);
                let key = &heads[(shape.q_heads + head) * head_dim..][..head_dim];
                let value = &heads[(shape.q_heads + shape.kv_heads + head) * head_dim..][..head_dim];
                pages.keys[to..to + head_dim].copy_from_slice(&kept(pages.shape.stored, key));
                pages.values[to..to + head_dim].copy_from_slice(&kept(pages.shape.stored, value));
            }
        }
    }

    fn paged_attention(&self, qkv: &Vec<f32>, shape: AttentionShape, batch: &PackedBatch, pages: &PlainPages, (out, _): Target<'_, Self>) {
        let head_dim = shape.head_dim;
        for row in 0..batch.rows() {
            let table = batch.table_of_row(row);
            for head in 0..shape.q_heads {
                let q = &qkv[row * shape.qkv_width() + head * head_dim..][..head_dim];
                let place =
                    |p: usize| pages.offset(table[p / pages.shape.block_size] as usize, p % pages.shape.block_size, head / shape.group());
                let length = batch.positions()[row] as usize + 1;
                let scores: Vec<f64> =
                    (0..length).map(|p| dot(q, &pages.keys[place(p)..][..head_dim]) / (head_dim as f64).sqrt()).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..head_dim {
                    let sum: f64 = weights.iter().enumerate().map(|(p, w)| w * f64::from(pages.values[place(p) + d])).sum();
                    out[(row * shape.q_heads + head) * head_dim + d] = (sum / total) as f32;
                }
            }
        }
    }

    fn logits(&self, head: &PlainMatrix, x: &Vec<f32>, (rows, _): (&[u32], &mut Vec<f32>), out: &mut [f32]) {
        let chosen: Vec<f32> = rows.iter().flat_map(|&row| &x[row as usize * head.cols..][..head.cols]).copied().collect();
        out.copy_from_slice(&head.times(&chosen, rows.len()));
    }

    fn send_back(&self, _tasks: &RowTasks) {}

    fn receive(&self, (): (), _tasks: &mut RowTasks) -> Result<(), OpError> {
        Ok(())
    }

    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }

    fn poison(&self, pages: &mut PlainPages, blocks: &[u32]) {
        let width = pages.shape.block_size * pages.shape.kv_heads * pages.shape.head_dim;
        for &block in blocks {
            let range = block as usize * width..(block as usize + 1) * width;
            pages.keys[range.clone()].fill(f32::NAN);
            pages.values[range].fill(f32::NAN);
        }
    }

    #[cfg(test)]
    fn write(&self, buffer: &mut Vec<f32>, values: &[f32]) {
        buffer[..values.len()].copy_from_slice(values);
    }

    #[cfg(test)]
    fn read(&self, buffer: &Vec<f32>, count: usize) -> Vec<f32> {
        buffer[..count].to_vec()
    }

    #[cfg(test)]
    fn write_operand(&self, (operand, _): Target<'_, Self>, _width: usize, values: &[f32]) {
        self.write(operand, values);
    }

    fn read_operand(&self, operand: &Vec<f32>, rows: usize, width: usize) -> Vec<f32> {
        operand[..rows * width].to_vec()
    }
}
