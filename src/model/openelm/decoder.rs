//! The decoder, once for every backend.
//!
//! `[rows]` are the packed rows of a step (any mix of prefill and decode), `d` the model dimension, `q`/`kv` the widths of all query and
//! key heads of a layer, `f` its feed-forward width.

use super::config::OpenElmConfig;
use super::profile::{StepOp, StepProfile};
use super::weights::{WeightReader, WeightSource, check};
use crate::model::LoadError;
use crate::ops::{AttentionShape, Backend, KvType, MatrixRows, OpError, PackedBatch, PageShape, QkNorm, RowTasks, StepNeeds, WeightType};

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
    /// Longest context.
    positions: usize,
}

/// Activations of a step, allocated once.
pub struct Workspace<B: Backend> {
    /// The residual stream `[rows, d]`.
    hidden: B::Buffer,
    /// Its normalised copy `[rows, d]`.
    normed: B::Operand,
    /// `[rows, q + 2 kv]`.
    qkv: B::Buffer,
    /// `[rows, q]`.
    attended: B::Operand,
    /// `[rows, f]`.
    activated: B::Operand,
    /// Rows of `normed` whose logits are wanted, where not all are.
    chosen: B::Operand,
    /// Where the time went.
    profile: StepProfile,
}

impl<B: Backend> Workspace<B> {
    /// Where the time of the steps went.
    pub fn profile(&mut self) -> &mut StepProfile {
        &mut self.profile
    }
}

/// f32 values a row of the workspace takes.
pub(crate) fn workspace_values_per_row(config: &OpenElmConfig) -> usize {
    let widest = |width: fn(&OpenElmConfig, usize) -> usize| (0..config.layers.len()).map(|i| width(config, i)).max().unwrap_or(0);
    3 * config.model_dim
        + widest(|c, i| c.attention(i).qkv_width())
        + widest(|c, i| c.layers[i].q_heads * c.head_dim)
        + widest(|c, i| c.layers[i].ffn_dim)
}

/// What steps of at most `rows` rows need, with sequences of at most `positions` tokens.
pub(crate) fn step_needs(config: &OpenElmConfig, rows: usize, positions: usize) -> StepNeeds {
    let columns = if config.ffn_with_glu { 2 } else { 1 };
    StepNeeds {
        rows,
        positions,
        attention: (0..config.layers.len()).map(|layer| config.attention(layer)).collect(),
        widest_product: config.layers.iter().map(|layer| columns * layer.ffn_dim).max().unwrap_or(0),
        vocabulary: config.vocab_size,
    }
}

/// Sees the activations of a product before it: the layer (`None` is the head), which product, and what it reads.
pub(crate) type Observer<'a, B> = &'a mut dyn FnMut(Option<usize>, StepOp, &<B as Backend>::Operand);

impl<B: Backend> Decoder<B> {
    /// Checks the checkpoint of `source` against the config and takes its weights over. `positions` is the longest context served.
    ///
    /// # Errors
    /// [`LoadError`] naming the tensor that is missing, surplus, of the wrong shape or dtype.
    pub fn load(backend: B, config: OpenElmConfig, source: &WeightSource<'_>, positions: usize) -> Result<Self, LoadError> {
        check(&config, source.checkpoint)?;
        let reader = WeightReader { backend: &backend, source };
        let layers = (0..config.layers.len()).map(|i| load_layer(&reader, &config, i)).collect::<Result<_, _>>()?;
        let token_embeddings = reader.matrix("transformer.token_embeddings.weight", MatrixRows::Plain)?;
        let norm = reader.vector("transformer.norm.weight")?;
        let lm_head = if config.tied_head { None } else { Some(reader.matrix("lm_head.weight", MatrixRows::Plain)?) };
        let setup = |error: OpError| LoadError::Setup(error.to_string());
        let rope = backend.rope(positions, config.head_dim, config.rope_theta).map_err(setup)?;
        Ok(Self { backend, config, token_embeddings, layers, norm, lm_head, rope, positions })
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
        let weights = self.weight_types();
        let operand = |width: usize| self.backend.operand(rows, width, &weights);
        let d = self.config.model_dim;
        self.backend.reserve(&step_needs(&self.config, rows, self.positions))?;
        Ok(Workspace {
            hidden: self.backend.buffer(rows, d)?,
            normed: operand(d)?,
            qkv: self.backend.buffer(rows, widest(&|l| l.shape.qkv_width()))?,
            attended: operand(widest(&|l| l.shape.q_heads * l.shape.head_dim))?,
            activated: operand(widest(&|l| l.ffn_dim))?,
            chosen: operand(d)?,
            profile: StepProfile::default(),
        })
    }

    /// The matrix that gives logits.
    fn head(&self) -> &B::Matrix {
        self.lm_head.as_ref().unwrap_or(&self.token_embeddings)
    }

    /// How the matrices are stored that activations are multiplied with, each type once.
    fn weight_types(&self) -> Vec<WeightType> {
        let of_layers = self.layers.iter().flat_map(|layer| [&layer.qkv_proj, &layer.out_proj, &layer.proj_1, &layer.proj_2]);
        let mut types = Vec::new();
        for stored in of_layers.chain([self.head()]).map(|matrix| self.backend.stored_as(matrix)) {
            if !types.contains(&stored) {
                types.push(stored);
            }
        }
        types
    }

