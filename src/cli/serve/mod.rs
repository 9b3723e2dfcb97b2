//! `openelm-server serve`: puts the layers together, from the bottom to the top, and tears them down in the other order.
//!
//! The steps of [`run`]: log → port (taken ports are known before anything slow) → resources of the host → files of the model → tokenizer
//! and chat template → weights and KV cache → engine thread → HTTP → banner → a signal → drain.

mod banner;
mod listen;
mod model;
mod progress;
mod shutdown;
mod text;

use crate::config::host::HostResources;
use crate::config::{self, Config, LogFormat, LogLevel};
use crate::engine::{Engine, EngineHandle};
use crate::model::weight_cache::BackgroundWriter;
use crate::model::{LoadProgress, ModelFiles};
use crate::ops::WeightType;
use crate::runner::ModelRunner;
use crate::runner::paged::{self, ModelInfo};
use crate::server::{self, AppState, ModelCard, ServerOptions};
use crate::telemetry::logging::{self, Format};
use crate::telemetry::metrics::{CacheConfig, Metrics};
use anyhow::Context as _;
use banner::Banner;
pub(in crate::cli) use model::kv_type;
use shutdown::{End, Signals};
use std::io::IsTerminal as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use text::Text;
use tokio_util::sync::CancellationToken;

/// Serves until a signal ends it.
pub(super) fn run(config: &Config) -> anyhow::Result<()> {
    let started = Instant::now();
    start_log(config)?;
    let listener = listen::bind(&config.host, config.port)?;
    let url = listen::url(listener.local_addr().context("cannot read the address of the socket")?);
    let host = HostResources::detect();
    tracing::info!(
        cpus = host.cpus,
        memory_limit_bytes = host.memory_limit_bytes,
        memory_available_bytes = host.memory_available_bytes,
        "resources"
    );
    let mut model = load(config, host)?;
    let writer = model.writer.take();
    let (state, info) = start(config, model)?;
    let startup = started.elapsed();
    state.metrics.set_startup(startup);
    tracing::info!(startup_seconds = startup.as_secs_f64(), url, model = config.served_model_names[0], "ready");
    let banner = banner(config, &state.model, &info, (url, startup));
    let end = serve(state, listener, (config.shutdown_timeout, host.cpus), &banner)?;
    // Should it still be at work: the next start writes the packed weights instead.
    drop(writer);
    if let End::Forced(signal) = end {
        // As a shell reports a process that a signal ended. The engine may be in the middle of a step: nothing is waited for.
        std::process::exit(128 + signal);
    }
    Ok(())
}

/// Sends the log where the configuration says.
pub(super) fn start_log(config: &Config) -> anyhow::Result<()> {
    let color = std::io::stderr().is_terminal() && !config::no_color();
    let format = match config.log_format {
        LogFormat::Json => Format::Json,
        LogFormat::Text if color => Format::Color,
        LogFormat::Text => Format::Plain,
    };
    let level = match config.log_level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    Ok(logging::init(level, format)?)
}

/// A model in memory, with its text side.
pub(super) struct Loaded {
    /// What it was read from.
    pub(super) files: ModelFiles,
    text: Text,
    /// What computes.
    pub(super) runner: Box<dyn ModelRunner>,
    /// What it says of itself.
    pub(super) info: ModelInfo,
    /// What still writes packed weights.
    pub(super) writer: Option<BackgroundWriter>,
}

/// Reads files, tokenizer and weights, and allocates the KV cache.
pub(super) fn load(config: &Config, host: HostResources) -> anyhow::Result<Loaded> {
    load_beside(config, host, |_| 0)
}

