//! `config.json`: every rule by which the shapes of the layers follow from it.
//!
//! Source: Apple's published `configuration_openelm.py` (layer-wise scaling, `make_divisible`) and the published configs.

use crate::model::LoadError;
use crate::model::files::Document;
use crate::model::json::JsonFile;
use crate::ops::cpu::MAX_HEAD_DIM;
use crate::ops::{AttentionShape, KvType};

/// Most layers of a model.
pub(crate) const MAX_LAYERS: usize = 1024;

/// A value that no model can have, whatever file it comes from.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) what: Quantity,
    pub(crate) found: String,
    pub(crate) wanted: String,
}

/// Values that [`OpenElmConfig::check`] looks at; each kind of file has its own key for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantity {
    HeadDim,
    RopeTheta,
    NormEps,
    TokenIds,
    /// Of this layer.
    KvHeads(usize),
}

/// One layer's widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Query heads.
    pub q_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of the feed-forward layer.
    pub ffn_dim: usize,
}

/// The model, all derived values filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenElmConfig {
    /// Width of the residual stream.
    pub model_dim: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions the model was trained on.
    pub max_context_length: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in every RMSNorm; OpenELM's code has it fixed.
    pub norm_eps: f32,
    /// Whether queries and keys are normalised per head.
    pub normalize_qk: bool,
    /// Whether the feed-forward layer has a gate.
    pub ffn_with_glu: bool,
    /// Whether the embedding is the head too.
    pub tied_head: bool,
    /// First token of a sequence.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    /// The layers.
    pub layers: Vec<LayerShape>,
}

impl OpenElmConfig {
    /// Parses `config.json`.
    ///
    /// # Errors
    /// [`LoadError`] naming the key, what it holds and what would be right.
    pub fn parse(document: &Document) -> Result<Self, LoadError> {
        let json = JsonFile::parse(&document.name, &document.bytes)?;
        check_architecture(&json)?;
        let layers = json.count_or("num_transformer_layers", 12)?;
        if layers > MAX_LAYERS {
            return Err(json.wrong("num_transformer_layers", layers.to_string(), format!("at most {MAX_LAYERS}")));
        }
        let model_dim = json.count_or("model_dim", 2048)?;
        let head_dim = json.count_or("head_dim", 128)?;
        let bos = json.token_ids("bos_token_id")?;
        let config = Self {
            model_dim,
            head_dim,
            vocab_size: json.count_or("vocab_size", 32_000)?,
            max_context_length: json.count_or("max_context_length", 2048)?,
            rope_theta: json.number("rope_freq_constant")?.unwrap_or(10_000.0),
            norm_eps: 1e-6,
            normalize_qk: json.flag_or("normalize_qk_projections", false)?,
            ffn_with_glu: json.flag_or("ffn_with_glu", true)?,
            tied_head: json.flag_or("share_input_output_layers", false)?,
            bos_token_id: bos.and_then(|ids| ids.first().copied()),
            eos_token_ids: json.token_ids("eos_token_id")?.unwrap_or_default(),
            layers: layer_shapes(&json, layers, model_dim, head_dim)?,
        };
        config.check().map_err(|unusable| {
            let key = match unusable.what {
                Quantity::HeadDim => "head_dim".to_string(),
                Quantity::RopeTheta => "rope_freq_constant".to_string(),
                Quantity::NormEps => "rms_norm_eps".to_string(), // fixed, so never wrong
                Quantity::TokenIds => "bos_token_id / eos_token_id".to_string(),
                Quantity::KvHeads(layer) => format!("num_kv_heads[{layer}]"),
            };
            json.wrong(&key, unusable.found, unusable.wanted)
        })?;
        Ok(config)
    }

