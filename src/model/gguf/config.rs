//! From metadata to the model's configuration, and what must not be passed over because it would change every answer.

use super::GgufError;
use super::file::Gguf;
use super::layout::Architecture;
use super::value::Value;
use crate::model::openelm::{LayerShape, MAX_LAYERS, OpenElmConfig, Quantity};

/// Keys behind the architecture's name that are read.
const READ: &[&str] = &[
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size", // the rows of the embedding tell it
];

/// Keys that change the computation unless they have this value.
const NEUTRAL: &[(&str, Neutral)] = &[
    ("rope.scaling.type", Neutral::Text("none")),
    ("rope.scaling.factor", Neutral::Number(1.0)),
    ("rope.scaling.attn_factor", Neutral::Number(1.0)),
    ("rope.scaling.original_context_length", Neutral::Any), // without a type or factor it scales nothing
    ("rope.scaling.finetuned", Neutral::Any),
    ("rope.scale_linear", Neutral::Number(1.0)),
    ("expert_count", Neutral::Number(0.0)),
    ("expert_used_count", Neutral::Number(0.0)),
    ("attention.sliding_window", Neutral::Number(0.0)),
    ("attention.causal", Neutral::Flag(true)),
    ("attention.clamp_kqv", Neutral::Number(0.0)),
    ("attention.max_alibi_bias", Neutral::Number(0.0)),
    ("use_parallel_residual", Neutral::Flag(false)),
    ("logit_scale", Neutral::Number(1.0)),
    ("embedding_scale", Neutral::Number(1.0)),
    ("residual_scale", Neutral::Number(1.0)),
    ("attn_logit_softcapping", Neutral::Number(0.0)),
    ("final_logit_softcapping", Neutral::Number(0.0)),
];

/// Beginnings of keys that always change the computation where they are not in [`NEUTRAL`].
const REFUSED: &[&str] = &["rope.scaling.", "attention.scale", "attention.sliding_window", "expert_"];

/// A value that changes nothing.
enum Neutral {
    Any,
    Number(f64),
    Flag(bool),
    Text(&'static str),
}

impl Neutral {
    fn holds(&self, value: &Value<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Number(number) => value.as_f64() == Some(*number),
            Self::Flag(flag) => *value == Value::Bool(*flag),
            Self::Text(text) => *value == Value::Text(text.as_bytes()),
        }
    }
}

impl std::fmt::Display for Neutral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// Keys of an architecture.
struct Keys<'g, 'a> {
    gguf: &'g Gguf<'a>,
    architecture: Architecture,
}

impl Keys<'_, '_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name())
    }

    fn needed(&self, name: &str) -> Result<usize, GgufError> {
        self.gguf.needed_count(&self.key(name))
    }

    fn counts(&self, name: &str, length: usize) -> Result<Option<Vec<usize>>, GgufError> {
        self.gguf.counts(&self.key(name), length)
    }

    fn needed_counts(&self, name: &str, length: usize) -> Result<Vec<usize>, GgufError> {
        self.counts(name, length)?.ok_or_else(|| self.wrong(name, "a whole number above 0, or an array with one for each layer"))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, GgufError> {
        self.gguf.number(&self.key(name))
    }

    fn wrong(&self, name: &str, wanted: impl Into<String>) -> GgufError {
        self.gguf.wrong(&self.key(name), wanted)
    }
}

