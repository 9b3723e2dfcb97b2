//! The texts that `quality` scores and `quantize` calibrates with: a file, or what the model makes up in f32. And what tokenizers may do.

use crate::config::host::HostResources;
use crate::generation::TokenId;
use crate::model::{ModelFiles, Storage};
use crate::ops::DType;
use crate::ops::cpu::{CpuBackend, CpuKernels};
use crate::quality::{Reader, ReaderOptions, Source, cut, make_up};
use crate::tokenizer::Tokenizer;
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// Windows that are made up side by side.
const MADE_UP_AT_ONCE: usize = 16;

/// Where a text comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin<'a> {
    /// A file in UTF-8.
    File(&'a Path),
    /// The model itself.
    MadeUp {
        /// Determines the text.
        seed: u64,
    },
}

/// A text.
pub(super) enum Text {
    /// The tokens of a file, and the token that a sequence begins with, if the tokenizer puts one there.
    Given { file: PathBuf, tokens: Vec<TokenId>, bos: Option<TokenId> },
    /// To be said by the model.
    MadeUp(Source),
}

/// What computes, on all cores.
pub(super) fn backend() -> anyhow::Result<CpuBackend> {
    Ok(CpuBackend::new(CpuKernels::Auto, HostResources::detect().cpus)?)
}

/// Reads the text, or what is needed to make it up.
pub(super) fn open(files: &ModelFiles, origin: Origin<'_>) -> anyhow::Result<Text> {
    let config = files.config_as_served()?;
    let file = match origin {
        Origin::File(file) => file,
        Origin::MadeUp { seed } => {
            let bos = config.bos_token_id.context("the model's config names no token that a text begins with: name a file with a text")?;
            return Ok(Text::MadeUp(Source { bos, forbidden: config.eos_token_ids, seed }));
        }
    };
    let text = std::fs::read_to_string(file).with_context(|| format!("the text {}", file.display()))?;
    let document = files.tokenizer.as_ref().context("the model has no tokenizer to read a text with: --tokenizer names one")?;
    let config_of_tokenizer = files.tokenizer_config.as_ref().map(|document| document.bytes.as_ref());
    let tokenizer = Tokenizer::from_bytes(&document.bytes, config_of_tokenizer).with_context(|| document.name.clone())?;
    check_vocabulary(files, &tokenizer, config.vocab_size)?;
    let tokens = tokenizer.encode(&text, true)?;
    let bos = tokenizer.bos_token().map(|(_, id)| id).filter(|bos| tokens.first() == Some(bos));
    Ok(Text::Given { file: file.to_path_buf(), tokens, bos })
}

/// Refuses a tokenizer that makes ids the model has no row for.
pub(super) fn check_vocabulary(files: &ModelFiles, tokenizer: &Tokenizer, vocab_size: usize) -> anyhow::Result<()> {
    let size = tokenizer.vocab_size();
    if size > vocab_size {
        let name = files.tokenizer.as_ref().map_or("the tokenizer", |document| document.name.as_str());
        bail!(
            "{name} has {size} tokens, {} says vocab_size {vocab_size}; they do not belong together: \
             name the model's own tokenizer with --tokenizer FILE|DIR",
            files.config.name()
        );
    }
    Ok(())
}

impl Text {
    /// Windows that the model should have room for.
    pub(super) fn sequences(&self) -> usize {
        match self {
            Self::Given { .. } => 1,
            Self::MadeUp(_) => MADE_UP_AT_ONCE,
        }
    }

    /// `number` windows of `length` tokens, or as many as the text has.
    pub(super) fn windows(&self, model: &mut Reader, (length, number): (usize, usize)) -> anyhow::Result<Vec<Vec<TokenId>>> {
        self.windows_with((length, number), |source| Ok(make_up(model, source, (length, number))?))
    }

    /// The same of a model that is not loaded yet, and is only if it must be.
    pub(super) fn windows_of(&self, files: &ModelFiles, (length, number): (usize, usize)) -> anyhow::Result<Vec<Vec<TokenId>>> {
        self.windows_with((length, number), |source| {
            let (storage, sequences) = (Storage::widened(), self.sequences());
            let options = ReaderOptions { storage, kv_cache_dtype: DType::F32.into(), window: length, sequences };
            Ok(make_up(&mut Reader::load(files, backend()?, options)?, source, (length, number))?)
        })
    }

    fn windows_with(
        &self,
        size: (usize, usize),
        make_up: impl FnOnce(&Source) -> anyhow::Result<Vec<Vec<TokenId>>>,
    ) -> anyhow::Result<Vec<Vec<TokenId>>> {
        match self {
            Self::Given { file, tokens, bos } => cut(tokens, *bos, size).with_context(|| format!("the text {}", file.display())),
            Self::MadeUp(source) => make_up(source),
        }
    }
}
