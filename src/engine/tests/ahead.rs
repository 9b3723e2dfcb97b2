//! Steps submitted ahead of the results before them, to a runner that computes elsewhere: nobody can tell from what comes out.

use super::support::*;
use crate::engine::{Clock, EngineConfig, EngineStatus};
use crate::generation::{ConstraintRef, FailureKind, FinishReason, GenerationEvent, GenerationRequest, SamplingParams, StopCriteria};
use crate::runner::fake::{FakeControl, Fault, greedy_continuation};
use std::sync::Arc;
use std::time::Duration;

fn device(num_blocks: usize) -> (crate::runner::fake::FakeRunner, FakeControl) {
    let (runner, control) = fake(num_blocks, 4);
    (runner.with_device(), control)
}

/// Requests of every kind, by number.
fn any_request(number: usize) -> GenerationRequest {
    let eos = StopCriteria { eos_token_ids: Arc::from([3, 9, 20, 40]), min_tokens: (number % 5) as u32, ..StopCriteria::length(25) };
    let plain = SamplingParams { temperature: 1.0, top_p: 0.9, seed: number as u64, ..SamplingParams::greedy() };
    let sampling = match number % 8 {
        0 => SamplingParams::greedy(),
        1 => SamplingParams { frequency_penalty: 0.7, ..plain },
        2 => SamplingParams { bad_words: Arc::from([Box::from([5, 6])]), ..plain },
        _ => plain,
    };
    GenerationRequest {
        sampling,
        stop: if number.is_multiple_of(3) { StopCriteria::length(1 + number as u32 % 30) } else { eos },
        logprobs: (number % 2 == 1).then_some(2),
        prompt_logprobs: (number % 7 == 3).then_some(1),
        ..request(&prompt(number, 1 + number * 5 % 37), 0)
    }
}

/// Outcomes of requests that come a few at a time.
fn outcomes(mut bench: Bench, numbers: &[usize]) -> Vec<Outcome> {
    let mut streams = Vec::new();
    for chunk in numbers.chunks(3) {
        streams.extend(chunk.iter().map(|&number| bench.submit(any_request(number))));
        (0..4).for_each(|_| bench.turn());
    }
    bench.run_until_idle();
    assert_eq!(bench.blocks_used(), 0);
    bench.core.scheduler().audit().unwrap();
    streams.into_iter().map(collected).collect()
}

#[test]
fn steps_ahead_give_what_steps_one_by_one_give() {
    // With those that cannot be computed ahead among them, and without; with blocks enough, and too few.
    for (num_blocks, max_num_seqs, is_mixed) in [(400, 16, false), (400, 16, true), (40, 16, false), (60, 3, false)] {
        let config = EngineConfig { max_num_seqs, enable_prefix_caching: num_blocks == 60, ..config() };
        let all: Vec<usize> = (0..60).filter(|number| is_mixed || !matches!(number % 8, 1 | 2)).collect();
        let plain = outcomes(Bench::new(fake(num_blocks, 4).0, &config), &all);
        let (runner, control) = device(num_blocks);
        let ahead = outcomes(Bench::new(runner, &config), &all);
        for (number, (ahead, plain)) in all.iter().zip(ahead.iter().zip(&plain)) {
            assert_eq!((&ahead.tokens, &ahead.logprobs), (&plain.tokens, &plain.logprobs), "request {number}");
            assert_eq!((&ahead.prompt_logprobs, &ahead.failed), (&plain.prompt_logprobs, &None), "request {number}");
            assert_eq!(ahead.finished.map(|(reason, _)| reason), plain.finished.map(|(reason, _)| reason), "request {number}");
        }
        assert!(is_mixed || control.awaited() > 20, "{} rows of {num_blocks} blocks", control.awaited());
    }
}

#[test]
fn every_token_but_the_first_and_the_last_is_computed_ahead() {
    let (runner, control) = device(64);
    let mut bench = Bench::new(runner, &config());
    let streams: Vec<_> = (0..4).map(|number| bench.submit(request(&prompt(number, 9), 20))).collect();
    bench.run_until_idle();
    for (number, stream) in streams.into_iter().enumerate() {
        assert_eq!(collected(stream).tokens, greedy_continuation(&fake(1, 4).0, &prompt(number, 9), 20));
    }
    // The first token comes from the prompt, and all that follow are awaited: 19 rows each.
    assert_eq!((control.awaited(), control.steps()), (4 * 19, 20));
}

