//! Which tensors of a GGUF file lie below each other in each tensor of the model.
//!
//! | model (`transformer.` left out) | architecture `openelm` | architecture `llama` |
//! |---|---|---|
//! | `token_embeddings`, `norm` | `token_embd`, `output_norm` | the same |
//! | `lm_head`, if any | `output` | the same |
//! | `layers.N.attn.qkv_proj` | `blk.N.attn_qkv` | `attn_q`, `attn_k`, `attn_v`; rows of q and k for the rotation of neighbours |
//! | `layers.N.attn.q_norm`, `k_norm` | `blk.N.attn_q_norm`, `attn_k_norm` | none |
//! | `layers.N.attn.out_proj` | `blk.N.attn_output` | the same |
//! | `layers.N.attn_norm`, `ffn_norm` | `blk.N.attn_norm`, `ffn_norm` | the same |
//! | `layers.N.ffn.proj_1` | `blk.N.ffn_gate`, `blk.N.ffn_up` | the same |
//! | `layers.N.ffn.proj_2` | `blk.N.ffn_down` | the same |
//!
//! Reading and writing use this one list.

use crate::model::openelm::OpenElmConfig;
use crate::ops::RowOrder;

/// Architectures that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// OpenELM.
    OpenElm,
    /// Llama, where it is the same block: uniform layers, no norms of queries and keys.
    Llama,
}

impl Architecture {
    /// Its name, which its keys begin with.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenElm => "openelm",
            Self::Llama => "llama",
        }
    }
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    /// Its name in the file.
    pub(crate) name: String,
    /// Its shape, rows first.
    pub(crate) shape: Vec<usize>,
    /// Where its rows are in the tensor of the model.
    pub(crate) order: RowOrder,
    /// The keys that the shape follows from, without the architecture.
    pub(crate) keys: &'static str,
}

/// A tensor of the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stack {
    /// Its name in a Hugging Face checkpoint.
    pub(crate) name: String,
    /// What lies below each other in it.
    pub(crate) parts: Vec<Part>,
}

impl Stack {
    /// Its shape.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let mut shape = self.parts[0].shape.clone();
        shape[0] = self.parts.iter().map(|part| part.shape[0]).sum();
        shape
    }
}

const WIDTH: &str = "embedding_length";
const QUERIES: &str = "attention.head_count, attention.key_length, embedding_length";
const KEYS: &str = "attention.head_count_kv, attention.key_length, embedding_length";
const FFN: &str = "feed_forward_length, embedding_length";

fn part(name: String, shape: &[usize], keys: &'static str) -> Part {
    Part { name, shape: shape.to_vec(), order: RowOrder::Plain, keys }
}

/// All tensors of a model, embedding first. They are made one by one: the number of layers may be a mistake of the file.
pub(crate) fn stacks(config: &OpenElmConfig, architecture: Architecture) -> impl Iterator<Item = Stack> {
    let d = config.model_dim;
    let single = |name: &str, file_name: &str, shape: &[usize]| Stack {
        name: name.to_owned(),
        parts: vec![part(file_name.to_owned(), shape, WIDTH)],
    };
    let embedding = single("transformer.token_embeddings.weight", "token_embd.weight", &[config.vocab_size, d]);
    let layers = (0..config.layers.len()).flat_map(move |index| layer(config, architecture, index));
    let norm = single("transformer.norm.weight", "output_norm.weight", &[d]);
    let head = (!config.tied_head).then(|| single("lm_head.weight", "output.weight", &[config.vocab_size, d]));
    std::iter::once(embedding).chain(layers).chain([norm]).chain(head)
}

fn layer(config: &OpenElmConfig, architecture: Architecture, index: usize) -> Vec<Stack> {
    let (d, hd, shape) = (config.model_dim, config.head_dim, config.layers[index]);
    let (q, kv, f) = (shape.q_heads * hd, shape.kv_heads * hd, shape.ffn_dim);
    let of_file = |name: &str, shape: &[usize], keys| part(format!("blk.{index}.{name}.weight"), shape, keys);
    let stack = |name: &str, parts| Stack { name: format!("transformer.layers.{index}.{name}.weight"), parts };
    let qkv = match architecture {
        Architecture::OpenElm => {
            vec![of_file(
                "attn_qkv",
                &[q + 2 * kv, d],
                "attention.head_count, attention.head_count_kv, attention.key_length, embedding_length",
            )]
        }
        Architecture::Llama => {
            let rotated = |part| Part { order: RowOrder::InterleavedHalves { head_dim: hd }, ..part };
            let value = of_file("attn_v", &[kv, d], KEYS);
            vec![rotated(of_file("attn_q", &[q, d], QUERIES)), rotated(of_file("attn_k", &[kv, d], KEYS)), value]
        }
    };
    let mut list = vec![stack("attn_norm", vec![of_file("attn_norm", &[d], WIDTH)]), stack("attn.qkv_proj", qkv)];
    if config.normalize_qk {
        list.push(stack("attn.q_norm", vec![of_file("attn_q_norm", &[hd], "attention.key_length")]));
        list.push(stack("attn.k_norm", vec![of_file("attn_k_norm", &[hd], "attention.key_length")]));
    }
    list.push(stack("attn.out_proj", vec![of_file("attn_output", &[d, q], QUERIES)]));
    list.push(stack("ffn_norm", vec![of_file("ffn_norm", &[d], WIDTH)]));
    let up = of_file("ffn_up", &[f, d], FFN);
    let gate = config.ffn_with_glu.then(|| of_file("ffn_gate", &[f, d], FFN));
    list.push(stack("ffn.proj_1", gate.into_iter().chain([up]).collect()));
    list.push(stack("ffn.proj_2", vec![of_file("ffn_down", &[d, f], FFN)]));
    list
}
