//! The decoder, once for every backend.
//!
//! `[rows]` are the packed rows of a step (any mix of prefill and decode), `d` the model dimension, `q`/`kv` the widths of all query and
//! key heads of a layer, `f` its feed-forward width.

use super::config::OpenElmConfig;
use super::weights::{WeightReader, WeightSource, check};
use crate::model::LoadError;
use crate::ops::{AttentionShape, Backend, DType, OpError, PackedBatch, PageShape, QkNorm};

/// One layer's weights; names as in the checkpoint.
struct Layer<B: Backend> {
    shape: AttentionShape,
    ffn_dim: usize,
    attn_norm: B::Vector,
    qkv_proj: B::Matrix,
    /// Gains of queries and keys.
    qk_norm: Option<(B::Vector, B::Vector)>,
    out_proj: B::Matrix,
    ffn_norm: B::Vector,
    proj_1: B::Matrix,
    proj_2: B::Matrix,
}

/// A loaded model.
pub struct Decoder<B: Backend> {
    backend: B,
    config: OpenElmConfig,
    token_embeddings: B::Matrix,
    layers: Vec<Layer<B>>,
    norm: B::Vector,
    /// `None` = the embedding is the head.
    lm_head: Option<B::Matrix>,
    rope: B::Rope,
}

/// Activations of a step, allocated once.
pub struct Workspace<B: Backend> {
    /// The residual stream `[rows, d]`.
    hidden: B::Buffer,
    /// Its normalised copy `[rows, d]`.
    normed: B::Buffer,
    /// `[rows, q + 2 kv]`.
    qkv: B::Buffer,
    /// `[rows, q]`.
    attended: B::Buffer,
    /// What a block adds to the residual stream `[rows, d]`.
    delta: B::Buffer,
    /// `[rows, 2 f]`.
    gate_up: B::Buffer,
    /// `[rows, f]`.
    activated: B::Buffer,
}

/// f32 values a row of the workspace takes.
pub(crate) fn workspace_values_per_row(config: &OpenElmConfig) -> usize {
    let widest = |width: fn(&OpenElmConfig, usize) -> usize| (0..config.layers.len()).map(|i| width(config, i)).max().unwrap_or(0);
    3 * config.model_dim
        + widest(|c, i| c.attention(i).qkv_width())
        + widest(|c, i| c.layers[i].q_heads * c.head_dim)
        + 3 * widest(|c, i| c.layers[i].ffn_dim)
}

impl<B: Backend> Decoder<B> {
    /// Checks the checkpoint of `source` against the config and takes its weights over. `positions` is the longest context served.
    ///
    /// # Errors
    /// [`LoadError`] naming the tensor that is missing, surplus, of the wrong shape or dtype.
    pub fn load(backend: B, config: OpenElmConfig, source: &WeightSource<'_>, positions: usize) -> Result<Self, LoadError> {
        check(&config, source.checkpoint)?;
        let reader = WeightReader { backend: &backend, source };
        let layers = (0..config.layers.len()).map(|i| load_layer(&reader, &config, i)).collect::<Result<_, _>>()?;
        let token_embeddings = reader.matrix("transformer.token_embeddings.weight")?;
        let norm = reader.vector("transformer.norm.weight")?;
        let lm_head = if config.tied_head { None } else { Some(reader.matrix("lm_head.weight")?) };
        let rope = backend.rope(positions, config.head_dim, config.rope_theta);
        Ok(Self { backend, config, token_embeddings, layers, norm, lm_head, rope })
    }

    /// The model's config.
    pub fn config(&self) -> &OpenElmConfig {
        &self.config
    }

    /// What computes.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Activations for steps of at most `rows` rows.
    ///
    /// # Errors
    /// [`OpError::Allocation`].
    pub fn workspace(&self, rows: usize) -> Result<Workspace<B>, OpError> {
        let widest = |width: &dyn Fn(&Layer<B>) -> usize| self.layers.iter().map(width).max().unwrap_or(0);
        let buffer = |width: usize| self.backend.buffer(rows, width);
        let (d, ffn) = (self.config.model_dim, widest(&|l| l.ffn_dim));
        Ok(Workspace {
            hidden: buffer(d)?,
            normed: buffer(d)?,
            qkv: buffer(widest(&|l| l.shape.qkv_width()))?,
            attended: buffer(widest(&|l| l.shape.q_heads * l.shape.head_dim))?,
            delta: buffer(d)?,
            gate_up: buffer(2 * ffn)?,
            activated: buffer(ffn)?,
        })
    }