#[test]
fn without_async_scheduling_steps_come_one_by_one() {
    let (runner, control) = device(64);
    let mut bench = Bench::new(runner, &EngineConfig { async_scheduling: false, ..config() });
    let mut stream = bench.submit(request(&prompt(1, 9), 5));
    bench.turn();
    assert!(matches!(poll(&mut stream)[..], [GenerationEvent::Scheduled { .. }, GenerationEvent::Token { .. }]), "told at once");
    bench.run_until_idle();
    assert_eq!((control.awaited(), control.steps()), (0, 5));
}

#[test]
fn what_depends_on_the_last_token_is_not_computed_ahead_of_it() {
    #[derive(Debug)]
    struct Anything;
    #[derive(Debug)]
    struct Following;
    impl crate::generation::Constraint for Anything {
        fn begin(&self) -> Box<dyn crate::generation::ConstraintState> {
            Box::new(Following)
        }
    }
    impl crate::generation::ConstraintState for Following {
        fn prepare(&mut self) -> Result<(), String> {
            Ok(())
        }
        fn mask(&self) -> Option<&crate::generation::TokenMask> {
            None
        }
        fn accept(&mut self, _token: crate::generation::TokenId) -> Result<bool, String> {
            Ok(false)
        }
    }
    let penalized = |sampling: SamplingParams| GenerationRequest { sampling, ..request(&prompt(1, 9), 10) };
    let requests = [
        penalized(SamplingParams { frequency_penalty: 0.5, ..SamplingParams::greedy() }),
        penalized(SamplingParams { presence_penalty: 0.5, ..SamplingParams::greedy() }),
        penalized(SamplingParams { repetition_penalty: 1.1, ..SamplingParams::greedy() }),
        penalized(SamplingParams { bad_words: Arc::from([Box::from([7]), Box::from([1, 2])]), ..SamplingParams::greedy() }),
        GenerationRequest { constraint: Some(ConstraintRef(Arc::new(Anything))), ..request(&prompt(1, 9), 10) },
    ];
    for one in requests {
        let (runner, control) = device(64);
        let mut bench = Bench::new(runner, &config());
        let stream = bench.submit(one);
        bench.run_until_idle();
        assert_eq!((collected(stream).tokens.len(), control.awaited()), (10, 0));
    }
}

#[test]
fn tokens_are_told_while_the_next_step_is_computed() {
    let mut bench = Bench::new(device(64).0, &config());
    let mut stream = bench.submit(request(&prompt(1, 9), 5));
    let mut tokens = Vec::new();
    for _ in 0..5 {
        bench.turn();
        tokens.push(poll(&mut stream).iter().filter(|event| matches!(event, GenerationEvent::Token { .. })).count());
    }
    // In the second turn the first one's; with nothing left to compute, the last two.
    assert_eq!(tokens, [0, 1, 1, 1, 2]);
    assert!(bench.core.is_idle());
}

/// A row that was computed for a sequence that had ended once threw its blocks out of the prefix cache.
#[test]
fn an_ended_sequence_stays_in_the_prefix_cache() {
    let cached = |runner: crate::runner::fake::FakeRunner| {
        let runner = runner.with_script(&prompt(1, 9), &[10, 11, 12, 13, 14, 3, 15]);
        let mut bench = Bench::new(runner, &EngineConfig { enable_prefix_caching: true, ..config() });
        let stop = StopCriteria { eos_token_ids: Arc::from([3]), ..StopCriteria::length(20) };
        let first = bench.submit(GenerationRequest { stop: stop.clone(), ..request(&prompt(1, 9), 0) });
        bench.run_until_idle();
        let outcome = collected(first);
        assert_eq!((outcome.tokens.len(), outcome.finished.unwrap().0), (6, FinishReason::Stop));
        let longer: Vec<_> = prompt(1, 9).into_iter().chain(outcome.tokens).collect();
        let second = bench.submit(request(&longer, 3));
        bench.run_until_idle();
        collected(second).finished.unwrap().1.cached_tokens
    };
    assert_eq!((cached(fake(64, 4).0), cached(device(64).0)), (12, 12));
}

