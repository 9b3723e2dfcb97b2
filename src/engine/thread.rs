//! The engine's thread: commands in, steps, a sign of life, and an orderly end whatever happens.

use super::batch::panic_text;
use super::command::Command;
use super::config::EngineStatus;
use super::core::{EngineCore, StepOutcome};
use super::shared::Shared;
use crate::generation::FailureKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

/// How long an idle engine sleeps at most between two signs of life.
const IDLE_WAIT: Duration = Duration::from_millis(500);

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
enum Exit {
    /// It was told to, or nobody can tell it anything any more.
    Stopped,
    Fatal(String),
}

/// Runs until it is stopped or cannot go on; then every sequence, also one still in the channel, has been told.
pub(super) fn run(mut core: EngineCore, commands: &Receiver<Command>, shared: &Arc<Shared>) {
    // Outside a step only a defect panics; what the core holds may then be inconsistent, so it is told off and not asked.
    let exit = catch_unwind(AssertUnwindSafe(|| run_loop(&mut core, commands, shared)))
        .unwrap_or_else(|panic| Exit::Fatal(format!("engine panicked: {}", panic_text(&*panic))));
    let reason = match exit {
        Exit::Stopped => {
            shared.advance(EngineStatus::Stopped);
            "stopped".to_owned()
        }
        Exit::Fatal(reason) => {
            tracing::error!(reason, "engine failed");
            shared.advance(EngineStatus::Failed { reason: reason.clone() });
            reason
        }
    };
    // From here on nothing is submitted; what was goes the way of the rest.
    while let Ok(command) = commands.try_recv() {
        if let Command::Submit(submissions) = command {
            core.register(submissions);
        }
    }
    core.abandon(&reason);
}

fn run_loop(core: &mut EngineCore, commands: &Receiver<Command>, shared: &Shared) -> Exit {
    loop {
        shared.beat();
        if let Some(exit) = take_commands(core, commands) {
            return exit;
        }
        if core.is_idle() {
            match commands.recv_timeout(IDLE_WAIT) {
                Ok(command) => {
                    if let Some(exit) = obey(core, command) {
                        return exit;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Exit::Stopped,
            }
        } else if let StepOutcome::Fatal(reason) = core.step() {
            return Exit::Fatal(reason);
        }
    }
}

/// Obeys what has come; never waits.
fn take_commands(core: &mut EngineCore, commands: &Receiver<Command>) -> Option<Exit> {
    loop {
        match commands.try_recv() {
            Ok(command) => {
                let exit = obey(core, command);
                if exit.is_some() {
                    return exit;
                }
            }
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => return Some(Exit::Stopped),
        }
    }
}

fn obey(core: &mut EngineCore, command: Command) -> Option<Exit> {
    match command {
        Command::Submit(submissions) => core.submit(submissions),
        Command::Abort(id) => core.abort(id),
        Command::Finish(id) => core.finish(id),
        Command::AbortAll => core.abort_all(FailureKind::ShuttingDown, "shutting down"),
        Command::Stop => {
            core.abort_all(FailureKind::ShuttingDown, "shutting down");
            return Some(Exit::Stopped);
        }
    }
    None
}