/// As [`load`], leaving memory to something else: as many bytes as `beside` says of the bytes of the weights.
pub(super) fn load_beside(config: &Config, mut host: HostResources, beside: impl FnOnce(u64) -> u64) -> anyhow::Result<Loaded> {
    let files = model::open(config)?;
    let weight_bytes = paged::weight_bytes(&files, model::weight_options(config))?;
    host.memory_available_bytes = host.memory_available_bytes.saturating_sub(beside(weight_bytes));
    let text = Text::choose(config, &files)?;
    let paged::Loaded { runner, info, writer } = load_weights(config, host, &files)?;
    text.check_vocabulary(&files, info.vocab_size)?;
    log_model(config, &files, &info, &text);
    Ok(Loaded { files, text, runner, info, writer })
}

/// Starts the engine on a model, up to the state that the routes share.
pub(super) fn start(config: &Config, model: Loaded) -> anyhow::Result<(AppState, ModelInfo)> {
    let Loaded { files, text, runner, info, writer: _writer } = model;
    let defaults = model::generation_defaults(config, &files, &info, text.tokenizer.as_deref())?;
    let metrics = Metrics::new(&config.served_model_names[0]);
    metrics.set_cache_config(CacheConfig {
        block_size: info.block_size,
        num_blocks: info.num_blocks,
        cache_dtype: &info.kv_cache_dtype.to_string(),
        enable_prefix_caching: config.enable_prefix_caching,
    });
    let engine = Engine::start(runner, model::engine_config(config, &info), Arc::clone(&metrics))?;
    let state = AppState {
        engine,
        model: card(config, &info, &text),
        tokenizer: text.tokenizer,
        template: text.template,
        defaults,
        metrics,
        options: options(config)?,
    };
    Ok((state, info))
}

/// The weights and what computes with them. What takes long shows how far it is.
fn load_weights(config: &Config, host: HostResources, files: &ModelFiles) -> anyhow::Result<paged::Loaded<Box<dyn ModelRunner>>> {
    let is_wanted = !matches!(config.log_level, LogLevel::Error | LogLevel::Warn);
    let is_terminal = std::io::stderr().is_terminal() && config.log_format == LogFormat::Text;
    let show = if is_terminal { progress::Show::Terminal } else { progress::Show::Log };
    let progress = Arc::new(LoadProgress::default());
    let _display = is_wanted.then(|| progress::Display::start(Arc::clone(&progress), show));
    Ok(paged::load_on_device(files, &model::runner_options(config, host), model::device_options(config), &progress)?)
}

fn log_model(config: &Config, files: &ModelFiles, info: &ModelInfo, text: &Text) {
    let is_number = |stored: &WeightType| matches!(stored, WeightType::Scalar(_));
    let most = info.weight_types.first().filter(|stored| is_number(stored));
    let is_lowered = is_number(&info.checkpoint_type) && most.is_some_and(|most| *most != info.checkpoint_type);
    if config.dtype == config::Dtype::Auto && is_lowered {
        tracing::info!(from = %info.checkpoint_type, to = info.weights(), "weights are lowered; --dtype float32 keeps them");
    }
    if info.not_quantised > 0 {
        let reason = "blocks of 32 do not divide their rows";
        tracing::warn!(matrices = info.not_quantised, reason, "matrices are not quantised");
    }
    tracing::info!(
        config = files.config.name(),
        parameters = info.parameters,
        weight_bytes = info.weight_bytes,
        dtype = info.weights(),
        kernels = info.kernels,
        fingerprint = info.fingerprint,
        chat_template = text.tokenizer.as_ref().map(|_| text.template.name()),
        "model loaded"
    );
    tracing::info!(
        tokens = info.num_blocks * info.block_size,
        blocks = info.num_blocks,
        block_size = info.block_size,
        bytes_per_token = info.kv_bytes_per_token,
        dtype = %info.kv_cache_dtype,
        prefix_caching = config.enable_prefix_caching,
        "kv cache allocated"
    );
    if info.max_model_len > info.trained_context {
        tracing::warn!(
            max_model_len = info.max_model_len,
            trained = info.trained_context,
            "context is longer than the model was trained on"
        );
    }
}