#[test]
fn whatever_fails_ahead_every_stream_ends_once_and_nothing_leaks() {
    for fault in [Fault::Step, Fault::Panic, Fault::MissingOutput] {
        for passed in 0..6 {
            let (runner, control) = device(64);
            let mut bench = Bench::new(runner, &EngineConfig { max_num_seqs: 2, enable_prefix_caching: true, ..config() });
            let streams: Vec<_> = (0..4).map(|number| bench.submit(request(&prompt(number, 9), 8))).collect();
            (0..passed).for_each(|_| control.pass_next());
            control.fail_next(fault);
            bench.run_until_idle();
            assert_eq!(bench.blocks_used(), 0, "{fault:?} leaks");
            let outcomes: Vec<_> = streams.into_iter().map(collected).collect();
            for outcome in &outcomes[..2] {
                let failure = outcome.failed.as_ref().expect("its step failed");
                assert_eq!((failure.kind, outcome.tokens.len()), (FailureKind::StepFailed, passed), "{fault:?}");
            }
            for (number, outcome) in outcomes.iter().enumerate().skip(2) {
                assert_eq!(outcome.tokens, greedy_continuation(&fake(1, 4).0, &prompt(number, 9), 8), "{fault:?} after {passed}");
            }
        }
    }
}

#[test]
fn a_fatal_error_ahead_tells_first_what_is_known() {
    let (runner, control) = device(64);
    (0..3).for_each(|_| control.pass_next());
    control.fail_next(Fault::Fatal);
    let (handle, _) = start(runner, config());
    let stream = handle.submit(vec![request(&prompt(1, 9), 30)], None).unwrap().remove(0);
    let outcome = block_on(collect(stream));
    assert_eq!((outcome.tokens.len(), outcome.failed.unwrap().kind), (3, FailureKind::EngineDead));
    wait_until("the failure", || matches!(handle.status(), EngineStatus::Failed { .. }));
}

#[test]
fn a_row_without_numbers_fails_its_sequence_alone_ahead() {
    let (runner, _) = device(64);
    let mut bench = Bench::new(runner.with_poison_token(63).with_script(&[1, 2], &[5, 63, 7]), &config());
    let healthy = bench.submit(request(&[4, 5, 6], 12));
    let poisoned = bench.submit(request(&[1, 2], 12));
    bench.run_until_idle();
    assert_eq!(collected(healthy).tokens.len(), 12);
    let outcome = collected(poisoned);
    assert_eq!((outcome.tokens, outcome.failed.unwrap().kind), (vec![5, 63], FailureKind::NonFiniteLogits));
    assert_eq!(bench.blocks_used(), 0);
}

#[test]
fn streams_that_end_from_outside_at_any_moment_leak_nothing_ahead() {
    let mut state: u64 = 5;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for round in 0..40 {
        let caching = EngineConfig { enable_prefix_caching: round % 2 == 0, max_num_seqs: 6, ..config() };
        let mut bench = Bench::new(device(30).0, &caching);
        let mut streams: Vec<_> = (0..20).map(|number| Some(bench.submit(request(&prompt(number, 1 + number), 30)))).collect();
        for _ in 0..100 {
            let index = next() as usize % streams.len();
            match next() % 6 {
                0 | 1 => streams[index] = None,
                2 => streams[index].take().into_iter().for_each(|stream| stream.finish()),
                _ => {}
            }
            bench.turn();
            bench.core.scheduler().audit().unwrap();
        }
        streams.clear();
        bench.run_until_idle();
        assert_eq!(bench.blocks_used(), 0);
        assert_eq!(bench.metric("vllm:num_requests_running") + bench.metric("vllm:num_requests_waiting"), 0.0);
        block_on(bench.handle.drained());
    }
}

