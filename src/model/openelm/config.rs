//! `config.json`: every rule by which the shapes of the layers follow from it.
//!
//! Source: Apple's published `configuration_openelm.py` (layer-wise scaling, `make_divisible`) and the published configs.

use crate::model::LoadError;
use crate::model::files::Document;
use crate::model::json::JsonFile;
use crate::ops::AttentionShape;
use crate::ops::cpu::MAX_HEAD_DIM;

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
        if layers > 1024 {
            return Err(json.wrong("num_transformer_layers", layers.to_string(), "at most 1024"));
        }
        let model_dim = json.count_or("model_dim", 2048)?;
        let head_dim = json.count_or("head_dim", 128)?;
        if !head_dim.is_multiple_of(16) || head_dim > MAX_HEAD_DIM {
            return Err(json.wrong("head_dim", head_dim.to_string(), format!("a multiple of 16, at most {MAX_HEAD_DIM}")));
        }
        let vocab_size = json.count_or("vocab_size", 32_000)?;
        let rope_theta = json.number("rope_freq_constant")?.unwrap_or(10_000.0);
        if rope_theta <= 1.0 {
            return Err(json.wrong("rope_freq_constant", rope_theta.to_string(), "a number above 1"));
        }
        let bos = json.token_ids("bos_token_id")?;
        let eos_token_ids = json.token_ids("eos_token_id")?.unwrap_or_default();
        if let Some(&id) = bos.iter().flatten().chain(&eos_token_ids).find(|&&id| id as usize >= vocab_size) {
            return Err(json.wrong("bos_token_id / eos_token_id", id.to_string(), format!("below vocab_size, {vocab_size}")));
        }
        Ok(Self {
            model_dim,
            head_dim,
            vocab_size,
            max_context_length: json.count_or("max_context_length", 2048)?,
            rope_theta,
            norm_eps: 1e-6,
            normalize_qk: json.flag_or("normalize_qk_projections", false)?,
            ffn_with_glu: json.flag_or("ffn_with_glu", true)?,
            tied_head: json.flag_or("share_input_output_layers", false)?,
            bos_token_id: bos.and_then(|ids| ids.first().copied()),
            eos_token_ids,
            layers: layer_shapes(&json, layers, model_dim, head_dim)?,
        })
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

    /// Values of K and V that one token keeps over all layers.
    pub fn kv_values_per_token(&self) -> usize {
        self.layers.iter().map(|layer| 2 * layer.kv_heads * self.head_dim).sum()
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
    let mut shapes = Vec::with_capacity(layers);
    for i in 0..layers {
        let (q, kv) = (q_heads[i], kv_heads[i]);
        if q % kv != 0 {
            let wanted = format!("a divisor of num_query_heads[{i}], which is {q}");
            return Err(json.wrong(&format!("num_kv_heads[{i}]"), kv.to_string(), wanted));
        }
        shapes.push(LayerShape { q_heads: q, kv_heads: kv, ffn_dim: make_divisible(multipliers[i] * model_dim as f64, divisor) });
    }
    Ok(shapes)
}

/// `value` rounded to a multiple of `divisor`, ties up, never below `divisor`, and one step further up where rounding down would lose more
/// than a tenth.
fn make_divisible(value: f64, divisor: usize) -> usize {
    let rounded = ((value + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
    if (rounded as f64) < 0.9 * value { rounded + divisor } else { rounded }
}