fn card(config: &Config, info: &ModelInfo, text: &Text) -> ModelCard {
    ModelCard {
        names: config.served_model_names.clone(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        max_model_len: info.max_model_len,
        fingerprint: info.fingerprint.clone(),
        chat_template: text.tokenizer.as_ref().map(|_| text.template.name().to_owned()),
    }
}

fn options(config: &Config) -> anyhow::Result<ServerOptions> {
    Ok(ServerOptions {
        cors_allowed_origins: config.cors_allowed_origins.clone(),
        api_keys: config.api_keys.iter().map(|key| key.expose().to_owned()).collect(),
        max_body_bytes: usize::try_from(config.max_body_bytes).context("--max-body-bytes is more than this machine can address")?,
        header_timeout: config.header_timeout,
        write_timeout: config.write_timeout,
        sse_keep_alive: config.sse_keep_alive,
        // Counts from the moment the server closes, when no sequence runs any more.
        shutdown_timeout: config.shutdown_timeout.max(shutdown::FLUSH_TIME),
        liveness_timeout: config.liveness_timeout,
        max_choices: config.max_choices,
        default_seed: config.seed,
        ..ServerOptions::default()
    })
}

fn banner(config: &Config, card: &ModelCard, info: &ModelInfo, (url, startup): (String, Duration)) -> Banner {
    let kv_tokens = info.num_blocks * info.block_size;
    Banner {
        url,
        name: card.names[0].clone(),
        source: config.model.to_string(),
        parameters: info.parameters,
        weight_bytes: info.weight_bytes,
        dtype: info.weights(),
        kernels: info.kernels.clone(),
        kv_tokens,
        kv_bytes: kv_tokens as u64 * info.kv_bytes_per_token,
        kv_dtype: info.kv_cache_dtype.to_string(),
        max_model_len: info.max_model_len,
        template: card.chat_template.clone(),
        api_keys: config.api_keys.len(),
        startup,
    }
}

/// Serves HTTP until a signal, and then until everything is finished or cut.
fn serve(state: AppState, listener: TcpListener, (limit, cpus): (Duration, usize), banner: &Banner) -> anyhow::Result<End> {
    // The engine computes on its own threads; these only parse, encode and write. A small machine keeps two, so that one long prompt
    // does not stop the others' streams.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("http")
        .worker_threads(cpus.clamp(2, 4))
        .max_blocking_threads(cpus.clamp(2, 16))
        .enable_all()
        .build()
        .context("cannot start the threads of the HTTP server")?;
    let engine = state.engine.clone();
    let end = runtime.block_on(serve_until_signal(state, listener, limit, banner));
    engine.stop();
    // Whatever still runs belongs to connections that were cut.
    runtime.shutdown_timeout(Duration::from_secs(1));
    end
}

async fn serve_until_signal(state: AppState, listener: TcpListener, limit: Duration, banner: &Banner) -> anyhow::Result<End> {
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot hand the socket to the HTTP server")?;
    let signals = Signals::listen().context("cannot watch for signals")?;
    // Only now: whoever reads the banner may send a signal at once.
    super::print(&banner.to_string())?;
    let engine: EngineHandle = state.engine.clone();
    let options = state.options.clone();
    let close = CancellationToken::new();
    let served = server::serve(listener, server::app(state), options, close.clone());
    tokio::select! {
        () = served => {
            tracing::info!("stopped");
            Ok(End::Orderly)
        }
        end = shutdown::drain_on_signal(signals, engine, close, limit) => {
            tracing::warn!(?end, "stopped with connections open");
            Ok(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};
    use std::collections::BTreeMap;

    #[test]
    fn the_liveness_timeout_reaches_the_server() {
        let options_of = |variables: BTreeMap<String, String>| {
            let resolved = load(&Flags::default(), &variables).expect("valid");
            options(&resolved.config).expect("valid").liveness_timeout
        };
        assert_eq!(options_of(BTreeMap::new()), Duration::from_secs(60));
        assert_eq!(options_of(BTreeMap::from([("OPENELM_LIVENESS_TIMEOUT".to_owned(), "2m".to_owned())])), Duration::from_secs(120));
    }
}
