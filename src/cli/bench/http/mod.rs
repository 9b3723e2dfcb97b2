//! The server under load: a closed loop of clients that stream completions.
//!
//! The server is the real one, over a loopback socket, with its engine and without its prefix cache, or the one of `--url`. The clients run
//! in the same process, on the threads of the HTTP server; they parse one small event a token, about a hundredth of the time of a step.

mod client;
mod load;
mod prompts;
mod target;

use super::meter::Meter;
use super::options::Options;
use super::report::{Http, Instruction};
use super::work::Work;
use crate::cli::serve::{self, Loaded};
use crate::config::Config;
use crate::server;
use anyhow::Context as _;
use client::Client;
use load::Load;
use prompts::Prompts;
use target::Target;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Ids that every vocabulary of Llama's kind has, for a server whose vocabulary is not known.
const COMMON_VOCABULARY: usize = 3000;

/// What the requests of our own model cost, and what computes them.
pub(super) type Cost = (Work, Instruction);

/// Measures the server of `url`.
pub(super) fn of_url(config: &Config, options: &Options, meter: Option<&mut Meter>, url: &str) -> anyhow::Result<Vec<Http>> {
    let runtime = runtime()?;
    let key = config.api_keys.first().map(|key| key.expose().to_owned());
    let target = Target::parse(url, key).with_context(|| format!("--url {url}"))?;
    let mut client = Client::new(target);
    let model = runtime.block_on(client.first_model()).with_context(|| format!("--url {url}: cannot ask which models it has"))?;
    client.model = Some(model);
    let prompts = Prompts::new(options, COMMON_VOCABULARY)?;
    measure(&runtime, Load { client, prompts, options: options.clone() }, meter, None)
}

/// Starts a server with `model` and measures it.
pub(super) fn of_model(
    config: &Config,
    options: &Options,
    meter: Option<&mut Meter>,
    (model, cost): (Loaded, Option<Cost>),
) -> anyhow::Result<Vec<Http>> {
    let vocabulary = model.info.vocab_size;
    let runtime = runtime()?;
    let (state, _) = serve::start(config, model)?;
    let (engine, server_options) = (state.engine.clone(), state.options.clone());
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).context("cannot listen on 127.0.0.1")?;
    let address = listener.local_addr().context("cannot read the address of the socket")?;
    let close = CancellationToken::new();
    let server = runtime.spawn(server::serve(listener, server::app(state), server_options, close.clone()));
    let target = Target::parse(&format!("http://{address}"), None)?;
    let load = Load { client: Client::new(target), prompts: Prompts::new(options, vocabulary)?, options: options.clone() };
    let found = measure(&runtime, load, meter, cost);
    close.cancel();
    runtime.block_on(server).context("the HTTP server ended early")?;
    engine.stop();
    found
}

fn measure(runtime: &Runtime, mut load: Load, mut meter: Option<&mut Meter>, cost: Option<Cost>) -> anyhow::Result<Vec<Http>> {
    let mut found = Vec::new();
    for clients in load.options.clients() {
        super::progress(&format!("HTTP with {clients} clients"));
        let mut rounds = Vec::new();
        runtime.block_on(load.warm_up(clients));
        for _ in 0..load.options.rounds {
            let limits = meter.as_deref_mut().map(Meter::round);
            rounds.push(runtime.block_on(load.round(clients, limits)));
        }
        // Prompts made of text have about the length asked for: too vague to count operations by.
        let cost = cost.filter(|_| load.options.prompt_text.is_none());
        found.push(load::summary(&load.options, clients, &rounds, cost));
    }
    Ok(found)
}

fn runtime() -> anyhow::Result<Runtime> {
    // As in `serve`: the engine computes on threads of its own.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_name("http").worker_threads(2).enable_all().build().context("cannot start the threads of the HTTP server")
}
