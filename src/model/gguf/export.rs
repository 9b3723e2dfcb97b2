//! What a model is in a GGUF file: its metadata as llama.cpp's converter writes them, and its tensors.

use super::GgufError;
use super::layout::{Architecture, stacks};
use super::tokenizer::metadata_of_tokenizer;
use super::write::{MetaValue, Metadata};
use crate::model::Document;
use crate::model::openelm::OpenElmConfig;
use crate::ops::RowOrder;

/// A tensor of the file and where its rows come from.
#[derive(Clone, Debug, PartialEq)]
pub struct FileTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape, rows first.
    pub shape: Vec<usize>,
    /// The tensor of the model that it is cut out of, under its Hugging Face name.
    pub source: String,
    first_row: usize,
    order: RowOrder,
}

impl FileTensor {
    /// Number of rows; a vector is one row.
    pub fn rows(&self) -> usize {
        if self.shape.len() == 1 { 1 } else { self.shape[0] }
    }

    /// The row of [`Self::source`] that is row `row` in the file.
    pub fn source_row(&self, row: usize) -> usize {
        self.first_row + self.order.row_of(row)
    }
}

/// The architecture that describes a model to other readers.
fn architecture(config: &OpenElmConfig) -> Result<Architecture, GgufError> {
    let refuse = |reason: &str| Err(GgufError::NotWritable { reason: reason.to_owned() });
    match config.normalize_qk {
        _ if !config.ffn_with_glu => refuse("its feed-forward layers have no gate, which neither architecture has"),
        true if !config.tied_head => refuse("it has a head of its own, which the architecture openelm has not"),
        true => Ok(Architecture::OpenElm),
        false => Ok(Architecture::Llama),
    }
}

/// The tensors of a file with this model, in order.
///
/// # Errors
/// [`GgufError::NotWritable`] for a model that no GGUF architecture describes.
pub fn file_tensors(config: &OpenElmConfig) -> Result<Vec<FileTensor>, GgufError> {
    let mut tensors = Vec::new();
    for stack in stacks(config, architecture(config)?) {
        let mut first_row = 0;
        for part in stack.parts {
            let rows = part.shape[0];
            tensors.push(FileTensor { name: part.name, shape: part.shape, source: stack.name.clone(), first_row, order: part.order });
            first_row += rows;
        }
    }
    Ok(tensors)
}

/// The metadata of a model, with `tokenizer.json` and `tokenizer_config.json` where it has them.
///
/// # Errors
/// [`GgufError::NotWritable`] for a model or tokenizer that GGUF has no form for.
pub fn metadata_of(config: &OpenElmConfig, name: &str, tokenizer: (Option<&Document>, Option<&Document>)) -> Result<Metadata, GgufError> {
    let architecture = architecture(config)?;
    let mut metadata = vec![
        ("general.architecture".to_owned(), MetaValue::Text(architecture.name().to_owned())),
        ("general.name".to_owned(), MetaValue::Text(name.to_owned())),
    ];
    let mut add = |key: &str, value| metadata.push((format!("{}.{key}", architecture.name()), value));
    let rope_theta = config.rope_theta as f32;
    if f64::from(rope_theta) != config.rope_theta {
        return Err(GgufError::NotWritable { reason: format!("its rotary base {} is no 32-bit float", config.rope_theta) });
    }
    let layers = |of: fn(&crate::model::openelm::LayerShape) -> usize| per_layer(config.layers.iter().map(of).collect(), architecture);
    add("block_count", MetaValue::U32(config.layers.len() as u32));
    add("context_length", count(config.max_context_length)?);
    add("embedding_length", count(config.model_dim)?);
    add("feed_forward_length", layers(|layer| layer.ffn_dim)?);
    add("attention.head_count", layers(|layer| layer.q_heads)?);
    add("attention.head_count_kv", layers(|layer| layer.kv_heads)?);
    add("attention.key_length", count(config.head_dim)?);
    add("attention.value_length", count(config.head_dim)?);
    add("attention.layer_norm_rms_epsilon", MetaValue::F32(config.norm_eps));
    add("rope.dimension_count", count(config.head_dim)?);
    add("rope.freq_base", MetaValue::F32(rope_theta));
    add("vocab_size", count(config.vocab_size)?);
    metadata.extend(metadata_of_tokenizer(config, tokenizer)?);
    Ok(metadata)
}

fn count(value: usize) -> Result<MetaValue, GgufError> {
    u32::try_from(value).map(MetaValue::U32).map_err(|_| GgufError::NotWritable { reason: format!("{value} does not fit 32 bits") })
}

/// OpenELM's layers differ, so its readers expect an array; those of Llama a number where all are the same.
fn per_layer(values: Vec<usize>, architecture: Architecture) -> Result<MetaValue, GgufError> {
    if architecture == Architecture::Llama && values.iter().all(|value| *value == values[0]) {
        return count(values[0]);
    }
    let narrow =
        |value: usize| i32::try_from(value).map_err(|_| GgufError::NotWritable { reason: format!("{value} does not fit 32 bits") });
    values.into_iter().map(narrow).collect::<Result<_, _>>().map(MetaValue::I32s)
}
