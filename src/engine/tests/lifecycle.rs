//! Streams that are dropped or not read, deadlines, drains, shutdowns.

use super::support::*;
use crate::engine::{Clock, EngineConfig, EngineStatus, SubmitError};
use crate::generation::{FailureKind, FinishReason, GenerationEvent, GenerationRequest};
use crate::runner::fake::FakeRunner;
use std::time::Duration;

/// A small generator of test choices.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn a_dropped_stream_is_free_within_one_step() {
    let mut bench = Bench::new(fake(64, 4).0, &config());
    let keep = bench.submit(request(&prompt(1, 9), 60));
    let gone = bench.submit(request(&prompt(2, 30), 60));
    for _ in 0..3 {
        bench.turn();
    }
    let both = bench.blocks_used();
    drop(gone);
    bench.turn();
    assert!(bench.blocks_used() <= both - 7);
    bench.run_until_idle();
    assert_eq!(collected(keep).tokens.len(), 60);
    assert_eq!(bench.metric("vllm:request_success_total{engine=\"0\",finished_reason=\"abort\""), 1.0);
    assert_eq!(bench.metric("vllm:kv_cache_usage_perc"), 0.0);
}

#[test]
fn streams_dropped_at_random_moments_leak_nothing() {
    let mut state = 42;
    for round in 0..30 {
        let caching = EngineConfig { enable_prefix_caching: round % 2 == 0, max_num_seqs: 6, ..config() };
        let mut bench = Bench::new(fake(30, 4).0, &caching);
        let mut streams: Vec<_> = (0..20).map(|number| Some(bench.submit(request(&prompt(number, 1 + number), 30)))).collect();
        for _ in 0..120 {
            let index = next(&mut state) as usize % streams.len();
            if next(&mut state).is_multiple_of(3) {
                streams[index] = None;
            }
            bench.turn();
        }
        streams.clear();
        bench.obey();
        assert!(bench.core.is_idle() && bench.blocks_used() == 0);
        assert_eq!(bench.metric("vllm:num_requests_running") + bench.metric("vllm:num_requests_waiting"), 0.0);
        bench.core.scheduler().audit().unwrap();
        block_on(bench.handle.drained());
    }
}

#[test]
fn two_hundred_clients_that_leave_at_random_moments_leak_nothing() {
    let (runner, _) = fake(60, 4);
    // Slow enough that clients can leave before the engine is done.
    let runner = runner.with_latency(Duration::from_micros(200), Duration::ZERO);
    let (handle, metrics) = start(runner, EngineConfig { max_num_seqs: 16, ..config() });
    let clients: Vec<_> = (0..4u64).map(|thread| (thread, handle.clone())).collect();
    std::thread::scope(|scope| {
        for (thread, handle) in clients {
            scope.spawn(move || {
                let mut state = thread;
                for number in 0..50 {
                    let mut stream = handle.submit(vec![request(&prompt(number, 1 + number), 40)], None).unwrap().remove(0);
                    for _ in 0..next(&mut state) % 60 {
                        if block_on(stream.recv()).is_none() {
                            break;
                        }
                    }
                }
            });
        }
    });
    block_on(handle.drained());
    wait_until("a free pool", || metric(&metrics, "vllm:kv_cache_usage_perc") == 0.0);
    let ended = |reason: &str| metric(&metrics, &format!("vllm:request_success_total{{engine=\"0\",finished_reason=\"{reason}\""));
    assert_eq!(ended("abort") + ended("length"), 200.0);
    assert!(ended("abort") > 10.0 && ended("length") > 10.0);
}

#[test]
fn a_finished_stream_that_is_dropped_unread_is_no_abort() {
    let mut bench = Bench::new(fake(64, 4).0, &config());
    let stream = bench.submit(request(&prompt(1, 9), 3));
    bench.run_until_idle();
    drop(stream);
    bench.obey();
    assert_eq!(bench.metric("vllm:request_success_total{engine=\"0\",finished_reason=\"abort\""), 0.0);
    assert_eq!(bench.metric("vllm:request_success_total{engine=\"0\",finished_reason=\"length\""), 1.0);
}

#[test]
fn a_stream_that_found_its_stop_string_counts_as_stopped() {
    let runner = || fake(64, 4).0;
    // On a device its next token is known, and was not told, when it ends.
    for runner in [runner(), runner().with_device()] {
        counts_as_stopped(runner);
    }
}

fn counts_as_stopped(runner: FakeRunner) {
    let mut bench = Bench::new(runner, &config());
    let stream = bench.submit(request(&prompt(1, 9), 50));
    for _ in 0..5 {
        bench.turn();
    }
    stream.finish();
    bench.run_until_idle();
    assert_eq!(bench.blocks_used(), 0);
    assert_eq!(bench.metric("vllm:request_success_total{engine=\"0\",finished_reason=\"stop\""), 1.0);
    assert_eq!(bench.metric("vllm:request_success_total{engine=\"0\",finished_reason=\"abort\""), 0.0);
    assert_eq!(bench.metric("vllm:request_generation_tokens_count"), 1.0);
    // One that ended by itself meanwhile is not counted twice.
    let stream = bench.submit(request(&prompt(2, 9), 3));
    bench.run_until_idle();
    stream.finish();
    bench.run_until_idle();
    assert_eq!(bench.metric("vllm:request_generation_tokens_count"), 2.0);
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    let (handle, _) = start(fake(256, 4).0, config());
    let unread: Vec<_> = (0..4).map(|number| handle.submit(vec![scored(number)], None).unwrap().remove(0)).collect();
    let read = handle.submit(vec![request(&prompt(9, 4), 200)], None).unwrap().remove(0);
    assert_eq!(block_on(collect(read)).tokens.len(), 200);
    block_on(handle.drained());
    for mut stream in unread {
        assert_eq!(poll(&mut stream).iter().filter(|event| matches!(event, GenerationEvent::Token { .. })).count(), 200);
    }
}

