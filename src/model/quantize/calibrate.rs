//! What flows into each matrix while the model reads a text, and how its inputs go together: their Gram matrix, the sum of `x x^T` over all rows `x`.
//!
//! An error `e` in the weights of an output moves it by `e · x`, over all rows by `e^T (sum x x^T) e` in squares: what `compensate` makes small.

use super::QuantizeError;
use crate::generation::TokenId;
use crate::model::openelm::{Decoder, OpenElmConfig, StepOp, WeightSource};
use crate::model::{LoadProgress, ModelFiles, Storage};
use crate::ops::cpu::CpuBackend;
use crate::ops::{ATTENTION_TILE, Backend, DType, PackedBatch};
use multiversion::multiversion;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Inputs of a matrix that are seen together: a Gram matrix of all would take too much memory where a matrix has many. A multiple of 32.
const SEGMENT: usize = 1024;

/// Rows of a Gram matrix that are summed at once, so that activations are read less often.
const GRAM_ROWS: usize = 4;

/// Gram matrices of the inputs of matrices, by the matrix's name in a Hugging Face checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration(BTreeMap<String, Vec<Gram>>);

/// The Gram matrix of some neighbouring inputs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gram {
    pub(super) inputs: Range<usize>,
    /// `[inputs, inputs]`, of which the upper triangle is set.
    pub(super) sums: Vec<f32>,
}

impl Calibration {
    /// Lets the model read `windows` in f32 on `backend`, each from its beginning. No window is longer than `longest`.
    ///
    /// # Errors
    /// [`QuantizeError::Load`], [`QuantizeError::Memory`].
    pub fn measure(
        files: &ModelFiles,
        backend: CpuBackend,
        (windows, longest): (&[Vec<TokenId>], usize),
        mut done: impl FnMut(usize),
    ) -> Result<Self, QuantizeError> {
        let progress = LoadProgress::default();
        let source =
            WeightSource { checkpoint: &files.checkpoint, storage: Storage::widened(), packed: None, progress: &progress, taken: None };
        let decoder = Decoder::load(backend, files.config()?, &source, longest)?;
        let blocks = longest.div_ceil(ATTENTION_TILE);
        let mut pages = decoder.pages(blocks, ATTENTION_TILE, DType::F32.into())?;
        let mut workspace = decoder.workspace(longest)?;
        let (mut batch, mut grams) = (PackedBatch::new(ATTENTION_TILE), BTreeMap::new());
        for (index, window) in windows.iter().enumerate() {
            batch.clear();
            batch.push(window, 0, 0..blocks as u32);
            decoder.forward_observed(&batch, &mut pages, &mut workspace, &mut |layer, product, operand| {
                let (name, width) = matrix(decoder.config(), layer, product);
                let values = decoder.backend().read_operand(operand, window.len(), width);
                let grams: &mut Vec<Gram> = grams.entry(name).or_insert_with(|| segments(width));
                grams.iter_mut().for_each(|gram| gram.add(&values, width, decoder.backend()));
            });
            done(index + 1);
        }
        Ok(Self(grams))
    }

    /// Those of the inputs of matrix `name`, in ascending order; `None` if nothing was multiplied with it.
    pub(super) fn of(&self, name: &str) -> Option<&[Gram]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

impl Gram {
    fn new(inputs: Range<usize>) -> Self {
        Self { sums: vec![0.0; inputs.len() * inputs.len()], inputs }
    }

    /// Adds rows of `width` activations. The order of additions depends on nothing but the rows.
    fn add(&mut self, values: &[f32], width: usize, backend: &impl Backend) {
        let count = self.inputs.len();
        let segment: Vec<&[f32]> = values.chunks_exact(width).map(|row| &row[self.inputs.clone()]).collect();
        // Each is locked once, by the thread whose turn it is.
        let parts: Vec<Mutex<&mut [f32]>> = self.sums.chunks_mut(GRAM_ROWS * count).map(Mutex::new).collect();
        backend.for_each(parts.len(), &|index| {
            let mut sums = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
            add_products(&segment, index * GRAM_ROWS, &mut sums);
        });
    }
}

/// `sums[i][j] += x[first + i] * x[j]` for `j` from `first` on, over all rows `x`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn add_products(rows: &[&[f32]], first: usize, sums: &mut [f32]) {
    for x in rows {
        let of_first = &x[first..];
        for (sums, factor) in sums.chunks_exact_mut(x.len()).zip(of_first) {
            for (sum, value) in sums[first..].iter_mut().zip(of_first) {
                *sum += factor * value;
            }
        }
    }
}

/// Empty Gram matrices of a matrix with `width` inputs.
fn segments(width: usize) -> Vec<Gram> {
    (0..width).step_by(SEGMENT).map(|start| Gram::new(start..width.min(start + SEGMENT))).collect()
}

/// The name of a matrix and its number of inputs.
fn matrix(config: &OpenElmConfig, layer: Option<usize>, product: StepOp) -> (String, usize) {
    let Some(index) = layer else {
        let name = if config.tied_head { "transformer.token_embeddings.weight" } else { "lm_head.weight" };
        return (name.to_owned(), config.model_dim);
    };
    let shape = &config.layers[index];
    let (part, inputs) = match product {
        StepOp::QkvProj => ("attn.qkv_proj", config.model_dim),
        StepOp::OutProj => ("attn.out_proj", shape.q_heads * config.head_dim),
        StepOp::Proj1 => ("ffn.proj_1", config.model_dim),
        StepOp::Proj2 => ("ffn.proj_2", shape.ffn_dim),
        other => unreachable!("{other:?} is no product of a layer"),
    };
    (format!("transformer.layers.{index}.{part}.weight"), inputs)
}
