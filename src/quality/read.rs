//! A model that reads windows of tokens and tells the logits at every position.

use super::QualityError;
use crate::generation::TokenId;
use crate::model::openelm::{Decoder, WeightSource, Workspace};
use crate::model::{LoadProgress, ModelFiles, Storage};
use crate::ops::cpu::CpuBackend;
use crate::ops::{ATTENTION_TILE, Backend, KvType, PackedBatch};
use std::ops::Range;
use std::sync::Arc;

/// How a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderOptions {
    /// How its matrices are stored.
    pub storage: Storage,
    /// How keys and values are stored.
    pub kv_cache_dtype: KvType,
    /// Longest window.
    pub window: usize,
    /// Windows that are read at the same time.
    pub sequences: usize,
}

/// A model, its keys and values, and the activations of its last step.
pub struct Reader {
    decoder: Arc<Decoder<CpuBackend>>,
    options: ReaderOptions,
    pages: Vec<<CpuBackend as Backend>::Pages>,
    workspace: Workspace<CpuBackend>,
    batch: PackedBatch,
    /// Blocks of each sequence.
    blocks: usize,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({} tokens)", self.vocab_size())
    }
}

impl Reader {
    /// Loads `files` onto `backend`.
    ///
    /// # Errors
    /// [`QualityError::Load`], [`QualityError::Memory`].
    pub fn load(files: &ModelFiles, backend: CpuBackend, options: ReaderOptions) -> Result<Self, QualityError> {
        let progress = LoadProgress::default();
        let storage = options.storage;
        let source = WeightSource { checkpoint: &files.checkpoint, storage, packed: None, progress: &progress, taken: None };
        Self::of(Arc::new(Decoder::load(backend, files.config()?, &source, options.window)?), options)
    }

    /// Another reader of the same matrices, with a KV cache of its own.
    ///
    /// # Errors
    /// [`QualityError::Memory`].
    pub fn beside(&self, kv_cache_dtype: KvType) -> Result<Self, QualityError> {
        Self::of(self.decoder.clone(), ReaderOptions { kv_cache_dtype, ..self.options })
    }

    fn of(decoder: Arc<Decoder<CpuBackend>>, options: ReaderOptions) -> Result<Self, QualityError> {
        let ReaderOptions { kv_cache_dtype, window, sequences, .. } = options;
        let blocks = window.div_ceil(ATTENTION_TILE);
        let pages = decoder.pages(blocks * sequences, ATTENTION_TILE, kv_cache_dtype)?;
        let workspace = decoder.workspace(window.max(sequences))?;
        Ok(Self { decoder, options, pages, workspace, batch: PackedBatch::new(ATTENTION_TILE), blocks })
    }

    /// Logits in a row.
    pub fn vocab_size(&self) -> usize {
        self.decoder.config().vocab_size
    }

    /// Windows that are read at the same time at most.
    pub fn sequences(&self) -> usize {
        self.options.sequences
    }

    /// Backend, instruction set and threads.
    pub fn kernels(&self) -> String {
        self.decoder.backend().description()
    }

    /// Runs `task(0..count)` on the threads of the model.
    pub(super) fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.decoder.backend().for_each(count, task);
    }

    /// Reads a window from its beginning.
    pub fn read(&mut self, window: &[TokenId]) {
        self.step(&[(window, 0)]);
    }

    /// Reads on in several windows: their next tokens, and the position of the first of these.
    pub(super) fn step(&mut self, next: &[(&[TokenId], usize)]) {
        self.batch.clear();
        for (index, &(tokens, start)) in next.iter().enumerate() {
            let first = (index * self.blocks) as u32;
            self.batch.push(tokens, start, first..first + self.blocks as u32);
        }
        self.decoder.forward(&self.batch, &mut self.pages, &mut self.workspace);
    }

    /// The logits of `rows` of the last step, `[rows, vocab]`.
    pub fn logits(&mut self, rows: Range<usize>, out: &mut Vec<f32>) {
        out.resize(rows.len() * self.vocab_size(), 0.0);
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        self.decoder.logits(&mut self.workspace, &rows, out);
    }
}
