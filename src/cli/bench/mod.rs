//! `openelm-server bench`: prefill, decode and HTTP load of a model on this machine, each beside the machine's own limits in the same run.
//!
//! [`run`] measures in this order: limits → prefill → decode, on the runner itself → the server under load, with the same runner in its
//! engine. A round of limits comes just before each round of anything; shares are of the round before, figures are medians over rounds.
//!
//! Standard output gets the table and nothing else; progress goes to standard error. Files are written when all is measured, so an
//! interrupted run leaves nothing behind.
//!
//! Not here: time to start and memory, which need a process from outside (`benches/start.py`).

mod http;
mod machine;
mod meter;
mod options;
mod panel;
mod plot;
mod report;
#[cfg(test)]
mod sample;
mod sequences;
mod statistics;
mod steps;
mod table;
mod work;

pub(super) use options::Options;

use super::serve::{self, Loaded};
use crate::config::host::HostResources;
use crate::config::{Config, LogLevel};
use anyhow::{Context as _, bail};
use meter::Meter;
use options::{Part, lengths};
use report::{Instruction, Model, Report, SCHEMA};
use std::path::Path;
use std::time::{Duration, SystemTime};
use steps::{Bench, Rounds};
use work::Work;

/// Measures what `options` ask for, prints it and writes the files.
///
/// # Errors
/// When something cannot be measured or written, and when a request over HTTP failed.
pub(super) fn run(config: &Config, options: &Options) -> anyhow::Result<()> {
    options.check()?;
    let config = &adapted(config, options);
    serve::start_log(config)?;
    let report = measure(config, options)?;
    super::print(&table::table(&report))?;
    if let Some(file) = &options.output_json {
        write("--output-json", file, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    if let Some(file) = &options.output_svg {
        write("--output-svg", file, &plot::svg(&report)?)?;
    }
    match report.errors() {
        0 => Ok(()),
        errors => bail!("{errors} HTTP requests failed; the table holds what the others were like"),
    }
}

/// One line on standard error.
fn progress(text: &str) {
    eprintln!("bench: {text}");
}

fn write(flag: &str, file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("{flag} {}", file.display()))
}

/// The configuration of `serve`, but without prefix cache, and without a line a request in the log.
fn adapted(config: &Config, options: &Options) -> Config {
    let level = if config.log_level == LogLevel::Info { LogLevel::Warn } else { config.log_level };
    // Where no size of the KV cache is given, it has room for as many longest sequences.
    let most = options.batches().into_iter().chain(options.clients()).max().unwrap_or(1);
    let max_num_seqs = config.max_num_seqs.max(most);
    let mut adapted = Config { enable_prefix_caching: false, log_level: level, max_num_seqs, ..config.clone() };
    if options.url.is_none() {
        // Our own server listens on the loopback address, for these clients alone.
        adapted.api_keys.clear();
    }
    adapted
}

fn measure(config: &Config, options: &Options) -> anyhow::Result<Report> {
    let host = HostResources::detect();
    let threads = config.threads.unwrap_or(host.cpus);
    let (date, unix_time_s) = machine::date(SystemTime::now());
    let mut report = Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        date,
        unix_time_s,
        machine: machine::machine(host, threads),
        model: None,
        url: options.url.clone(),
        rounds: options.rounds,
        min_round_ms: options.min_round_ms,
        sampling: options.sampling(),
        limits: None,
        prefill: Vec::new(),
        decode: Vec::new(),
        http: Vec::new(),
    };
    let model = if options.needs_model() { Some(load(config, host, threads)?) } else { None };
    let mut meter = None;
    // To a model on a GPU the CPU's limits are none.
    let is_elsewhere = model.as_ref().is_some_and(|model| model.runner.computes_elsewhere());
    let wants_limits = if is_elsewhere { options.only.contains(&Part::Limits) } else { options.needs_limits() };
    if wants_limits {
        progress("limits of this machine");
        let mut new = Meter::new(threads, model.as_ref().map_or(0, |model| model.info.weight_bytes))?;
        for _ in 0..options.rounds {
            new.round();
        }
        meter = Some(new);
    }
    match (model, &options.url) {
        (Some(model), _) => measure_model(config, options, &mut report, (model, meter.as_mut().filter(|_| !is_elsewhere)))?,
        (None, Some(url)) if options.wants(Part::Http) => report.http = http::of_url(config, options, meter.as_mut(), url)?,
        (None, _) => {}
    }
    report.limits = meter.and_then(|meter| meter.limits());
    Ok(report)
}

/// The model, beside which the buffer of the limits has room. Nothing is written any more when it returns.
fn load(config: &Config, host: HostResources, threads: usize) -> anyhow::Result<Loaded> {
    progress(&format!("loading {}", config.model));
    let mut model = serve::load_beside(config, host, |weight_bytes| meter::buffer_bytes(threads, weight_bytes))?;
    if let Some(writer) = model.writer.take() {
        writer.wait();
    }
    Ok(model)
}