#[test]
fn a_step_that_is_refused_ahead_fails_alone() {
    for fault in [Fault::Step, Fault::Panic] {
        for step in 1..6 {
            let (runner, control) = device(64);
            let mut bench = Bench::new(runner, &EngineConfig { max_num_seqs: 2, enable_prefix_caching: true, ..config() });
            let streams: Vec<_> = (0..4).map(|number| bench.submit(request(&prompt(number, 9), 8))).collect();
            control.refuse(step, fault);
            bench.run_until_idle();
            assert_eq!(bench.blocks_used(), 0, "{fault:?} leaks");
            assert_eq!(bench.metric("openelm:step_failures_total"), 1.0);
            let outcomes: Vec<_> = streams.into_iter().map(collected).collect();
            for outcome in &outcomes[..2] {
                let failure = outcome.failed.as_ref().expect("its step failed");
                assert_eq!((failure.kind, outcome.tokens.len() as u64), (FailureKind::StepFailed, step - 1), "{fault:?}");
            }
            for (number, outcome) in outcomes.iter().enumerate().skip(2) {
                assert_eq!(outcome.tokens, greedy_continuation(&fake(1, 4).0, &prompt(number, 9), 8), "{fault:?} in step {step}");
            }
        }
    }
}

#[test]
fn a_runner_that_dies_ahead_ends_the_engine_after_what_it_gave() {
    let (runner, control) = device(64);
    control.refuse(4, Fault::Fatal);
    let (handle, _) = start(runner, config());
    let stream = handle.submit(vec![request(&prompt(1, 9), 30)], None).unwrap().remove(0);
    let outcome = block_on(collect(stream));
    assert_eq!((outcome.tokens.len(), outcome.failed.unwrap().kind), (3, FailureKind::EngineDead));
    wait_until("the failure", || matches!(handle.status(), EngineStatus::Failed { .. }));
}

/// The step before each refused one counted as a success between two panics.
#[test]
fn panics_in_every_step_ahead_end_the_engine() {
    let (runner, control) = device(64);
    [2, 4, 6].into_iter().for_each(|step| control.refuse(step, Fault::Panic));
    let (handle, _) = start(runner, config());
    let run_one = || block_on(collect(handle.submit(vec![request(&[1, 2, 3], 4)], None).unwrap().remove(0)));
    for expected in [FailureKind::StepFailed, FailureKind::StepFailed, FailureKind::EngineDead] {
        assert_eq!(run_one().failed.unwrap().kind, expected);
    }
    wait_until("the failure", || matches!(handle.status(), EngineStatus::Failed { .. }));
}

/// A reader that had gone took its sequence out of a plan that was made, and the whole step failed.
#[test]
fn a_reader_that_leaves_while_another_expires_disturbs_nobody() {
    let (runner, _) = device(64);
    let mut bench = Bench::new(runner, &config());
    let penalized = SamplingParams { frequency_penalty: 0.5, ..SamplingParams::greedy() };
    // No step is sent ahead, so that a plan is made while a token waits to be told.
    let mut streams: Vec<_> =
        (0..2).map(|number| bench.submit(GenerationRequest { sampling: penalized.clone(), ..request(&prompt(number, 9), 20) })).collect();
    let deadline = bench.clock.now() + Duration::from_secs(1);
    let expires = bench.handle.submit(vec![request(&prompt(3, 9), 20)], Some(deadline)).unwrap().remove(0);
    (0..3).for_each(|_| bench.turn());
    bench.clock.advance(Duration::from_secs(2));
    drop(streams.remove(0));
    bench.core.step();
    bench.run_until_idle();
    let expired = collected(expires);
    assert_eq!((expired.tokens.len(), expired.failed.unwrap().kind), (3, FailureKind::DeadlineExceeded));
    let other = collected(streams.remove(0));
    assert_eq!((other.tokens.len(), other.failed), (20, None));
    assert_eq!(bench.blocks_used(), 0);
}

#[test]
fn everything_ends_at_once_with_a_step_on_its_way() {
    let (runner, _) = device(64);
    let mut bench = Bench::new(runner, &config());
    let streams: Vec<_> = (0..3).map(|number| bench.submit(request(&prompt(number, 9), 40))).collect();
    (0..5).for_each(|_| bench.turn());
    bench.core.abort_all(FailureKind::ShuttingDown, "shutting down");
    assert_eq!(bench.blocks_used(), 0);
    for stream in streams {
        let outcome = collected(stream);
        assert_eq!((outcome.tokens.len(), outcome.failed.unwrap().kind), (5, FailureKind::ShuttingDown));
    }
    bench.run_until_idle();
    // And what comes then finds everything in order.
    let later = bench.submit(request(&prompt(1, 9), 5));
    bench.run_until_idle();
    assert_eq!(collected(later).tokens, greedy_continuation(&fake(1, 4).0, &prompt(1, 9), 5));
}
