//! A model to a GGUF file with other types of weights: what `openelm-server quantize` does.
//!
//! Matrices become blocks or bf16; vectors stay f32, and so does what blocks do not divide. One tensor is in memory at a time. Rows are
//! quantised on several threads; which thread does a row changes nothing.

mod calibrate;
mod compensate;
mod search;

pub use calibrate::Calibration;

use crate::model::gguf::write::{MetaValue, Metadata, NewTensor, write};
use crate::model::gguf::{FileTensor, GgufError, file_tensors, metadata_of};
use crate::model::{LoadError, ModelFiles};
use crate::ops::{BLOCK_VALUES, Block, BlockFormat, DType, OpError, TensorData, WeightType};
use compensate::Compensation;
use half::bf16;
use std::io::Write;
use std::path::Path;

/// All inputs of a block matter alike.
const EVEN: [f32; BLOCK_VALUES] = [1.0; BLOCK_VALUES];

/// Number of GGUF's version of its quantised formats.
const QUANTIZATION_VERSION: u32 = 2;

/// How the file is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizeOptions<'a> {
    /// What matrices become.
    pub stored: WeightType,
    /// Whether scales of `Q4_0` blocks are searched (`search`) instead of taken by the plain rule.
    pub search: bool,
    /// Threads.
    pub threads: usize,
    /// What flows into matrices, for the search; without it all inputs of a matrix matter alike, and none makes up for another.
    pub calibration: Option<&'a Calibration>,
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedTensor {
    /// Its name in the file.
    pub name: String,
    /// What it is stored as.
    pub stored: WeightType,
    /// Bytes in the file.
    pub bytes: u64,
    /// Root of the mean squared error over the root of the mean square, against the values of the source.
    pub relative_error: f64,
}

