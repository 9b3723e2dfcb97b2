//! Simulation of the scheduler from a seed: random limits, arrivals with shared beginnings, aborts, deadlines, failing steps and sequences, plans
//! that are dropped, too few blocks; millions of steps, no model, no clock.
//!
//! One iteration of a run (`world`):
//!
//! ```text
//! arrive, abort ─▶ schedule ─▶ check the plan ─▶ compute on the shadow KV ─▶ complete ─▶ check the events ─▶ audit
//! ```
//!
//! Now and then the next plan is made ahead, before `complete`; then it is computed right after the one before it, as on a device that is sent both
//! (`ahead`).
//!
//! What makes it bite is `shadow_kv`: every physical slot remembers the text up to its position, a step must find exactly the right
//! text in every earlier position of each sequence, and the next token is a function of what was found. `oracle` says what each
//! sequence must generate when it is alone; `tracked` is an independent record of each one; `plan_checks` and `event_checks` compare.
//! `faults` plants bugs and shows that each is found.
//!
//! A failing seed is printed; `OPENELM_SIM_SEED=<seed> cargo nextest run --lib simulation::tests::replay` runs it alone.

/// Returns an error text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

mod ahead;
mod event_checks;
mod faults;
mod oracle;
mod plan_checks;
mod rng;
mod scenario;
mod shadow_kv;
mod tests;
mod tracked;
mod world;

use crate::kv_cache::Fault;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a run did, for the log of the tests and for the comparison of replays.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    /// Steps that computed something.
    steps: u64,
    /// Steps that were planned ahead of the results before them, and rows of these that were computed for nothing.
    ahead: [u64; 2],
    /// Sequences that ended: finished, failed, expired, aborted.
    ends: [u64; 4],
    preemptions: u64,
    cached_tokens: u64,
    /// Every decision and event as numbers.
    log: Vec<u64>,
}

/// Runs one seed to its end.
///
/// # Errors
/// What was violated, and when. A panic is a violation too.
fn run(seed: u64, fault: Option<Fault>) -> Result<Summary, String> {
    let mut world = world::World::new(seed, fault);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|_| Err("panicked".to_owned()));
    match outcome {
        Ok(()) => Ok(world.summary),
        Err(text) => Err(format!("seed {seed}, step {}: {text}\n{:?}", world.step(), world.scenario)),
    }
}