/// The model that the metadata and the tensors describe.
///
/// # Errors
/// The first key that cannot be served.
pub(super) fn read(gguf: &Gguf<'_>) -> Result<(Architecture, OpenElmConfig), GgufError> {
    let keys = Keys { gguf, architecture: architecture(gguf)? };
    refuse_what_is_not_computed(&keys)?;
    let layers = keys.needed("block_count")?;
    if layers > MAX_LAYERS {
        return Err(keys.wrong("block_count", format!("at most {MAX_LAYERS}")));
    }
    let layers = layer_shapes(&keys, layers)?;
    let model_dim = keys.needed("embedding_length")?;
    let head_dim = head_dim(&keys, model_dim, layers[0].q_heads)?;
    let norm_eps = match (keys.number("attention.layer_norm_rms_epsilon")?, keys.architecture) {
        (Some(eps), _) => eps as f32,
        (None, Architecture::OpenElm) => 1e-6, // Apple's code has it fixed
        (None, Architecture::Llama) => return Err(keys.wrong("attention.layer_norm_rms_epsilon", "a number above 0")),
    };
    let id = |name: &str| gguf.token_id(&format!("tokenizer.ggml.{name}_token_id"));
    let mut eos_token_ids = Vec::new();
    for id in [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten() {
        if !eos_token_ids.contains(&id) {
            eos_token_ids.push(id);
        }
    }
    let config = OpenElmConfig {
        model_dim,
        head_dim,
        vocab_size: vocab_size(gguf, model_dim)?,
        max_context_length: keys.needed("context_length")?,
        rope_theta: keys.number("rope.freq_base")?.unwrap_or(10_000.0),
        norm_eps,
        normalize_qk: keys.architecture == Architecture::OpenElm && gguf.tensors.contains_key("blk.0.attn_q_norm.weight"),
        ffn_with_glu: true,
        tied_head: !gguf.tensors.contains_key("output.weight"),
        bos_token_id: id("bos")?,
        eos_token_ids,
        layers,
    };
    check(&keys, &config)?;
    Ok((keys.architecture, config))
}

fn architecture(gguf: &Gguf<'_>) -> Result<Architecture, GgufError> {
    match gguf.text("general.architecture")? {
        Some("openelm") => Ok(Architecture::OpenElm),
        Some("llama") => Ok(Architecture::Llama),
        Some(other) => Err(GgufError::Architecture { found: super::error::show(other) }),
        None => Err(gguf.wrong("general.architecture", "\"openelm\" or \"llama\", the two that are served")),
    }
}

fn refuse_what_is_not_computed(keys: &Keys<'_, '_>) -> Result<(), GgufError> {
    let prefix = keys.key("");
    for (key, value) in &keys.gguf.metadata {
        let Some(name) = key.strip_prefix(prefix.as_str()) else { continue };
        match NEUTRAL.iter().find(|(neutral, _)| *neutral == name) {
            Some((_, neutral)) if !neutral.holds(value) => {
                return Err(keys.wrong(name, format!("{neutral}, or the key absent: it is not supported")));
            }
            Some(_) => {}
            None if REFUSED.iter().any(|beginning| name.starts_with(beginning)) => {
                return Err(keys.wrong(name, "the key absent: it is not supported"));
            }
            None if !READ.contains(&name) => tracing::warn!(key = super::error::show(key), "a key of the GGUF file is not read"),
            None => {}
        }
    }
    match keys.gguf.metadata.get("split.count").and_then(Value::as_u64) {
        Some(count) if count > 1 => Err(keys.gguf.wrong("split.count", "at most 1: put the parts together in one file")),
        _ => Ok(()),
    }
}

fn layer_shapes(keys: &Keys<'_, '_>, layers: usize) -> Result<Vec<LayerShape>, GgufError> {
    let q_heads = keys.needed_counts("attention.head_count", layers)?;
    let kv_heads = keys.counts("attention.head_count_kv", layers)?.unwrap_or_else(|| q_heads.clone());
    let ffn_dims = keys.needed_counts("feed_forward_length", layers)?;
    let shape = |((q_heads, kv_heads), ffn_dim)| LayerShape { q_heads, kv_heads, ffn_dim };
    Ok(q_heads.into_iter().zip(kv_heads).zip(ffn_dims).map(shape).collect())
}

/// Keys, values and rotation have one width here.
fn head_dim(keys: &Keys<'_, '_>, model_dim: usize, q_heads: usize) -> Result<usize, GgufError> {
    let head_dim = match keys.gguf.count(&keys.key("attention.key_length"))? {
        Some(length) => length,
        None if model_dim.is_multiple_of(q_heads) => model_dim / q_heads,
        None => {
            return Err(
                keys.wrong("attention.key_length", format!("a number, since {q_heads} heads do not divide embedding_length {model_dim}"))
            );
        }
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if keys.gguf.count(&keys.key(name))?.is_some_and(|length| length != head_dim) {
            return Err(keys.wrong(name, format!("the width of a head, {head_dim}")));
        }
    }
    Ok(head_dim)
}

/// Rows of the embedding.
fn vocab_size(gguf: &Gguf<'_>, model_dim: usize) -> Result<usize, GgufError> {
    const NAME: &str = "token_embd.weight";
    let Some(entry) = gguf.tensors.get(NAME) else {
        let tokens = gguf.array("tokenizer.ggml.tokens")?.map_or(0, |tokens| tokens.len());
        return Err(GgufError::MissingTensor { tensor: NAME.to_owned(), wanted: vec![tokens, model_dim] });
    };
    match *entry.shape.as_slice() {
        [rows, _] => Ok(rows),
        _ => {
            let found = format!("{} dimensions", entry.shape.len());
            Err(GgufError::Dimensions { tensor: NAME.to_owned(), found, wanted: "2" })
        }
    }
}

/// The rules that hold whatever file a configuration comes from.
fn check(keys: &Keys<'_, '_>, config: &OpenElmConfig) -> Result<(), GgufError> {
    config.check().map_err(|unusable| {
        let key = match unusable.what {
            Quantity::HeadDim => keys.key("attention.key_length"),
            Quantity::RopeTheta => keys.key("rope.freq_base"),
            Quantity::NormEps => keys.key("attention.layer_norm_rms_epsilon"),
            Quantity::TokenIds => "tokenizer.ggml.bos_token_id / eos_token_id".to_owned(),
            Quantity::KvHeads(layer) => format!("{}[{layer}]", keys.key("attention.head_count_kv")),
        };
        GgufError::Key { key, found: unusable.found, wanted: unusable.wanted }
    })
}