/// Why a model was not written.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The source cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no memory for the activations of a calibration.
    #[error(transparent)]
    Memory(#[from] OpError),
    /// The file cannot be written, or has no form for the model.
    #[error(transparent)]
    Write(#[from] GgufError),
    /// A weight that the type cannot hold, or that is no finite number.
    #[error("tensor `{tensor}` has the weight {value}, which {stored} cannot hold")]
    Range {
        /// The tensor.
        tensor: String,
        /// The first such value.
        value: f32,
        /// The type.
        stored: WeightType,
    },
}

/// Writes `files` as the GGUF file `path`, named `name` inside; `done` is told of every tensor, and how many there will be.
///
/// # Errors
/// [`QuantizeError`]; no file is left then, and one that was there stays.
pub fn quantize(
    files: &ModelFiles,
    (path, name): (&Path, &str),
    options: QuantizeOptions<'_>,
    mut done: impl FnMut(&QuantizedTensor, usize),
) -> Result<Vec<QuantizedTensor>, QuantizeError> {
    let config = files.config_as_served()?;
    let plan = file_tensors(&config)?;
    let tensors: Vec<NewTensor> = plan.iter().map(|tensor| new_tensor(tensor, options.stored)).collect();
    let documents = (files.tokenizer.as_ref(), files.tokenizer_config.as_ref());
    let mut metadata = metadata_of(&config, name, documents)?;
    if let Some(template) = &files.chat_template {
        set_template(&mut metadata, &template.bytes);
    }
    metadata.push(("general.file_type".to_owned(), MetaValue::U32(file_type(options.stored))));
    metadata.push(("general.quantization_version".to_owned(), MetaValue::U32(QUANTIZATION_VERSION)));
    let (mut written, mut compensation) = (Vec::new(), None);
    let fill = |index: usize, out: &mut dyn Write| -> Result<(), QuantizeError> {
        let tensor = encode_tensor(files, &plan[index], (tensors[index].stored, options, &mut compensation), out)?;
        done(&tensor, tensors.len());
        written.push(tensor);
        Ok(())
    };
    write(path, &metadata, &tensors, fill)?;
    Ok(written)
}

/// `chat_template.jinja` comes before the template in `tokenizer_config.json`, as in the server.
fn set_template(metadata: &mut Metadata, template: &[u8]) {
    const KEY: &str = "tokenizer.chat_template";
    metadata.retain(|(key, _)| key != KEY);
    metadata.push((KEY.to_owned(), MetaValue::Text(String::from_utf8_lossy(template).into_owned())));
}

/// The number by which GGUF names what most weights are stored as.
fn file_type(stored: WeightType) -> u32 {
    match stored {
        WeightType::Scalar(DType::F32) => 0,
        WeightType::Scalar(DType::F16) => 1,
        WeightType::Scalar(DType::Bf16) => 32,
        WeightType::Blocks(BlockFormat::Q4_0) => 2,
        WeightType::Blocks(BlockFormat::Q4_1) => 3,
        WeightType::Blocks(BlockFormat::Q8_0) => 7,
    }
}

fn new_tensor(tensor: &FileTensor, stored: WeightType) -> NewTensor {
    let fits = tensor.shape.last().is_some_and(|&cols| stored.row_bytes(cols).is_some());
    let stored = match tensor.shape.len() {
        2 if fits => stored,
        // A matrix whose rows blocks do not divide.
        2 => DType::Bf16.into(),
        _ => DType::F32.into(),
    };
    NewTensor { name: tensor.name.clone(), shape: tensor.shape.clone(), stored }
}

fn encode_tensor(
    files: &ModelFiles,
    tensor: &FileTensor,
    (stored, options, compensation): (WeightType, QuantizeOptions<'_>, &mut Option<OfSource>),
    out: &mut dyn Write,
) -> Result<QuantizedTensor, QuantizeError> {
    let missing = || LoadError::MissingTensor { file: files.checkpoint.files(), tensor: tensor.source.clone(), wanted: Vec::new() };
    let source = files.checkpoint.get(&tensor.source)?.ok_or_else(missing)?;
    let data = source.data().ok_or_else(missing)?;
    let threads = options.threads.clamp(1, tensor.rows().max(1));
    let rule = Rule::new(&tensor.source, &data, (stored, options, compensation));
    let parts: Vec<Encoded> = std::thread::scope(|scope| {
        let part = |index: usize| {
            let rows = tensor.rows() * index / threads..tensor.rows() * (index + 1) / threads;
            let (data, rule) = (&data, &rule);
            scope.spawn(move || {
                let mut encoded = Encoded::default();
                rows.for_each(|row| encoded.add_row(data, tensor.source_row(row), rule));
                encoded
            })
        };
        let threads: Vec<_> = (0..threads).map(part).collect();
        threads.into_iter().map(|thread| thread.join().expect("encoding a row does not panic")).collect()
    });
    if let Some(value) = parts.iter().find_map(|part| part.beyond) {
        return Err(QuantizeError::Range { tensor: tensor.name.clone(), value, stored });
    }
    for part in &parts {
        out.write_all(&part.bytes).map_err(GgufError::from)?;
    }
    let sum = |of: fn(&Encoded) -> f64| parts.iter().map(of).sum::<f64>();
    let (error, square) = (sum(|part| part.error), sum(|part| part.square));
    let relative_error = if square > 0.0 { (error / square).sqrt() } else { 0.0 };
    let bytes = parts.iter().map(|part| part.bytes.len() as u64).sum();
    Ok(QuantizedTensor { name: tensor.name.clone(), stored, bytes, relative_error })
}

/// The compensation of a matrix, by its name: several tensors of the file may be cut out of it, one after the other.
type OfSource = (String, Compensation);

/// How the rows of a tensor are rounded.
enum Rule<'a> {
    Number(DType),
    Plain(BlockFormat),
    /// `Q4_0`, each block for itself.
    Searched,
    /// `Q4_0`, so that inputs make up for each other.
    Compensated(&'a Compensation),
}

impl<'a> Rule<'a> {
    /// That of a tensor that lies in `source`, whose rows are those of `data`.
    fn new(
        source: &str,
        data: &TensorData<'_>,
        (stored, options, last): (WeightType, QuantizeOptions<'_>, &'a mut Option<OfSource>),
    ) -> Self {
        let format = match stored {
            WeightType::Scalar(dtype) => return Self::Number(dtype),
            WeightType::Blocks(format) => format,
        };
        if !options.search || format != BlockFormat::Q4_0 || data.stored() == format.into() {
            return Self::Plain(format);
        }
        let Some(grams) = options.calibration.and_then(|calibration| calibration.of(source)) else { return Self::Searched };
        if last.as_ref().is_none_or(|(name, _)| name != source) {
            *last = None;
        }
        let (_, compensation) = last.get_or_insert_with(|| (source.to_owned(), Compensation::new(grams)));
        Self::Compensated(compensation)
    }
}

/// Some rows as they go into the file.
#[derive(Default)]
struct Encoded {
    bytes: Vec<u8>,
    /// Sum of squared errors.
    error: f64,
    /// Sum of squares.
    square: f64,
    /// The first value that the type cannot hold.
    beyond: Option<f32>,
}

impl Encoded {
    fn add_row(&mut self, data: &TensorData<'_>, row: usize, rule: &Rule<'_>) {
        let mut values = vec![0.0; data.cols()];
        data.read(row, 0, &mut values);
        let blocks = values.as_chunks::<BLOCK_VALUES>().0;
        match rule {
            Rule::Number(dtype) => values.iter().for_each(|&value| self.add_number(value, *dtype)),
            Rule::Plain(format) => {
                blocks.iter().enumerate().for_each(|(index, values)| self.add_block(values, &data.block(row, index, *format), *format));
            }
            Rule::Searched => {
                blocks.iter().for_each(|values| self.add_block(values, &search::search_q4_0(values, &EVEN), BlockFormat::Q4_0));
            }
            Rule::Compensated(compensation) => {
                let found = compensation.blocks(&values);
                blocks.iter().zip(&found).for_each(|(values, block)| self.add_block(values, block, BlockFormat::Q4_0));
            }
        }
    }

    fn add_number(&mut self, value: f32, dtype: DType) {
        let stored = match dtype {
            DType::F32 => {
                self.bytes.extend(value.to_le_bytes());
                value
            }
            DType::Bf16 => {
                let stored = bf16::from_f32(value);
                self.bytes.extend(stored.to_le_bytes());
                stored.to_f32()
            }
            DType::F16 => {
                let stored = half::f16::from_f32(value);
                self.bytes.extend(stored.to_le_bytes());
                stored.to_f32()
            }
        };
        self.count(value, stored);
    }

    fn add_block(&mut self, values: &[f32; BLOCK_VALUES], block: &Block, format: BlockFormat) {
        let at = self.bytes.len();
        self.bytes.resize(at + format.bytes(), 0);
        format.pack(block, &mut self.bytes[at..]);
        for (&value, stored) in values.iter().zip(block.values()) {
            self.count(value, stored);
        }
    }

    fn count(&mut self, value: f32, stored: f32) {
        if !stored.is_finite() {
            self.beyond.get_or_insert(value);
        }
        self.error += f64::from(value - stored).powi(2);
        self.square += f64::from(value).powi(2);
    }
}

#[cfg(test)]
mod tests;
