//! Continuous batching: one thread that schedules, computes and reports, step after step.
//!
//! `server` submits [`GenerationRequest`](crate::generation::GenerationRequest)s through an [`EngineHandle`] and reads a
//! [`GenerationStream`] per sequence. The way of a sequence:
//!
//! ```text
//! EngineHandle::submit ── admission ──▶ channel of commands                       any thread, never blocks
//! ────────────────────────────────────────────────────────────────────────────── engine thread
//! thread::run    commands ▸ step ▸ commands ▸ step …, asleep when idle
//! core::step     Scheduler::schedule ▸ ModelRunner::submit ▸ ModelRunner::collect ▸ Scheduler::complete ▸ events
//! ──────────────────────────────────────────────────────────────────────────────
//! GenerationStream::recv ◀── channel of the sequence                               async task
//! ```
//!
//! **Architecture invariant:** the engine never waits for a reader: a sequence's channel has room for every event it can cause.
//! **Architecture invariant:** every accepted sequence ends with exactly one terminal event, and its blocks are free within one step of its end,
//! whoever ends it: itself, its reader, its deadline, a failed step, a panic, a shutdown.
//! **Architecture invariant:** time comes from one [`Clock`]; nothing here calls `Instant::now`, except the clock itself.
//!
//! It knows no text, no HTTP and no tensor; token ids and texts never reach its log.

mod admission;
mod batch;
mod budget;
mod clock;
mod command;
mod config;
mod core;
mod error;
mod handle;
mod observer;
mod shared;
mod stream;
mod thread;

#[cfg(test)]
mod tests;

pub use crate::scheduler::AdmissionError;
pub use clock::{Clock, SystemClock};
pub use config::{EngineConfig, EngineLimits, EngineStatus};
pub use error::{EngineError, QueueLimit, SubmitError};
pub use handle::EngineHandle;
pub use stream::GenerationStream;

use self::core::EngineCore;
use crate::runner::{ModelRunner, RunnerLimits};
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::telemetry::metrics::Metrics;
use admission::Demand;
use budget::StepBudget;
use shared::Shared;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// Starts engines.
#[derive(Debug)]
pub struct Engine;

/// Stack of the engine thread: following the form of a text may recurse as deeply as the form does.
const STACK_BYTES: usize = 64 << 20;

impl Engine {
    /// Starts the engine thread, which owns `runner` until the last handle and stream are gone.
    ///
    /// # Errors
    /// [`EngineError`] when a limit is zero or the thread cannot be started.
    pub fn start(runner: Box<dyn ModelRunner>, config: EngineConfig, metrics: Arc<Metrics>) -> Result<EngineHandle, EngineError> {
        Self::start_with_clock(runner, &config, metrics, Arc::new(SystemClock))
    }

    /// [`Self::start`] with a clock of the caller's.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_clock(
        runner: Box<dyn ModelRunner>,
        config: &EngineConfig,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Result<EngineHandle, EngineError> {
        let (handle, core, commands) = assemble(runner, config, metrics, clock)?;
        let shared = Arc::clone(&handle.shared);
        let body = move || thread::run(core, &commands, &shared);
        std::thread::Builder::new().name("engine".to_owned()).stack_size(STACK_BYTES).spawn(body).map_err(EngineError::Spawn)?;
        Ok(handle)
    }
}

/// Everything but the thread.
fn assemble(
    runner: Box<dyn ModelRunner>,
    config: &EngineConfig,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
) -> Result<(EngineHandle, EngineCore, Receiver<command::Command>), EngineError> {
    let limits = limits(runner.limits(), config)?;
    let scheduler_config = SchedulerConfig {
        max_num_seqs: limits.max_num_seqs,
        max_num_batched_tokens: limits.max_num_batched_tokens,
        max_model_len: limits.max_model_len,
        block_size: limits.block_size,
        num_blocks: limits.num_blocks,
        enable_prefix_caching: config.enable_prefix_caching,
    };
    let queue_limit = Demand { requests: config.max_num_queued_reqs, tokens: config.max_num_queued_tokens };
    let shared = Shared::new(limits, queue_limit, clock);
    let (sender, receiver) = channel();
    let budget = StepBudget::new(config.step_time_target, limits.max_num_batched_tokens);
    let core = EngineCore::new(runner, Scheduler::new(scheduler_config), budget, &shared, Arc::clone(&metrics));
    let core = core.with_async_scheduling(config.async_scheduling);
    let admission = Arc::new(Scheduler::new(scheduler_config));
    Ok((EngineHandle { shared, commands: sender, metrics, admission }, core, receiver))
}

fn limits(runner: RunnerLimits, config: &EngineConfig) -> Result<EngineLimits, EngineError> {
    let limits = EngineLimits {
        max_model_len: config.max_model_len,
        kv_capacity_tokens: runner.num_blocks * runner.block_size,
        block_size: runner.block_size,
        num_blocks: runner.num_blocks,
        vocab_size: runner.vocab_size,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens.min(runner.max_num_batched_tokens),
    };
    let named = [
        ("max_model_len", limits.max_model_len),
        ("the size of the KV cache", limits.kv_capacity_tokens),
        ("vocab_size", limits.vocab_size),
        ("max_num_seqs", limits.max_num_seqs),
        ("max_num_batched_tokens", limits.max_num_batched_tokens),
    ];
    match named.into_iter().find(|(_, value)| *value == 0) {
        Some((limit, _)) => Err(EngineError::ZeroLimit { limit }),
        None => Ok(limits),
    }
}
