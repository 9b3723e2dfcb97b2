//! From a model's files to a runner: config, dtype, threads, weights, fingerprint, KV budget.

use super::budget::{DEFAULT_SHARE, Needs, num_blocks};
use super::fingerprint::{fingerprint, text_hash};
use super::plan::{Plan, WeightOptions};
use super::step::PagedRunner;
use super::warm_up::{blocks_of_first_steps, warm_up};
use super::weights::{Place, Weights};
use crate::model::openelm::{Decoder, OpenElmConfig, step_needs, workspace_values_per_row};
use crate::model::weight_cache::BackgroundWriter;
use crate::model::{LoadError, LoadProgress, ModelFiles};
use crate::ops::cpu::{CpuBackend, CpuKernels, KernelsError};
use crate::ops::{ATTENTION_TILE, Backend, DType, KvType, OpError, WeightType};
use crate::runner::{ModelRunner, RunnerLimits};
use std::path::PathBuf;
use std::time::Instant;

/// Longest context that tables are made for.
const MAX_POSITIONS: usize = 1 << 20;

/// What the operator chose.
#[derive(Clone, Debug, PartialEq)]
pub struct RunnerOptions {
    /// How weights are stored.
    pub weights: WeightOptions,
    /// How keys and values are stored; `None` = as matrices of numbers.
    pub kv_cache_dtype: Option<KvType>,
    /// Longest sequence in tokens; `None` = the model's context.
    pub max_model_len: Option<usize>,
    /// Most sequences of a step.
    pub max_num_seqs: usize,
    /// Most rows of a step.
    pub max_num_batched_tokens: usize,
    /// Tokens in a block, a multiple of 32.
    pub block_size: usize,
    /// Threads, the engine's own included.
    pub threads: usize,
    /// Kernels of the CPU backend.
    pub cpu_kernels: CpuKernels,
    /// Bytes of the KV cache; `None` = a share of what is left.
    pub kv_cache_memory_bytes: Option<u64>,
    /// Bytes this process may use: the container's limit or what the machine has left, or those of a device.
    pub memory_bytes: u64,
    /// Share of what weights and activations leave that the KV cache takes by default.
    pub kv_cache_share: f64,
    /// Directory in which packed weights are kept for later starts; `None` keeps none.
    pub weight_cache: Option<PathBuf>,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            weights: WeightOptions::default(),
            kv_cache_dtype: None,
            max_model_len: None,
            max_num_seqs: 64,
            max_num_batched_tokens: 512,
            block_size: ATTENTION_TILE,
            threads: 1,
            cpu_kernels: CpuKernels::Auto,
            kv_cache_memory_bytes: None,
            memory_bytes: u64::MAX / 2,
            kv_cache_share: DEFAULT_SHARE,
            weight_cache: None,
        }
    }
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of the weights as stored.
    pub weight_bytes: u64,
    /// How matrices are stored, the type of most weights first.
    pub weight_types: Vec<WeightType>,
    /// How the embedding lies in the checkpoint.
    pub checkpoint_type: WeightType,
    /// Matrices that stay numbers, though blocks were asked for, because blocks of 32 do not divide their rows.
    pub not_quantised: usize,
    /// How keys and values are stored.
    pub kv_cache_dtype: KvType,
    /// Backend, instruction set and threads, for the log.
    pub kernels: String,
    /// Arithmetic of products with matrices of the first of these types, by its name in [`Backend::arithmetic`].
    pub product_arithmetic: String,
    /// `system_fingerprint`.
    pub fingerprint: String,
    /// Longest sequence in tokens.
    pub max_model_len: usize,
    /// Positions the model was trained on.
    pub trained_context: usize,
    /// Logits in a row.
    pub vocab_size: usize,
    /// First token of a sequence.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a sequence, by `config.json`.
    pub eos_token_ids: Vec<u32>,
    /// KV blocks.
    pub num_blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// Bytes of keys and values of a token over all layers.
    pub kv_bytes_per_token: u64,
}

