//! The command line: one file per subcommand, and what they share.
//!
//! `main` calls [`run`]. A subcommand gets what it needs as values, composes the other modules and returns an error chain, which is printed
//! here, once. Exit status: 0 done, 1 failed, 2 the command line or the configuration is wrong.
//!
//! **Architecture invariant:** this is the only place that composes the layers, and the only one that prints.

mod bench;
mod healthcheck;
mod quality;
mod quantize;
mod serve;
mod texts;

use crate::config::{Config, ConfigError, Environment, Flags, Resolved, flags, load};
use crate::server::openapi::document_yaml;
use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use std::ffi::OsString;
use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

/// Why a command ended without doing what was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Run(#[from] anyhow::Error),
}

/// Runs the command in `arguments`, whose first is the name of the program.
pub fn run(arguments: Vec<OsString>, environment: &dyn Environment) -> ExitCode {
    match dispatch(arguments, environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Arguments(error)) => {
            // Help and version are "errors" of clap too, with status 0. A closed pipe is nobody's mistake.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
        Err(Failure::Config(error)) => {
            eprintln!("error: {error}\n\nFor the settings and their values, try '--help'; to see what is resolved, '--check-config'.");
            ExitCode::from(2)
        }
        Err(Failure::Run(error)) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes on one line. Many messages end with their cause already, since logs show them alone.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        said if said.ends_with(&cause) => said.to_owned(),
        said => format!("{said}: {cause}"),
    })
}

fn dispatch(arguments: Vec<OsString>, environment: &dyn Environment) -> Result<(), Failure> {
    let matches = command().try_get_matches_from(arguments)?;
    match matches.subcommand() {
        Some(("openapi", _)) => Ok(print(&document_yaml().map_err(anyhow::Error::msg)?)?),
        Some(("healthcheck", matches)) => Ok(healthcheck::run(&load(&Flags::from_matches(matches), environment)?.config)?),
        Some(("bench", matches)) => bench(matches, environment),
        Some(("quality", matches)) => Ok(quality::run(&quality::Options::from_arg_matches(matches)?)?),
        Some(("quantize", matches)) => Ok(quantize::run(&quantize::Options::from_arg_matches(matches)?)?),
        Some((_, matches)) => serve(matches, environment),
        None => serve(&matches, environment),
    }
}

fn serve(matches: &ArgMatches, environment: &dyn Environment) -> Result<(), Failure> {
    with_config(matches, environment, serve::run)
}

fn bench(matches: &ArgMatches, environment: &dyn Environment) -> Result<(), Failure> {
    let options = bench::Options::from_arg_matches(matches)?;
    with_config(matches, environment, |config| bench::run(config, &options))
}

/// Runs `command` with the configuration, or prints the latter where that is what was asked.
fn with_config(
    matches: &ArgMatches,
    environment: &dyn Environment,
    command: impl FnOnce(&Config) -> anyhow::Result<()>,
) -> Result<(), Failure> {
    let flags = Flags::from_matches(matches);
    let resolved: Resolved = load(&flags, environment)?;
    if flags.check_config {
        return Ok(print(&resolved.to_toml())?);
    }
    Ok(command(&resolved.config)?)
}

/// Every flag stands at the top as well as behind `serve`, which is the default.
fn command() -> Command {
    let serve = Command::new("serve").about("Serve a model over the OpenAI API (the default)").args(flags()).arg(Flags::model_argument());
    let healthcheck = Command::new("healthcheck")
        .about("Ask the server whether it is ready; status 0 if so. It sees variables and file, not the flags of the server")
        .args(flags());
    let bench = Command::new("bench")
        .about("Measure prefill, decode and HTTP beside this machine's own limits; takes the flags of serve")
        .args(flags())
        .arg(Flags::model_argument());
    Command::new("openelm-server")
        .about("An OpenAI-compatible inference server for OpenELM models")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(EXAMPLES)
        .args(flags())
        .args_conflicts_with_subcommands(true)
        .subcommand(serve)
        .subcommand(bench::Options::augment_args(bench))
        .subcommand(quantize::Options::augment_args(
            Command::new("quantize").about("Write a model as a GGUF file with weights in 16, 8 or 4 bits"),
        ))
        .subcommand(quality::Options::augment_args(
            Command::new("quality").about("Measure what weights of fewer bits cost: perplexity and KL divergence against f32"),
        ))
        .subcommand(healthcheck)
        .subcommand(Command::new("openapi").about("Print the OpenAPI description of the server as YAML"))
}

const EXAMPLES: &str = "\
Examples:
  openelm-server                                the demo model on http://127.0.0.1:8000
  openelm-server serve DIR --port 9000          a checkpoint from a directory
  openelm-server serve FILE.gguf                a model in one file
  openelm-server bench DIR --output-svg p.svg   how fast it is here, and how fast it could be
  openelm-server quantize DIR small.gguf --type q4_0   one file, in 4.5 bits a weight
  openelm-server quality DIR --candidates q8_0,small.gguf   what fewer bits cost
  OPENELM_API_KEY=… openelm-server --host 0.0.0.0";

/// Refuses a file of `flag` that cannot be written, before anything slow.
fn check_output(flag: &str, file: &Path) -> anyhow::Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() || file.is_dir() {
        anyhow::bail!("{flag} {}: expected a file in a directory that is there", file.display());
    }
    Ok(())
}

/// Prints `text` to standard output. A reader that has gone away (`| head`) wants no more, and no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != IoErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
