//! `openelm-server quantize IN OUT.gguf`: writes a model as one GGUF file with other types of weights.

use super::texts::{self, Origin};
use crate::config::host::HostResources;
use crate::model::quantize::{Calibration, QuantizeOptions, QuantizedTensor, quantize};
use crate::model::{ModelFiles, ModelSource};
use crate::ops::{BlockFormat, DType, WeightType};
use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Tokens of a window of a calibration text, at most.
const CALIBRATION_WINDOW: usize = 512;

/// Tokens of a calibration text.
const CALIBRATION_TOKENS: u32 = 20_000;

/// Determines the text that a model makes up to be calibrated with: another one than `quality` scores by default.
const CALIBRATION_SEED: u64 = 1;

/// Types that a file can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    /// 16 bits
    #[value(name = "bf16")]
    Bf16,
    /// 8.5 bits: 32 weights of 8 bits and a scale
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits: 32 weights of 4 bits and a scale
    #[value(name = "q4_0")]
    Q4_0,
}

/// How the scales of four bits are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scales {
    /// The scale with the least squared error, found by trying
    Search,
    /// By the largest weight of a block, as at load and in llama.cpp
    Plain,
}

// No doc comment here: it would replace the command's own description.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Directory of a Hugging Face checkpoint, a GGUF file, or `embedded`: the demo model
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// File to write; one that is there is replaced when the new one is whole
    #[arg(value_name = "OUT.gguf")]
    output: PathBuf,
    /// What matrices become; rows that blocks of 32 do not divide stay float32
    #[arg(long = "type", value_enum, default_value_t = Type::Q8_0)]
    kind: Type,
    /// How the scales of q4_0 are chosen
    #[arg(long, value_enum, help = "How the scales of q4_0 are chosen [default: search]")]
    scales: Option<Scales>,
    /// A text for the search: `self` (one that the model makes up), or a file in UTF-8 (./self for one of that name). What flows into the weights there says how much their
    /// errors matter, and lets weights make up for each other's [default: all matter alike]
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Tokens of that text to read [default: 20000]
    #[arg(long, value_name = "N", requires = "calibration", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    calibration_tokens: Option<u32>,
    /// tokenizer.json or its directory, instead of the model's own
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
}

/// Writes the file, shows how far it is, and prints what became of the tensors.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    check_flags(options)?;
    let source = match &options.input {
        path if path == Path::new("embedded") => ModelSource::Embedded,
        path if path.is_dir() => ModelSource::Directory(path.clone()),
        path => ModelSource::File(path.clone()),
    };
    let files = ModelFiles::open(&source, options.tokenizer.as_deref())?;
    let name = options.input.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy());
    let stored = match options.kind {
        Type::Bf16 => WeightType::from(DType::Bf16),
        Type::Q8_0 => BlockFormat::Q8_0.into(),
        Type::Q4_0 => BlockFormat::Q4_0.into(),
    };
    let threads = HostResources::detect().cpus;
    let bar = ProgressBar::new(1);
    bar.set_style(ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}").context("the template of the progress line")?);
    let search = options.scales != Some(Scales::Plain);
    let calibration = options.calibration.as_ref().map(|text| calibrate(&files, text, options, &bar)).transpose()?;
    let how = QuantizeOptions { stored, search, threads, calibration: calibration.as_ref() };
    let tensors = quantize(&files, (&options.output, &name), how, |tensor, total| {
        bar.set_length(total as u64);
        bar.set_message(tensor.name.clone());
        bar.inc(1);
    })
    .with_context(|| format!("cannot write {}", options.output.display()))?;
    bar.finish_and_clear();
    let mut text = summary(&tensors, files.checkpoint.bytes()?);
    let before = files.checkpoint_type(&files.config()?)?;
    if matches!(before, WeightType::Blocks(_)) && before != stored {
        let _ = writeln!(
            text,
            "the errors are those beside weights that were in {before} already: a file made of the model's own ones loses less"
        );
    }
    if calibration.is_some() {
        text.push_str("the errors are those of weights; calibration makes them larger and those of the products smaller, `quality` tells by how much\n");
    }
    if files.tokenizer.is_none() {
        text.push_str("without a tokenizer: the model has none, --tokenizer names one\n");
    }
    super::print(&text)
}