    /// Pages of all layers.
    ///
    /// # Errors
    /// [`OpError::Allocation`].
    pub fn pages(&self, num_blocks: usize, block_size: usize, stored: KvType) -> Result<Vec<B::Pages>, OpError> {
        let shape = |s: AttentionShape| PageShape { num_blocks, block_size, kv_heads: s.kv_heads, head_dim: s.head_dim, stored };
        self.layers.iter().map(|layer| self.backend.pages(shape(layer.shape))).collect()
    }

    /// Runs all layers over the rows of `batch`, writing their keys and values to `pages`; the normalised result stays in the workspace
    /// for [`Self::logits`].
    pub fn forward(&self, batch: &PackedBatch, pages: &mut [B::Pages], ws: &mut Workspace<B>) {
        self.forward_observed(batch, pages, ws, &mut |_, _, _| ());
    }

    /// [`Self::forward`], which shows the activations of each product to `observe`.
    pub(crate) fn forward_observed(&self, batch: &PackedBatch, pages: &mut [B::Pages], ws: &mut Workspace<B>, observe: Observer<'_, B>) {
        let (b, rows, eps) = (&self.backend, batch.rows(), self.config.norm_eps);
        // 1. Embedding: [rows] -> [rows, d]
        ws.profile.start();
        b.begin_step(batch);
        b.embed(&self.token_embeddings, batch, &mut ws.hidden);
        ws.profile.lap(StepOp::Embed);
        for (index, (layer, pages)) in self.layers.iter().zip(pages).enumerate() {
            // 2. Attention: [rows, d] -> [rows, q + 2 kv] -> [rows, q] -> [rows, d], added to the residual stream
            b.rms_norm(&ws.hidden, (&layer.attn_norm, eps), rows, (&mut ws.normed, b.stored_as(&layer.qkv_proj)));
            ws.profile.lap(StepOp::RmsNorm);
            observe(Some(index), StepOp::QkvProj, &ws.normed);
            b.linear(&layer.qkv_proj, &ws.normed, rows, &mut ws.qkv);
            ws.profile.lap(StepOp::QkvProj);
            let norms = layer.qk_norm.as_ref().map(|(q, k)| QkNorm { q, k, eps });
            b.qk_norm_rope_store(&mut ws.qkv, (layer.shape, norms), &self.rope, batch, pages);
            ws.profile.lap(StepOp::QkNormRopeStore);
            b.paged_attention(&ws.qkv, layer.shape, batch, pages, (&mut ws.attended, b.stored_as(&layer.out_proj)));
            ws.profile.lap(StepOp::Attention);
            observe(Some(index), StepOp::OutProj, &ws.attended);
            b.linear_add(&layer.out_proj, &ws.attended, rows, &mut ws.hidden);
            ws.profile.lap(StepOp::OutProj);
            // 3. Feed-forward: [rows, d] -> [rows, f] -> [rows, d], added too
            b.rms_norm(&ws.hidden, (&layer.ffn_norm, eps), rows, (&mut ws.normed, b.stored_as(&layer.proj_1)));
            ws.profile.lap(StepOp::RmsNorm);
            observe(Some(index), StepOp::Proj1, &ws.normed);
            let activated = (&mut ws.activated, b.stored_as(&layer.proj_2));
            if self.config.ffn_with_glu {
                b.linear_swiglu(&layer.proj_1, &ws.normed, rows, activated);
            } else {
                b.linear_silu(&layer.proj_1, &ws.normed, rows, activated);
            }
            ws.profile.lap(StepOp::Proj1);
            observe(Some(index), StepOp::Proj2, &ws.activated);
            b.linear_add(&layer.proj_2, &ws.activated, rows, &mut ws.hidden);
            ws.profile.lap(StepOp::Proj2);
        }
        // 4. Final norm
        b.rms_norm(&ws.hidden, (&self.norm, eps), rows, (&mut ws.normed, b.stored_as(self.head())));
        ws.profile.lap(StepOp::RmsNorm);
        b.end_forward();
        observe(None, StepOp::Head, &ws.normed);
    }

    /// Logits of chosen rows of the last [`Self::forward`]: `[chosen.len(), vocab]`.
    pub fn logits(&self, ws: &mut Workspace<B>, chosen: &[u32], out: &mut [f32]) {
        ws.profile.start();
        self.backend.logits(self.head(), &ws.normed, (chosen, &mut ws.chosen), out);
        ws.profile.lap(StepOp::Head);
    }

    /// Answers tasks about rows of the last [`Self::forward`], on a backend that does.
    pub fn answer(&self, ws: &mut Workspace<B>, tasks: &mut RowTasks) {
        self.backend.answer(self.head(), &ws.normed, &mut ws.chosen, tasks);
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
        qkv_proj: reader.matrix(&name("attn.qkv_proj"), MatrixRows::Plain)?,
        qk_norm,
        out_proj: reader.matrix(&name("attn.out_proj"), MatrixRows::Plain)?,
        ffn_norm: reader.vector(&name("ffn_norm"))?,
        proj_1: reader.matrix(&name("ffn.proj_1"), if config.ffn_with_glu { MatrixRows::GateUp } else { MatrixRows::Plain })?,
        proj_2: reader.matrix(&name("ffn.proj_2"), MatrixRows::Plain)?,
    })
}