fn scored(number: usize) -> GenerationRequest {
    GenerationRequest { prompt_logprobs: Some(2), logprobs: Some(2), ..request(&prompt(number, 50), 200) }
}

#[test]
fn a_deadline_ends_a_sequence_that_waits_or_runs() {
    let mut bench = Bench::new(fake(64, 4).0, &EngineConfig { max_num_seqs: 1, ..config() });
    let deadline = Some(bench.clock.now() + Duration::from_secs(2));
    let mut streams = bench.handle.submit(vec![request(&prompt(1, 9), 60), request(&prompt(2, 9), 60)], deadline).unwrap();
    let unlimited = bench.submit(request(&prompt(3, 9), 5));
    for _ in 0..3 {
        bench.turn();
    }
    bench.clock.advance(Duration::from_secs(3));
    bench.turn();
    let (waiting, running) = (collected(streams.remove(1)), collected(streams.remove(0)));
    assert_eq!((running.tokens.len(), waiting.tokens.len()), (3, 0));
    for outcome in [running, waiting] {
        assert_eq!(outcome.failed.unwrap().kind, FailureKind::DeadlineExceeded);
    }
    bench.run_until_idle();
    assert_eq!(collected(unlimited).finished.unwrap().0, FinishReason::Length);
    assert_eq!(bench.blocks_used(), 0);
}

#[test]
fn a_drain_finishes_what_runs_and_refuses_the_rest() {
    let (runner, control) = fake(64, 4);
    let (handle, _) = start(runner.with_latency(Duration::from_millis(1), Duration::ZERO), config());
    assert_eq!(handle.status(), EngineStatus::Ready);
    let streams = handle.submit((0..8).map(|number| request(&prompt(number, 9), 20)).collect(), None).unwrap();
    handle.begin_drain();
    assert_eq!(handle.status(), EngineStatus::Draining);
    assert_eq!(handle.submit(vec![request(&[1], 1)], None).unwrap_err(), SubmitError::Draining);
    block_on(handle.drained());
    for stream in streams {
        assert_eq!(collected(stream).tokens.len(), 20);
    }
    assert!(control.steps() >= 20);
    handle.stop();
    wait_until("the stop", || handle.status() == EngineStatus::Stopped);
    assert!(matches!(handle.submit(vec![request(&[1], 1)], None), Err(SubmitError::Dead { .. })));
}

#[test]
fn abort_all_ends_everything_at_once() {
    let (runner, _) = fake(64, 4);
    let (handle, metrics) = start(
        runner.with_latency(Duration::from_millis(5), Duration::ZERO),
        EngineConfig { max_num_seqs: 3, max_model_len: 4000, ..config() },
    );
    let requests = (0..8).map(|number| request(&prompt(number, 9), 200)).collect();
    let mut streams = handle.submit(requests, None).unwrap();
    let first_two = [(); 2].map(|()| block_on(streams[0].recv()).unwrap());
    assert!(matches!(first_two, [GenerationEvent::Scheduled { .. }, GenerationEvent::Token { .. }]));
    handle.abort_all();
    block_on(handle.drained());
    for stream in streams {
        assert_eq!(collected(stream).failed.unwrap().kind, FailureKind::ShuttingDown);
    }
    assert_eq!(handle.submit(vec![request(&[1], 1)], None).unwrap_err(), SubmitError::Draining);
    assert_eq!(metric(&metrics, "vllm:kv_cache_usage_perc"), 0.0);
}

#[test]
fn an_idle_engine_takes_work_at_once_and_sleeps_otherwise() {
    let (runner, control) = fake(64, 4);
    let (handle, _) = start(runner, config());
    std::thread::sleep(Duration::from_millis(50));
    let started = std::time::Instant::now();
    let outcome = block_on(collect(handle.submit(vec![request(&[1, 2], 1)], None).unwrap().remove(0)));
    assert_eq!(outcome.tokens.len(), 1);
    assert!(started.elapsed() < Duration::from_millis(200), "an idle engine is woken, it does not poll");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(control.steps(), 1, "no step without work");
}

#[test]
fn the_thread_ends_with_its_last_handle_and_its_streams_say_so() {
    let (runner, control) = fake(64, 4);
    let (handle, _) = start(runner, config());
    control.hang();
    let stream = handle.submit(vec![request(&[1, 2], 1)], None).unwrap().remove(0);
    let shared = std::sync::Arc::clone(&handle.shared);
    drop(handle);
    control.release();
    assert_eq!(block_on(collect(stream)).tokens.len(), 1, "a stream alone keeps the engine");
    wait_until("the stop", || shared.phase().status == EngineStatus::Stopped);
}

#[test]
fn a_defect_outside_of_a_step_ends_every_stream_too() {
    let mut bench = Bench::new(fake(64, 4).0, &config());
    let running = bench.submit(request(&[1, 2], 5));
    bench.turn();
    let never_taken = bench.submit(request(&[1, 2], 5));
    let handle = bench.crash();
    block_on(handle.drained());
    for stream in [running, never_taken] {
        assert_eq!(collected(stream).failed.unwrap().kind, FailureKind::EngineDead);
    }
    assert!(matches!(handle.submit(vec![request(&[1, 2], 5)], None), Err(SubmitError::Dead { .. })));
    block_on(handle.drained());
}