    /// Pages of all layers.
    ///
    /// # Errors
    /// [`OpError::Allocation`].
    pub fn pages(&self, num_blocks: usize, block_size: usize, dtype: DType) -> Result<Vec<B::Pages>, OpError> {
        let shape = |s: AttentionShape| PageShape { num_blocks, block_size, kv_heads: s.kv_heads, head_dim: s.head_dim, dtype };
        self.layers.iter().map(|layer| self.backend.pages(shape(layer.shape))).collect()
    }

    /// Runs all layers over the rows of `batch`, writing their keys and values to `pages`; the normalised result stays in the workspace
    /// for [`Self::logits`].
    pub fn forward(&self, batch: &PackedBatch, pages: &mut [B::Pages], ws: &mut Workspace<B>) {
        let (b, rows, eps) = (&self.backend, batch.rows(), self.config.norm_eps);
        // 1. Embedding: [rows] -> [rows, d]
        b.embed(&self.token_embeddings, batch, &mut ws.hidden);
        for (index, (layer, pages)) in self.layers.iter().zip(pages).enumerate() {
            // 2. Norm before attention; from the second layer on together with the residual of the one before.
            if index == 0 {
                b.rms_norm(&ws.hidden, &layer.attn_norm, eps, rows, &mut ws.normed);
            } else {
                b.add_rms_norm(&mut ws.hidden, &ws.delta, (&layer.attn_norm, eps), rows, &mut ws.normed);
            }
            // 3. Attention: [rows, d] -> [rows, q + 2 kv] -> [rows, q] -> [rows, d]
            b.linear(&layer.qkv_proj, &ws.normed, rows, &mut ws.qkv);
            let norms = layer.qk_norm.as_ref().map(|(q, k)| QkNorm { q, k, eps });
            b.qk_norm_rope_store(&mut ws.qkv, (layer.shape, norms), &self.rope, batch, pages);
            b.paged_attention(&ws.qkv, layer.shape, batch, pages, &mut ws.attended);
            b.linear(&layer.out_proj, &ws.attended, rows, &mut ws.delta);
            // 4. Residual and norm before the feed-forward layer
            b.add_rms_norm(&mut ws.hidden, &ws.delta, (&layer.ffn_norm, eps), rows, &mut ws.normed);
            // 5. Feed-forward: [rows, d] -> [rows, 2 f] -> [rows, f] -> [rows, d]
            b.linear(&layer.proj_1, &ws.normed, rows, &mut ws.gate_up);
            if self.config.ffn_with_glu {
                b.swiglu(&ws.gate_up, layer.ffn_dim, rows, &mut ws.activated);
            } else {
                b.silu(&ws.gate_up, layer.ffn_dim, rows, &mut ws.activated);
            }
            b.linear(&layer.proj_2, &ws.activated, rows, &mut ws.delta);
        }
        // 6. Last residual and final norm
        b.add_rms_norm(&mut ws.hidden, &ws.delta, (&self.norm, eps), rows, &mut ws.normed);
    }

    /// Logits of chosen rows of the last [`Self::forward`]: `[chosen.len(), vocab]`.
    pub fn logits(&self, ws: &Workspace<B>, chosen: &[u32], out: &mut [f32]) {
        let head = self.lm_head.as_ref().unwrap_or(&self.token_embeddings);
        self.backend.logits(head, &ws.normed, chosen, out);
    }
}

fn load_layer<B: Backend>(reader: &WeightReader<'_, B>, config: &OpenElmConfig, index: usize) -> Result<Layer<B>, LoadError> {
    let name = |part: &str| format!("transformer.layers.{index}.{part}.weight");
    let qk_norm =
        if config.normalize_qk { Some((reader.vector(&name("attn.q_norm"))?, reader.vector(&name("attn.k_norm"))?)) } else { None };
    Ok(Layer {
        shape: config.attention(index),
        ffn_dim: config.layers[index].ffn_dim,
        attn_norm: reader.vector(&name("attn_norm"))?,
        qkv_proj: reader.matrix(&name("attn.qkv_proj"))?,
        qk_norm,
        out_proj: reader.matrix(&name("attn.out_proj"))?,
        ffn_norm: reader.vector(&name("ffn_norm"))?,
        proj_1: reader.matrix(&name("ffn.proj_1"))?,
        proj_2: reader.matrix(&name("ffn.proj_2"))?,
    })
}
