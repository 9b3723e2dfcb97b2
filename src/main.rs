//! The `openelm-server` binary: hands arguments and environment to [`openelm_server::cli`], and its verdict to the system.

use openelm_server::{cli, config};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(config::arguments(), &config::ProcessEnvironment)
}
