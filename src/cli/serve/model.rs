//! What the configuration means for the loader, the engine and the sampling defaults.

use crate::config::host::HostResources;
use crate::config::{self, Config, Dtype, GenerationConfigSource, KvCacheDtype, Quantization, WeightCache};
use crate::engine::EngineConfig;
use crate::model::files::read;
use crate::model::{GenerationDefaults, ModelFiles, ModelSource, TokenizerSource};
use crate::ops::cpu::CpuKernels;
use crate::ops::{BlockFormat, DType, KvType};
use crate::runner::paged::{DeviceChoice, DeviceOptions, ModelInfo, RunnerOptions, WeightOptions};
use crate::server;
use crate::tokenizer::Tokenizer;
use std::path::PathBuf;

/// The model's files, with the tokenizer that was asked for.
pub(super) fn open(config: &Config) -> anyhow::Result<ModelFiles> {
    let source = match &config.model {
        config::ModelSource::Embedded => ModelSource::Embedded,
        config::ModelSource::Directory(path) => ModelSource::Directory(path.clone()),
        config::ModelSource::File(path) => ModelSource::File(path.clone()),
    };
    let tokenizer = if config.skip_tokenizer_init { TokenizerSource::Nowhere } else { config.tokenizer.as_deref().into() };
    Ok(ModelFiles::open(&source, tokenizer)?)
}

/// How the runner is built.
pub(super) fn runner_options(config: &Config, host: HostResources) -> RunnerOptions {
    RunnerOptions {
        weights: weight_options(config),
        kv_cache_dtype: kv_type(config.kv_cache_dtype),
        max_model_len: config.max_model_len,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        block_size: config.block_size,
        threads: config.threads.unwrap_or(host.cpus),
        cpu_kernels: cpu_kernels(config.cpu_kernels),
        kv_cache_memory_bytes: config.kv_cache_memory_bytes,
        memory_bytes: host.memory_available_bytes,
        kv_cache_share: RunnerOptions::default().kv_cache_share,
        weight_cache: weight_cache(config, config::cache_home()),
    }
}

/// Which device computes.
pub(super) fn device_options(config: &Config) -> DeviceOptions {
    let choice = match config.device {
        config::Device::Auto => DeviceChoice::Auto,
        config::Device::Cpu => DeviceChoice::Cpu,
        config::Device::Cuda(ordinal) => DeviceChoice::Cuda(ordinal),
        config::Device::Metal => DeviceChoice::Metal,
    };
    DeviceOptions { choice, memory_utilization: config.gpu_memory_utilization, is_batch_invariant: config.batch_invariant }
}

/// Where packed weights are kept. The demo model loads faster than a file is found.
fn weight_cache(config: &Config, home: Option<PathBuf>) -> Option<PathBuf> {
    match &config.weight_cache {
        _ if config.model == config::ModelSource::Embedded => None,
        WeightCache::Off => None,
        WeightCache::Directory(path) => Some(path.clone()),
        WeightCache::Auto => {
            let path = home.map(|home| home.join("openelm-server"));
            if path.is_none() {
                let reason = "neither XDG_CACHE_HOME nor HOME names an absolute path";
                tracing::warn!(reason, "packed weights are not kept; --weight-cache DIR names another place, or off");
            }
            path
        }
    }
}

/// The type that was asked for; `None` leaves it to the model.
fn dtype(asked: Dtype) -> Option<DType> {
    match asked {
        Dtype::Auto => None,
        Dtype::Float32 => Some(DType::F32),
        Dtype::Bfloat16 => Some(DType::Bf16),
        Dtype::Float16 => Some(DType::F16),
    }
}

/// The type of the KV cache that was asked for; `None` leaves it to the model.
pub(in crate::cli) fn kv_type(asked: KvCacheDtype) -> Option<KvType> {
    match asked {
        KvCacheDtype::Auto => None,
        KvCacheDtype::Float32 => Some(DType::F32.into()),
        KvCacheDtype::Bfloat16 => Some(DType::Bf16.into()),
        KvCacheDtype::Float16 => Some(DType::F16.into()),
        KvCacheDtype::Int8 => Some(KvType::Int8),
    }
}