    /// Checks what holds for every model, whatever file it comes from.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub(crate) fn check(&self) -> Result<(), Unusable> {
        let wrong = |what, found: String, wanted: String| Err(Unusable { what, found, wanted });
        if !self.head_dim.is_multiple_of(16) || self.head_dim > MAX_HEAD_DIM {
            return wrong(Quantity::HeadDim, self.head_dim.to_string(), format!("a multiple of 16, at most {MAX_HEAD_DIM}"));
        }
        if !self.rope_theta.is_finite() || self.rope_theta <= 1.0 {
            return wrong(Quantity::RopeTheta, self.rope_theta.to_string(), "a number above 1".to_string());
        }
        if !self.norm_eps.is_finite() || self.norm_eps <= 0.0 {
            return wrong(Quantity::NormEps, self.norm_eps.to_string(), "a number above 0".to_string());
        }
        if let Some(id) = self.bos_token_id.iter().chain(&self.eos_token_ids).find(|&&id| id as usize >= self.vocab_size) {
            return wrong(Quantity::TokenIds, id.to_string(), format!("below vocab_size, {}", self.vocab_size));
        }
        let uneven = self.layers.iter().position(|layer| layer.q_heads % layer.kv_heads != 0);
        if let Some((index, layer)) = uneven.map(|index| (index, self.layers[index])) {
            return wrong(Quantity::KvHeads(index), layer.kv_heads.to_string(), format!("a divisor of the query heads, {}", layer.q_heads));
        }
        Ok(())
    }

    /// Attention heads of layer `index`.
    pub fn attention(&self, index: usize) -> AttentionShape {
        let layer = self.layers[index];
        AttentionShape { q_heads: layer.q_heads, kv_heads: layer.kv_heads, head_dim: self.head_dim }
    }

    /// Names and shapes of all tensors, each with the keys that the shape follows from.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, &'static str)> {
        let (d, hd) = (self.model_dim, self.head_dim);
        let mut list = vec![("transformer.token_embeddings.weight".to_string(), vec![self.vocab_size, d], "vocab_size, model_dim")];
        for (i, layer) in self.layers.iter().enumerate() {
            let mut add = |name: &str, shape: Vec<usize>, key| list.push((format!("transformer.layers.{i}.{name}.weight"), shape, key));
            let (q, kv, f) = (layer.q_heads * hd, layer.kv_heads * hd, layer.ffn_dim);
            add("attn_norm", vec![d], "model_dim");
            add("attn.qkv_proj", vec![q + 2 * kv, d], "num_query_heads, num_kv_heads or qkv_multipliers, head_dim, model_dim");
            if self.normalize_qk {
                add("attn.q_norm", vec![hd], "head_dim");
                add("attn.k_norm", vec![hd], "head_dim");
            }
            add("attn.out_proj", vec![d, q], "model_dim, num_query_heads or qkv_multipliers, head_dim");
            add("ffn_norm", vec![d], "model_dim");
            let rows = if self.ffn_with_glu { 2 * f } else { f };
            add("ffn.proj_1", vec![rows, d], "ffn_multipliers, ffn_dim_divisor, ffn_with_glu, model_dim");
            add("ffn.proj_2", vec![d, f], "model_dim, ffn_multipliers, ffn_dim_divisor");
        }
        list.push(("transformer.norm.weight".to_string(), vec![d], "model_dim"));
        if !self.tied_head {
            list.push(("lm_head.weight".to_string(), vec![self.vocab_size, d], "share_input_output_layers false, vocab_size, model_dim"));
        }
        list
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape, _)| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// Parameters of the matrices that every row of a step is multiplied with: those of all layers, without embedding and head.
    pub fn layer_matrix_parameters(&self) -> u64 {
        let tensors = self.tensors();
        let matrices = tensors.iter().filter(|(name, shape, _)| shape.len() == 2 && name.starts_with("transformer.layers."));
        matrices.map(|(_, shape, _)| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// Parameters of the head, with which only rows are multiplied whose logits are wanted.
    pub fn head_parameters(&self) -> u64 {
        (self.vocab_size * self.model_dim) as u64
    }

    /// Bytes of K and V that one token keeps over all layers.
    pub fn kv_bytes_per_token(&self, stored: KvType) -> usize {
        self.layers.iter().map(|layer| layer.kv_heads * stored.head_bytes(self.head_dim)).sum()
    }
}

fn check_architecture(json: &JsonFile) -> Result<(), LoadError> {
    if let Some(kind) = json.text("model_type")?.filter(|kind| kind != "openelm") {
        return Err(json.wrong("model_type", format!("\"{kind}\""), "\"openelm\""));
    }
    if let Some(list) = json.texts("architectures")?.filter(|list| !list.iter().any(|a| a == "OpenELMForCausalLM")) {
        return Err(json.wrong("architectures", format!("{list:?}"), "[\"OpenELMForCausalLM\"]"));
    }
    if let Some(name) = json.text("activation_fn_name")?.filter(|name| name != "swish" && name != "silu") {
        return Err(json.wrong("activation_fn_name", format!("\"{name}\""), "\"swish\", the only activation OpenELM uses"));
    }
    if let Some(name) = json.text("normalization_layer_name")?.filter(|name| name != "rms_norm") {
        return Err(json.wrong("normalization_layer_name", format!("\"{name}\""), "\"rms_norm\""));
    }
    // What would change every answer and is not computed here must not be passed over.
    for key in ["rope_scaling", "quantization", "quantization_config"] {
        if let Some(value) = json.get(key) {
            return Err(json.wrong(key, value.to_string(), "absent or null: it is not supported"));
        }
    }
    Ok(())
}

fn layer_shapes(json: &JsonFile, layers: usize, model_dim: usize, head_dim: usize) -> Result<Vec<LayerShape>, LoadError> {
    let group = json.count_or("num_gqa_groups", 1)?;
    let heads = || -> Result<Vec<usize>, LoadError> {
        let multipliers = json.multipliers("qkv_multipliers", layers, 1.0)?;
        Ok(multipliers.iter().map(|m| make_divisible(model_dim as f64 * m, head_dim * group) / head_dim).collect())
    };
    let q_heads = json.counts("num_query_heads", layers)?.map_or_else(heads, Ok)?;
    let kv_heads = json.counts("num_kv_heads", layers)?.unwrap_or_else(|| q_heads.iter().map(|q| (q / group).max(1)).collect());
    let divisor = json.count_or("ffn_dim_divisor", 256)?;
    let multipliers = json.multipliers("ffn_multipliers", layers, 4.0)?;
    let shape = |((q_heads, kv_heads), multiplier): ((usize, usize), &f64)| LayerShape {
        q_heads,
        kv_heads,
        ffn_dim: make_divisible(multiplier * model_dim as f64, divisor),
    };
    Ok(q_heads.into_iter().zip(kv_heads).zip(&multipliers).map(shape).collect())
}

/// `value` rounded to a multiple of `divisor`, ties up, never below `divisor`, and one step further up where rounding down would lose more
/// than a tenth.
fn make_divisible(value: f64, divisor: usize) -> usize {
    let rounded = ((value + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
    if (rounded as f64) < 0.9 * value { rounded + divisor } else { rounded }
}
