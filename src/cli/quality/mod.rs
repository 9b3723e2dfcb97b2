//! `openelm-server quality MODEL`: what weights of fewer bits cost, against the same model in f32.
//!
//! `report` shows what was found.

mod report;

use super::texts::{self, Origin};
use crate::cli::serve::kv_type;
use crate::config::KvCacheDtype;
use crate::model::openelm::OpenElmConfig;
use crate::model::{ModelFiles, ModelSource, Storage};
use crate::ops::{BlockFormat, DType, KvType};
use crate::quality::{QualityError, Reader, ReaderOptions, compare, scored, windows_for};
use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use report::{Found, Report};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

// No doc comment here: it would replace the command's own description.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Directory of a Hugging Face checkpoint, a GGUF file, or `embedded`: the demo model. Its matrices as f32 are the reference
    #[arg(value_name = "MODEL", default_value = "embedded")]
    model: String,
    /// What is compared with it: its matrices as f32, bf16, f16, q8_0 or q4_0, and other files or directories of the same model
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "bf16,q8_0,q4_0")]
    candidates: Vec<String>,
    /// Types of the KV cache, with each of which every candidate is compared: float32, bfloat16, float16, int8, or auto, the one that `serve`
    /// gives it by default
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "auto")]
    kv_cache_dtype: Vec<KvCacheDtype>,
    /// The text, in UTF-8 [default: one that the model makes up in f32, at temperature 1]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens to score at least; a text may have fewer
    #[arg(long, value_name = "N", default_value = "50000", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    tokens: u32,
    /// Tokens of a window, whose second half is scored [default: 512, cut to the model's context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    window: Option<u32>,
    /// Determines the text that the model makes up
    #[arg(long, value_name = "N", default_value = "0", conflicts_with = "text")]
    seed: u64,
    /// tokenizer.json or its directory, instead of the model's own
    #[arg(long, value_name = "PATH", requires = "text")]
    tokenizer: Option<PathBuf>,
    /// Write what was found to this file as JSON
    #[arg(long, value_name = "FILE")]
    output_json: Option<PathBuf>,
}

/// A model that is compared: where it lies, and how its matrices are stored.
struct Candidate<'a> {
    name: &'a str,
    /// `None`: the files of the reference.
    files: Option<ModelFiles>,
    storage: Storage,
}

/// A candidate with a KV cache.
struct Pair<'a> {
    candidate: &'a Candidate<'a>,
    kv_cache: KvType,
}

/// Compares, shows how far it is, and prints a table.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let files = open(&options.model, options.tokenizer.as_deref())?;
    let config = files.config_as_served()?;
    let window = window(options, &config)?;
    if let Some(file) = &options.output_json {
        super::check_output("--output-json", file)?;
    }
    let mut seen = BTreeSet::new();
    let names = options.candidates.iter().filter(|name| seen.insert(name.as_str()));
    let candidates = names.map(|name| candidate(name, &files, (&config, window)).with_context(|| format!("--candidates {name}")));
    let candidates = candidates.collect::<anyhow::Result<Vec<_>>>()?;
    let origin = options.text.as_deref().map_or(Origin::MadeUp { seed: options.seed }, Origin::File);
    let text = texts::open(&files, origin)?;
    let mut reference = load(&files, (Storage::widened(), DType::F32.into()), (window, text.sequences()))?;
    progress(if options.text.is_some() { "reading the text" } else { "making up a text" });
    let windows = text.windows(&mut reference, (window, windows_for(options.tokens as usize, window)))?;
    let pairs = pairs(&candidates, &options.kv_cache_dtype);
    let mut readers = readers(&pairs, &files, window)?;
    let bar = ProgressBar::new(windows.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {percent:>3}% {eta}").context("the template of the progress line")?);
    let compared = compare(&mut reference, &mut readers, &windows, |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    let (perplexity, scores) = compared.map_err(|error| named(error, &pairs))?;
    let found = pairs.iter().zip(&readers).zip(scores).map(|((pair, reader), score)| Found {
        name: pair.candidate.name.to_owned(),
        kernels: reader.kernels(),
        kv_cache: pair.kv_cache,
        score,
    });
    let report = Report {
        model: options.model.clone(),
        text: options.text.as_ref().map(|file| file.display().to_string()),
        seed: options.text.is_none().then_some(options.seed),
        window,
        kernels: reference.kernels(),
        perplexity,
        found: found.collect(),
    };
    if let Some(file) = &options.output_json {
        let json = serde_json::to_string_pretty(&report.json()).context("a report is JSON")?;
        std::fs::write(file, json).with_context(|| format!("--output-json {}", file.display()))?;
    }
    super::print(&report.table())
}

/// One line on standard error.
fn progress(text: &str) {
    eprintln!("quality: {text}");
}

/// Tokens of a window.
fn window(options: &Options, config: &OpenElmConfig) -> anyhow::Result<usize> {
    let context = config.max_context_length;
    let window = options.window.map_or(context.min(512), |window| window as usize);
    if window > context {
        bail!("--window {window}: the model was trained on {context} tokens; lower it");
    }
    if scored(window).is_empty() {
        bail!("{}: a context of {context} tokens is too short to compare anything", options.model);
    }
    Ok(window)
}

/// The model of a name or a path.
fn open(model: &str, tokenizer: Option<&Path>) -> anyhow::Result<ModelFiles> {
    let path = Path::new(model);
    let source = match model {
        "embedded" => ModelSource::Embedded,
        _ if path.is_file() => ModelSource::File(path.to_path_buf()),
        _ => ModelSource::Directory(path.to_path_buf()),
    };
    Ok(ModelFiles::open(&source, tokenizer)?)
}

/// What stands in `--candidates`. The reference is `files` with its config, and windows are so long.
fn candidate<'a>(name: &'a str, files: &ModelFiles, (config, window): (&OpenElmConfig, usize)) -> anyhow::Result<Candidate<'a>> {
    if let Some((dtype, quantization)) = kind(name) {
        // Beside blocks there is what `serve` has there.
        let dtype = match dtype {
            Some(dtype) => dtype,
            None => Storage::dtype_of(files.checkpoint_type(config)?),
        };
        return Ok(Candidate { name, files: None, storage: Storage { dtype, quantization, keeps_blocks: false } });
    }
    if !Path::new(name).exists() {
        bail!("expected f32, bf16, f16, q8_0, q4_0, or a GGUF file or directory that is there");
    }
    let own = open(name, None)?;
    let own_config = own.config()?;
    if own_config.vocab_size != config.vocab_size {
        bail!("it has {} tokens, the reference has {}; they are not the same model", own_config.vocab_size, config.vocab_size);
    }
    if own_config.max_context_length < window {
        bail!("its context has {} tokens, a window {window}: lower --window", own_config.max_context_length);
    }
    let storage = Storage::dtype_of(own.checkpoint_type(&own_config)?).into();
    Ok(Candidate { name, files: Some(own), storage })
}