impl ModelInfo {
    /// The types of matrices, for people.
    pub fn weights(&self) -> String {
        self.weight_types.iter().map(WeightType::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// A model that is ready to run.
pub struct Loaded<R> {
    /// What computes.
    pub runner: R,
    /// What was loaded.
    pub info: ModelInfo,
    /// Still writing packed weights for the next start; dropping it gives that up.
    pub writer: Option<BackgroundWriter>,
}

/// Loads the model onto the CPU, and waits until its packed weights are written where they are kept.
///
/// # Errors
/// [`LoadError`] naming the file, key or flag.
pub fn load(files: &ModelFiles, options: &RunnerOptions) -> Result<(PagedRunner<CpuBackend>, ModelInfo), LoadError> {
    let Loaded { runner, info, writer } = load_with_progress(files, options, &LoadProgress::default())?;
    if let Some(writer) = writer {
        writer.wait();
    }
    Ok((runner, info))
}

/// Loads the model onto the CPU, moving `progress`, and waits for nothing else.
///
/// # Errors
/// [`LoadError`] naming the file, key or flag.
pub(super) fn load_with_progress(
    files: &ModelFiles,
    options: &RunnerOptions,
    progress: &LoadProgress,
) -> Result<Loaded<PagedRunner<CpuBackend>>, LoadError> {
    let backend = CpuBackend::new(options.cpu_kernels, options.threads).map_err(|error| match error {
        KernelsError::Missing => {
            let wanted = format!("{error}: use `auto` or `portable`");
            LoadError::Option { flag: "cpu-kernels", found: "avx512-bf16".to_string(), wanted }
        }
        KernelsError::Threads(_) => LoadError::Setup(error.to_string()),
    })?;
    let kernels = backend.description();
    load_on(backend, kernels, files, options, progress)
}

/// Bytes of the weights once they are loaded with [`RunnerOptions::weights`] `weights`.
///
/// # Errors
/// [`LoadError`] naming the file or key.
pub fn weight_bytes(files: &ModelFiles, weights: WeightOptions) -> Result<u64, LoadError> {
    Ok(Plan::new(files, &files.config()?, weights)?.bytes)
}

/// Loads the model onto `backend`.
///
/// # Errors
/// [`LoadError`] naming the file, key or flag.
pub(super) fn load_on<B: Backend>(
    backend: B,
    kernels: String,
    files: &ModelFiles,
    options: &RunnerOptions,
    progress: &LoadProgress,
) -> Result<Loaded<PagedRunner<B>>, LoadError> {
    check_options(options)?;
    let config = files.config()?;
    let plan = Plan::new(files, &config, options.weights)?;
    if let (Some(asked), None) = (options.weights.quantization, plan.storage.quantization) {
        tracing::warn!(%asked, "--quantization changes nothing: the matrices are in blocks already, or blocks of 32 do not divide their rows");
    }
    if let (false, WeightType::Blocks(format)) = (options.weights.keeps_blocks, plan.checkpoint_type) {
        tracing::info!(checkpoint = %format, dtype = %plan.storage.dtype, "the checkpoint's blocks become numbers: a GPU computes with those alone");
    }
    let (storage, kv_dtype) = (plan.storage, options.kv_cache_dtype.unwrap_or(plan.storage.dtype.into()));
    let max_model_len = options.max_model_len.unwrap_or(config.max_context_length);
    if max_model_len == 0 || max_model_len > MAX_POSITIONS {
        let wanted = format!("from 1 to {MAX_POSITIONS}");
        return Err(LoadError::Option { flag: "max-model-len", found: max_model_len.to_string(), wanted });
    }
    let mut needs = needs(&config, &plan, kv_dtype, max_model_len, options);
    needs.workspace_bytes += backend.reserved_bytes(&step_needs(&config, options.max_num_batched_tokens, max_model_len));
    let limits = RunnerLimits {
        num_blocks: num_blocks(needs, options)?,
        block_size: options.block_size,
        max_num_batched_tokens: options.max_num_batched_tokens,
        vocab_size: config.vocab_size,
    };
    let arithmetic = backend.arithmetic(&plan.types, kv_dtype);
    let place = Place { weight_cache: options.weight_cache.as_deref(), progress };
    let weights = Weights::find(&backend, &files.checkpoint, storage, place)?;
    let version = env!("CARGO_PKG_VERSION");
    let info = ModelInfo {
        parameters: config.parameters(),
        weight_bytes: needs.weight_bytes,
        product_arithmetic: backend.arithmetic(plan.types.get(..1).unwrap_or_default(), DType::F32.into()),
        weight_types: plan.types,
        checkpoint_type: plan.checkpoint_type,
        not_quantised: plan.not_quantised,
        kv_cache_dtype: kv_dtype,
        kernels,
        fingerprint: fingerprint(&[
            &weights.hash.to_hex(),
            &format!("{config:?}"),
            &arithmetic,
            &storage.to_string(),
            &kv_dtype.to_string(),
            version,
            &text_hash(files).to_hex(),
        ]),
        max_model_len,
        trained_context: config.max_context_length,
        vocab_size: config.vocab_size,
        bos_token_id: config.bos_token_id,
        eos_token_ids: config.eos_token_ids.clone(),
        num_blocks: limits.num_blocks,
        block_size: limits.block_size,
        kv_bytes_per_token: needs.block_bytes / limits.block_size as u64,
    };
    let source = weights.source()?;
    let decoder = Decoder::load(backend, config, &source, max_model_len)?;
    let taken = source.taken;
    let runner = start(decoder, limits, (kv_dtype, needs), (options, progress))?;
    let info = ModelInfo { num_blocks: runner.limits().num_blocks, ..info };
    Ok(Loaded { runner, info, writer: weights.keep(taken) })
}

/// A runner with as many blocks as there is memory for, of which a device with its own is asked after steps of every size.
fn start<B: Backend>(
    decoder: Decoder<B>,
    limits: RunnerLimits,
    (kv_dtype, needs): (KvType, Needs),
    (options, progress): (&RunnerOptions, &LoadProgress),
) -> Result<PagedRunner<B>, LoadError> {
    fn setup(error: impl std::fmt::Display) -> LoadError {
        LoadError::Setup(error.to_string())
    }
    // What was counted is not there: others take memory of the device meanwhile.
    let refused = |error: OpError| LoadError::Setup(format!("{error}: lower --gpu-memory-utilization"));
    let mut runner = match decoder.backend().taken_bytes().map_err(setup)? {
        None => PagedRunner::new(decoder, limits, kv_dtype).map_err(setup)?,
        Some(_) => {
            let started = Instant::now();
            let few = limits.num_blocks.min(blocks_of_first_steps(limits, needs.max_model_len, options.max_num_seqs));
            let mut runner = PagedRunner::new(decoder, RunnerLimits { num_blocks: few, ..limits }, kv_dtype).map_err(refused)?;
            warm_up(&mut runner, needs.max_model_len, options.max_num_seqs, progress).map_err(setup)?;
            let pages = few as u64 * needs.block_bytes;
            let taken = runner.decoder().backend().taken_bytes().map_err(setup)?.unwrap_or(0).saturating_sub(pages);
            let expected = needs.weight_bytes + needs.workspace_bytes;
            tracing::info!(
                seconds = started.elapsed().as_secs_f32(),
                taken,
                expected,
                "first steps computed, memory of the device measured"
            );
            // Less than expected is what another program gave back meanwhile.
            let measured = Needs { weight_bytes: taken.max(expected), workspace_bytes: 0, ..needs };
            runner.replace_pages(num_blocks(measured, options)?, kv_dtype).map_err(refused)?;
            runner
        }
    };
    runner.keep_memory();
    Ok(runner)
}

fn check_options(options: &RunnerOptions) -> Result<(), LoadError> {
    let wrong = |flag, found: usize, wanted: &str| Err(LoadError::Option { flag, found: found.to_string(), wanted: wanted.to_string() });
    if options.block_size == 0 || !options.block_size.is_multiple_of(ATTENTION_TILE) {
        return wrong("block-size", options.block_size, "it must be a multiple of 32");
    }
    if options.max_num_batched_tokens == 0 {
        return wrong("max-num-batched-tokens", 0, "it must be at least 1");
    }
    Ok(())
}

fn needs(config: &OpenElmConfig, plan: &Plan, kv_dtype: KvType, max_model_len: usize, options: &RunnerOptions) -> Needs {
    let rows = options.max_num_batched_tokens as u64;
    // Bytes are staged as f32 and have factors; beside them there may be matrices that read f32.
    let has_blocks = plan.types.iter().any(|stored| matches!(stored, WeightType::Blocks(_)));
    let bytes_per_value = if has_blocks { 9 } else { 4 };
    Needs {
        weight_bytes: plan.bytes,
        workspace_bytes: rows * workspace_values_per_row(config) as u64 * bytes_per_value + rows.min(32) * config.vocab_size as u64 * 12,
        block_bytes: (config.kv_bytes_per_token(kv_dtype) * options.block_size) as u64,
        max_model_len,
    }
}