fn measure_model(
    config: &Config,
    options: &Options,
    report: &mut Report,
    (mut model, mut meter): (Loaded, Option<&mut Meter>),
) -> anyhow::Result<()> {
    let shapes = model.files.config()?;
    let work = Work::of(&shapes, &model.info);
    let instruction = meter.is_some().then(|| work::instruction(&model.info));
    let context = model.info.max_model_len;
    report.model = Some(describe(config, &model, (&work, instruction)));
    let prefills = if options.wants(Part::Prefill) { lengths("--prefill", options.prefill.as_ref(), &[512], context)? } else { Vec::new() };
    let (mut batches, mut contexts) = (Vec::new(), Vec::new());
    if options.wants(Part::Decode) {
        batches = options.batches();
        let most = batches.last().copied().unwrap_or(1);
        let limits = model.runner.limits();
        if most > limits.max_num_batched_tokens {
            bail!("--batch {most} is more than --max-num-batched-tokens {}: lower it, or raise that", limits.max_num_batched_tokens);
        }
        let of_pool = |context: usize| context.min(limits.num_blocks / most * limits.block_size).saturating_sub(options.decode_steps);
        contexts = lengths("--context", options.context.as_ref(), &[128, 1900], of_pool(context))?;
        if contexts.is_empty() {
            bail!(
                "the KV cache has no room for --batch {most} and --decode-steps {}: lower them, or raise --kv-cache-memory-bytes",
                options.decode_steps
            );
        }
    }
    if let (true, Some(&most)) = (options.wants(Part::Http), options.clients().last()) {
        // Each client has one request in the queue at most; a queue that is too short would answer 503.
        if most > config.max_num_queued_reqs {
            bail!("--http {most} is more than --max-num-queued-reqs {}: lower it, or raise that", config.max_num_queued_reqs);
        }
    }
    if options.wants(Part::Http) && options.http_prompt_tokens + options.http_output_tokens > context {
        let (prompt, output) = (options.http_prompt_tokens, options.http_output_tokens);
        bail!("--http-prompt-tokens {prompt} and --http-output-tokens {output} are more than the context of {context} tokens: lower them");
    }
    let rounds = Rounds { count: options.rounds, least: Duration::from_millis(options.min_round_ms), decode_steps: options.decode_steps };
    let mut bench = Bench {
        runner: &mut *model.runner,
        meter: meter.as_deref_mut(),
        work,
        instruction,
        rounds,
        sampling: options.sampling(),
        async_scheduling: config.async_scheduling,
    };
    for length in prefills {
        progress(&format!("prefill of {length} tokens"));
        report.prefill.push(bench.prefill(length)?);
    }
    report.decode = bench.decode(&batches, &contexts)?;
    if options.wants(Part::Http) {
        let cost = instruction.map(|instruction| (work, instruction));
        report.http = http::of_model(config, options, meter, (model, cost))?;
    }
    Ok(())
}

fn describe(config: &Config, model: &Loaded, (work, instruction): (&Work, Option<Instruction>)) -> Model {
    let info = &model.info;
    Model {
        name: config.served_model_names[0].clone(),
        parameters: info.parameters,
        weight_bytes: info.weight_bytes,
        weight_bytes_per_step: work.weight_bytes as u64,
        flops_per_token: work.flops(1, 1),
        dtype: info.weights(),
        kv_cache_dtype: info.kv_cache_dtype.to_string(),
        kv_bytes_per_token: info.kv_bytes_per_token,
        kernels: info.kernels.clone(),
        instruction,
        max_model_len: info.max_model_len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A small container holds the demo model and the buffer of the limits; with more threads the buffer is larger.
    #[test]
    fn the_limits_get_the_memory_that_they_take_and_no_more() {
        let host = HostResources { memory_limit_bytes: 1 << 30, memory_available_bytes: 1 << 30, cpus: 2 };
        let config = crate::config::load(&crate::config::Flags::default(), &BTreeMap::new()).expect("valid").config;
        assert!(load(&config, host, 2).is_ok());
        let error = load(&config, host, 16).map(|_| ()).expect_err("the buffer takes all").to_string();
        assert!(error.contains("the weights"), "{error}");
    }

    #[test]
    fn json_reads_back_to_the_same_report() {
        let report = sample::report();
        let text = serde_json::to_string(&report).expect("written");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("read"), report);
        let value: serde_json::Value = serde_json::from_str(&text).expect("read");
        assert_eq!((&value["schema"], &value["model"]["instruction"]), (&1.into(), &"f32_fma".into()));
        assert_eq!(value["decode"][0]["tokens_per_s"]["rounds"].as_array().map(Vec::len), Some(3));
        assert!(value["limits"]["int8_dot_gops"].is_null() && value["url"].is_null());
    }
}