/// How matrices are stored under a name.
fn kind(name: &str) -> Option<(Option<DType>, Option<BlockFormat>)> {
    Some(match name {
        "f32" => (Some(DType::F32), None),
        "bf16" => (Some(DType::Bf16), None),
        "f16" => (Some(DType::F16), None),
        "q8_0" => (None, Some(BlockFormat::Q8_0)),
        "q4_0" => (None, Some(BlockFormat::Q4_0)),
        _ => return None,
    })
}

/// Every candidate with every KV cache, but none twice.
fn pairs<'a>(candidates: &'a [Candidate<'a>], kv_cache_dtypes: &[KvCacheDtype]) -> Vec<Pair<'a>> {
    let mut pairs: Vec<Pair<'a>> = Vec::new();
    for candidate in candidates {
        for kv_cache in kv_cache_dtypes.iter().map(|&asked| kv_type(asked).unwrap_or(candidate.storage.dtype.into())) {
            if !pairs.iter().any(|pair| std::ptr::eq(pair.candidate, candidate) && pair.kv_cache == kv_cache) {
                pairs.push(Pair { candidate, kv_cache });
            }
        }
    }
    pairs
}

/// A reader for each pair; those of one candidate share its matrices.
fn readers(pairs: &[Pair<'_>], files: &ModelFiles, window: usize) -> anyhow::Result<Vec<Reader>> {
    let mut readers: Vec<Reader> = Vec::new();
    for (index, Pair { candidate, kv_cache }) in pairs.iter().enumerate() {
        let Candidate { name, files: own, storage } = candidate;
        let reader = match readers.last() {
            Some(before) if std::ptr::eq(pairs[index - 1].candidate, *candidate) => before.beside(*kv_cache).map_err(Into::into),
            _ => load(own.as_ref().unwrap_or(files), (*storage, *kv_cache), (window, 1)),
        };
        readers.push(reader.with_context(|| format!("--candidates {name}"))?);
    }
    Ok(readers)
}

fn load(files: &ModelFiles, (storage, kv_cache): (Storage, KvType), (window, sequences): (usize, usize)) -> anyhow::Result<Reader> {
    let options = ReaderOptions { storage, kv_cache_dtype: kv_cache, window, sequences };
    Ok(Reader::load(files, texts::backend()?, options)?)
}

/// The error with the candidate it is about.
fn named(error: QualityError, pairs: &[Pair<'_>]) -> anyhow::Error {
    let QualityError::NotFinite { candidate: Some(index), .. } = &error else { return error.into() };
    let Pair { candidate, kv_cache } = &pairs[*index];
    let context = format!("--candidates {} with a KV cache in {kv_cache}", candidate.name);
    anyhow::Error::new(error).context(context)
}