/// Refuses flags that do not go together, and an output that cannot be written or served, before anything slow.
fn check_flags(options: &Options) -> anyhow::Result<()> {
    if options.kind != Type::Q4_0 && options.scales.is_some() {
        bail!("--scales: only q4_0 has scales to choose; leave it out");
    }
    if options.calibration.is_some() && (options.kind != Type::Q4_0 || options.scales == Some(Scales::Plain)) {
        bail!("--calibration: only the search for scales of q4_0 uses it; leave it out");
    }
    let output = &options.output;
    if std::fs::metadata(output).is_ok_and(|found| !found.is_file()) {
        bail!("{}: is a directory or a device; expected the name of a file to write", output.display());
    }
    let real = |path: &PathBuf| std::fs::canonicalize(path).ok();
    if real(output).zip(real(&options.input)).is_some_and(|(out, input)| out.starts_with(input)) {
        bail!("{}: belongs to the model that is read; expected a new file", output.display());
    }
    if !output.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
        bail!("{}: expected a name with the ending .gguf, by which such files are known", output.display());
    }
    super::check_output("OUT.gguf", output)
}

/// What flows into the matrices while the model reads `text`.
fn calibrate(files: &ModelFiles, text: &Path, options: &Options, bar: &ProgressBar) -> anyhow::Result<Calibration> {
    let named = || format!("--calibration {}", text.display());
    let window = files.config()?.max_context_length.min(CALIBRATION_WINDOW);
    let number = (options.calibration_tokens.unwrap_or(CALIBRATION_TOKENS) as usize).div_ceil(window.max(1));
    let origin = if text == Path::new("self") { Origin::MadeUp { seed: CALIBRATION_SEED } } else { Origin::File(text) };
    let windows = texts::open(files, origin).and_then(|text| text.windows_of(files, (window, number))).with_context(named)?;
    bar.set_length(windows.len() as u64);
    bar.set_message("reading the calibration text");
    let done = |done: usize| bar.set_position(done as u64);
    let calibration = Calibration::measure(files, texts::backend()?, (&windows, window), done).with_context(named)?;
    bar.set_position(0);
    Ok(calibration)
}

/// What became of the tensors, as a table: one line for each kind of matrix and type, with the mean and the largest error of the layers.
fn summary(tensors: &[QuantizedTensor], source_bytes: u64) -> String {
    let mut kinds: Vec<((String, WeightType), Vec<&QuantizedTensor>)> = Vec::new();
    for tensor in tensors {
        let kind = tensor.name.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".");
        let kind = (kind, tensor.stored);
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, list)) => list.push(tensor),
            None => kinds.push((kind, vec![tensor])),
        }
    }
    let mut text = format!("{:<28}{:>8}{:>12}{:>12}{:>18}{:>10}\n", "tensor", "count", "type", "MB", "relative error", "largest");
    for ((kind, stored), list) in kinds {
        let bytes: u64 = list.iter().map(|tensor| tensor.bytes).sum();
        let error = list.iter().map(|tensor| tensor.relative_error).sum::<f64>() / list.len() as f64;
        let largest = list.iter().map(|tensor| tensor.relative_error).fold(0.0, f64::max);
        let (count, stored) = (list.len(), stored.to_string());
        let _ =
            writeln!(text, "{kind:<28}{count:>8}{stored:>12}{:>12.1}{:>17.3}%{:>9.3}%", bytes as f64 / 1e6, error * 100.0, largest * 100.0);
    }
    let total: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let _ = writeln!(text, "{:.1} MB of weights, {:.1} MB before", total as f64 / 1e6, source_bytes as f64 / 1e6);
    text
}
