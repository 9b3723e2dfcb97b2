//! The binary from outside: what it prints, how it ends, and with which status.

mod bench;
mod config;
mod quality;
mod server;

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run ended with.
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is text");
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    /// The value printed for `key`.
    fn value(&self, key: &str) -> &str {
        let line = self.out.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.unwrap_or_else(|| panic!("{key} in {}{}", self.out, self.err)).split(" # ").next().unwrap_or_default()
    }
}

/// Runs the server with no environment but `variables`, in an empty directory.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let directory = tempfile::tempdir().expect("a temporary directory");
    run_in(directory.path(), arguments, variables)
}

fn run_in(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openelm-server"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).current_dir(directory).stdin(Stdio::null());
    command.output().expect("the binary runs").into()
}