/// How weights are stored.
pub(super) fn weight_options(config: &Config) -> WeightOptions {
    let quantization = match config.quantization {
        Quantization::None => None,
        Quantization::Q8_0 => Some(BlockFormat::Q8_0),
        Quantization::Q4_0 => Some(BlockFormat::Q4_0),
    };
    WeightOptions { dtype: dtype(config.dtype), quantization, keeps_blocks: true }
}

fn cpu_kernels(asked: config::CpuKernels) -> CpuKernels {
    match asked {
        config::CpuKernels::Auto => CpuKernels::Auto,
        config::CpuKernels::Portable => CpuKernels::Portable,
        config::CpuKernels::Avx512Bf16 => CpuKernels::Avx512Bf16,
    }
}

/// How the engine is started.
pub(super) fn engine_config(config: &Config, info: &ModelInfo) -> EngineConfig {
    EngineConfig {
        max_model_len: info.max_model_len,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        enable_prefix_caching: config.enable_prefix_caching,
        async_scheduling: config.async_scheduling,
        max_num_queued_reqs: config.max_num_queued_reqs,
        max_num_queued_tokens: config.max_num_queued_tokens,
        ..EngineConfig::default()
    }
}

/// Sampling defaults and the tokens that end a text. The latter are taken from the model even where its sampling defaults are not wanted:
/// `generation_config.json`, else `config.json`, else the tokenizer.
pub(super) fn generation_defaults(
    config: &Config,
    files: &ModelFiles,
    info: &ModelInfo,
    tokenizer: Option<&Tokenizer>,
) -> anyhow::Result<server::GenerationDefaults> {
    let own = files.generation_config.as_ref().map(GenerationDefaults::parse).transpose()?.unwrap_or_default();
    let own_eos = own.eos_token_ids.clone();
    let sampling = match &config.generation_config {
        GenerationConfigSource::Auto => own,
        GenerationConfigSource::Vllm => GenerationDefaults::default(),
        GenerationConfigSource::Path(path) => {
            let file = if path.is_dir() { path.join("generation_config.json") } else { path.clone() };
            GenerationDefaults::parse(&read(&file)?)?
        }
    };
    let of_config = || (!info.eos_token_ids.is_empty()).then(|| info.eos_token_ids.clone());
    let of_tokenizer = || tokenizer.and_then(Tokenizer::eos_token).map(|(_, id)| vec![id]);
    let eos_token_ids = sampling.eos_token_ids.or(own_eos).or_else(of_config).or_else(of_tokenizer).unwrap_or_default();
    if let Some(id) = eos_token_ids.iter().find(|&&id| id as usize >= info.vocab_size) {
        let size = info.vocab_size;
        anyhow::bail!(
            "eos_token_id {id} is outside the vocabulary of {size} tokens: correct generation_config.json (or --generation-config)"
        );
    }
    if eos_token_ids.is_empty() {
        tracing::warn!("neither the model nor its tokenizer names an end-of-sequence token: every answer runs to its limit");
    }
    Ok(server::GenerationDefaults {
        eos_token_ids,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        max_new_tokens: sampling.max_new_tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};
    use std::collections::BTreeMap;

    const HOST: HostResources = HostResources { memory_limit_bytes: 2000, memory_available_bytes: 1000, cpus: 3 };

    fn config(variables: &[(&str, &str)]) -> Config {
        let variables: BTreeMap<String, String> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(&Flags::default(), &variables).expect("valid").config
    }

    fn info(eos_token_ids: &[u32]) -> ModelInfo {
        ModelInfo {
            parameters: 1,
            weight_bytes: 2,
            weight_types: vec![DType::Bf16.into()],
            checkpoint_type: DType::F32.into(),
            not_quantised: 0,
            kv_cache_dtype: DType::Bf16.into(),
            kernels: "reference".to_owned(),
            product_arithmetic: "reference".to_owned(),
            fingerprint: "fp".to_owned(),
            max_model_len: 100,
            trained_context: 512,
            vocab_size: 3072,
            bos_token_id: Some(1),
            eos_token_ids: eos_token_ids.to_vec(),
            num_blocks: 4,
            block_size: 32,
            kv_bytes_per_token: 10,
        }
    }

    #[test]
    fn limits_of_the_host_are_the_defaults_of_the_runner() {
        let options = runner_options(&config(&[]), HOST);
        assert_eq!((options.threads, options.memory_bytes, options.weights, options.block_size), (3, 1000, WeightOptions::default(), 32));
        let set =
            [("OPENELM_THREADS", "2"), ("OPENELM_DTYPE", "float32"), ("OPENELM_KV_CACHE_DTYPE", "float16"), ("OPENELM_MAX_NUM_SEQS", "7")];
        let options = runner_options(&config(&set), HOST);
        assert_eq!(
            (options.threads, options.weights.dtype, options.kv_cache_dtype, options.max_num_seqs),
            (2, Some(DType::F32), Some(DType::F16.into()), 7)
        );
    }

    #[test]
    fn packed_weights_are_kept_where_asked_and_never_those_of_the_demo_model() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("config.json"), "{}").expect("written");
        let model = ("OPENELM_MODEL", directory.path().to_str().expect("text"));
        let home = || Some(PathBuf::from("/home/a/.cache"));
        let place = |variables: &[(&str, &str)], home| weight_cache(&config(variables), home);
        assert_eq!(place(&[model], home()), Some(PathBuf::from("/home/a/.cache/openelm-server")));
        assert_eq!(place(&[model], None), None);
        assert_eq!(place(&[model, ("OPENELM_WEIGHT_CACHE", "off")], home()), None);
        assert_eq!(place(&[model, ("OPENELM_WEIGHT_CACHE", "/packed")], None), Some(PathBuf::from("/packed")));
        assert_eq!(place(&[("OPENELM_WEIGHT_CACHE", "/packed")], home()), None);
    }

    #[test]
    fn the_engine_gets_the_context_of_the_loaded_model() {
        let engine =
            engine_config(&config(&[("OPENELM_MAX_NUM_QUEUED_REQS", "5"), ("OPENELM_ENABLE_PREFIX_CACHING", "false")]), &info(&[]));
        assert_eq!((engine.max_model_len, engine.max_num_queued_reqs, engine.enable_prefix_caching), (100, 5, false));
    }

    #[test]
    fn ends_of_text_come_from_the_model_whatever_its_sampling_defaults_are() {
        let mut files = open(&config(&[])).expect("the embedded model");
        let defaults = |variable: &str, files: &ModelFiles, info: &ModelInfo| {
            generation_defaults(&config(&[("OPENELM_GENERATION_CONFIG", variable)]), files, info, None).expect("valid")
        };
        let own = defaults("auto", &files, &info(&[9]));
        assert_eq!((own.temperature, own.eos_token_ids), (Some(0.6), vec![2]));
        let neutral = defaults("vllm", &files, &info(&[9]));
        assert_eq!((neutral.temperature, neutral.top_p, neutral.eos_token_ids), (None, None, vec![2]));

        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("generation_config.json");
        std::fs::write(&path, "{\"temperature\": 0.25}").expect("written");
        for path in [&path, &directory.path().to_path_buf()] {
            let named = defaults(&path.display().to_string(), &files, &info(&[9]));
            assert_eq!((named.temperature, named.eos_token_ids), (Some(0.25), vec![2]));
        }
        files.generation_config = None;
        assert_eq!(defaults("auto", &files, &info(&[9])).eos_token_ids, [9]);
        assert!(defaults("auto", &files, &info(&[])).eos_token_ids.is_empty());
    }
}
