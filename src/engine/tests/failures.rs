//! Steps that fail, panic, hang, or give numbers that are none.

use super::support::*;
use crate::engine::{EngineConfig, EngineStatus, SubmitError};
use crate::generation::{FailureKind, GenerationRequest};
use crate::runner::fake::{Fault, greedy_continuation};

fn failed_with(outcome: &Outcome) -> FailureKind {
    outcome.failed.as_ref().expect("it failed").kind
}

#[test]
fn a_failed_step_fails_its_sequences_and_no_other() {
    for fault in [Fault::Step, Fault::Panic, Fault::MissingOutput] {
        let (runner, control) = fake(64, 4);
        let mut bench = Bench::new(runner, &EngineConfig { max_num_seqs: 2, enable_prefix_caching: true, ..config() });
        let streams: Vec<_> = (0..4).map(|number| bench.submit(request(&prompt(number, 9), 6))).collect();
        control.pass_next();
        control.fail_next(fault);
        bench.run_until_idle();
        assert_eq!(bench.blocks_used(), 0, "{fault:?} leaks");
        let outcomes: Vec<_> = streams.into_iter().map(collected).collect();
        for outcome in &outcomes[..2] {
            assert_eq!(failed_with(outcome), FailureKind::StepFailed);
            assert_eq!(outcome.tokens.len(), 1, "the step before counted");
        }
        for (number, outcome) in outcomes.iter().enumerate().skip(2) {
            assert_eq!(outcome.tokens, greedy_continuation(&fake(1, 4).0, &prompt(number, 9), 6));
        }
        assert_eq!(bench.metric("vllm:request_success_total{engine=\"0\",finished_reason=\"error\""), 2.0);
        assert_eq!(bench.metric("openelm:step_failures_total"), 1.0);
        // What a failed step wrote is not found again.
        let again = bench.submit(request(&prompt(0, 9), 6));
        bench.run_until_idle();
        let again = collected(again);
        assert_eq!(again.tokens, greedy_continuation(&fake(1, 4).0, &prompt(0, 9), 6));
    }
}

#[test]
fn a_row_without_numbers_fails_its_sequence_alone() {
    for prompt_logprobs in [None, Some(2)] {
        let (runner, _) = fake(64, 4);
        let mut bench = Bench::new(runner.with_poison_token(63), &config());
        let healthy = bench.submit(request(&[1, 2, 3], 6));
        let poisoned = bench.submit(GenerationRequest { prompt_logprobs, ..request(&[1, 63, 2, 4, 5], 6) });
        bench.run_until_idle();
        assert_eq!(collected(healthy).tokens.len(), 6);
        let outcome = collected(poisoned);
        assert_eq!((failed_with(&outcome), outcome.tokens.len()), (FailureKind::NonFiniteLogits, 0));
        assert_eq!(bench.blocks_used(), 0);
    }
}

#[test]
fn a_prompt_that_cannot_be_scored_fails_before_its_last_chunk() {
    let (runner, _) = fake(64, 4);
    let mut bench = Bench::new(runner.with_poison_token(63), &EngineConfig { max_num_batched_tokens: 4, ..config() });
    let mut tokens = prompt(1, 40);
    tokens[5] = 63;
    let stream = bench.submit(GenerationRequest { prompt_logprobs: Some(0), ..request(&tokens, 6) });
    for _ in 0..3 {
        bench.turn();
    }
    assert!(bench.core.is_idle());
    let outcome = collected(stream);
    assert_eq!((failed_with(&outcome), outcome.prompt_logprobs.len()), (FailureKind::NonFiniteLogits, 5));
}

#[test]
fn a_fatal_error_ends_the_engine_and_tells_everyone() {
    let (runner, control) = fake(64, 4);
    let (handle, metrics) = start(runner, EngineConfig { max_num_seqs: 2, ..config() });
    control.hang();
    let mut streams = handle.submit((0..4).map(|number| request(&prompt(number, 5), 9)).collect(), None).unwrap();
    wait_until("the first step", || control.steps() == 1);
    // In the channel while the engine dies.
    streams.extend(handle.submit(vec![request(&[1, 2], 3)], None).unwrap());
    control.fail_next(Fault::Fatal);
    control.fail_next(Fault::Fatal);
    control.release();
    for stream in streams {
        let outcome = block_on(collect(stream));
        assert_eq!(failed_with(&outcome), FailureKind::EngineDead);
    }
    block_on(handle.drained());
    let EngineStatus::Failed { reason } = handle.status() else { panic!("{:?}", handle.status()) };
    assert!(reason.contains("injected"), "{reason}");
    assert!(matches!(handle.submit(vec![request(&[1], 1)], None), Err(SubmitError::Dead { reason: found }) if found == reason));
    assert_eq!(metric(&metrics, "vllm:request_success_total{engine=\"0\",finished_reason=\"error\""), 5.0);
    handle.begin_drain();
    assert!(matches!(handle.status(), EngineStatus::Failed { .. }), "a failure is final");
}

#[test]
fn panics_in_a_row_end_the_engine_and_single_ones_do_not() {
    let (runner, control) = fake(64, 4);
    let (handle, _) = start(runner, config());
    let run_one = || block_on(collect(handle.submit(vec![request(&[1, 2, 3], 4)], None).unwrap().remove(0)));
    for _ in 0..4 {
        control.fail_next(Fault::Panic);
        assert_eq!(failed_with(&run_one()), FailureKind::StepFailed);
        assert_eq!(run_one().tokens.len(), 4, "a step that succeeds ends the row");
    }
    for expected in [FailureKind::StepFailed, FailureKind::StepFailed, FailureKind::EngineDead] {
        control.fail_next(Fault::Panic);
        assert_eq!(failed_with(&run_one()), expected);
    }
    wait_until("the failure", || matches!(handle.status(), EngineStatus::Failed { .. }));
}

#[test]
fn a_hung_step_shows_in_the_heartbeat() {
    let (runner, control) = fake(64, 4);
    let (handle, _) = start(runner, config());
    control.hang();
    let stream = handle.submit(vec![request(&[1, 2, 3], 4)], None).unwrap().remove(0);
    wait_until("an old heartbeat", || handle.heartbeat_age().as_millis() > 700);
    control.release();
    assert_eq!(block_on(collect(stream)).tokens.len(), 4);
    // An idle engine beats.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert!(handle.heartbeat_age().as_millis() < 1000);
}
