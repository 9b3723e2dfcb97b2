//! Admission, and a pool that is too small for all at once.

use super::support::*;
use crate::engine::{AdmissionError, Clock, Engine, EngineConfig, EngineError, QueueLimit, SubmitError};
use crate::generation::FinishReason;
use crate::runner::fake::greedy_continuation;
use crate::telemetry::metrics::Metrics;
use std::time::Duration;

#[test]
fn sixty_four_streams_on_a_small_pool_all_finish() {
    let (runner, _) = fake(40, 4);
    let (handle, metrics) = start(runner, config());
    let submit = |number: usize| handle.submit(vec![request(&prompt(number, 5 + number % 30), 40)], None).unwrap().remove(0);
    let streams: Vec<_> = (0..64).map(submit).collect();
    let (model, _) = fake(1, 4);
    for (number, stream) in streams.into_iter().enumerate() {
        let outcome = block_on(collect(stream));
        assert_eq!(outcome.finished.unwrap().0, FinishReason::Length);
        assert_eq!(outcome.tokens, greedy_continuation(&model, &prompt(number, 5 + number % 30), 40));
    }
    block_on(handle.drained());
    assert!(metric(&metrics, "vllm:num_preemptions_total") > 0.0);
    assert!(metric(&metrics, "vllm:request_num_preemptions_sum") > 0.0);
    assert_eq!(metric(&metrics, "vllm:kv_cache_usage_perc"), 0.0);
    assert_eq!(metric(&metrics, "vllm:generation_tokens_total"), 64.0 * 40.0);
    assert!(metric(&metrics, "openelm:generation_tokens_per_second") > 0.0);
}

fn refused(bench: &Bench, count: usize, length: usize) -> Option<(Duration, QueueLimit)> {
    let requests = (0..count).map(|number| request(&prompt(number, length), 4)).collect();
    match bench.handle.submit(requests, None) {
        Err(SubmitError::QueueFull { retry_after, reason }) => Some((retry_after, reason)),
        Err(other) => panic!("{other}"),
        Ok(streams) => {
            // They stay in the queue for as long as the test.
            std::mem::forget(streams);
            None
        }
    }
}

fn small_queue() -> EngineConfig {
    EngineConfig { max_num_queued_reqs: 4, max_num_queued_tokens: 100, max_num_seqs: 2, ..config() }
}

#[test]
fn the_queue_is_bounded_by_requests_all_or_none() {
    let mut bench = Bench::new(fake(64, 4).0, &small_queue());
    assert_eq!(refused(&bench, 3, 5), None);
    assert_eq!(refused(&bench, 2, 5).unwrap().1, QueueLimit::Requests);
    assert_eq!(refused(&bench, 1, 5), None, "nothing of the refused request counts");
    assert_eq!(refused(&bench, 1, 5).unwrap().1, QueueLimit::Requests);
    bench.turn();
    assert_eq!(refused(&bench, 2, 5), None, "two are running now");
    assert_eq!(bench.metric("vllm:admission_rejections_total{engine=\"0\",model_name=\"fake\",reason=\"max_num_queued_reqs\"}"), 2.0);
    bench.run_until_idle();
    block_on(bench.handle.drained());
    assert_eq!(refused(&bench, 9, 5), None, "an empty queue takes any request");
    assert_eq!(refused(&bench, 1, 5).unwrap().1, QueueLimit::Requests);
}

#[test]
fn the_queue_is_bounded_by_tokens() {
    let bench = Bench::new(fake(64, 4).0, &small_queue());
    assert_eq!(refused(&bench, 2, 40), None);
    assert_eq!(refused(&bench, 1, 21).unwrap().1, QueueLimit::Tokens);
    assert_eq!(refused(&bench, 1, 20), None);
}

#[test]
fn a_dropped_stream_leaves_the_queue() {
    let mut bench = Bench::new(fake(64, 4).0, &small_queue());
    let streams: Vec<_> = (0..4).map(|number| bench.submit(request(&prompt(number, 5), 4))).collect();
    assert!(refused(&bench, 1, 5).is_some());
    drop(streams);
    bench.obey();
    assert_eq!(refused(&bench, 4, 5), None);
}

#[test]
fn retry_after_follows_the_measured_rate() {
    let mut bench = Bench::new(fake(64, 4).0, &EngineConfig { max_num_seqs: 1, ..small_queue() });
    assert_eq!(refused(&bench, 4, 5), None);
    assert_eq!(refused(&bench, 1, 5).unwrap().0, Duration::from_secs(5), "nothing is known yet");
    // One sequence of four steps every eight seconds.
    for _ in 0..16 {
        bench.clock.advance(Duration::from_secs(2));
        bench.turn();
    }
    assert_eq!(refused(&bench, 4, 5), None);
    bench.clock.advance(Duration::from_secs(8));
    // Four completions in 8 x 4 seconds since the first, four waiting.
    assert_eq!(refused(&bench, 1, 5).unwrap().0, Duration::from_secs(32));
    bench.clock.advance(Duration::from_secs(600));
    assert_eq!(refused(&bench, 1, 5).unwrap().0, Duration::from_secs(60));
    let mut fast = Bench::new(fake(64, 4).0, &small_queue());
    assert_eq!(refused(&fast, 4, 5), None);
    fast.run_until_idle();
    fast.clock.advance(Duration::from_millis(1));
    assert_eq!(refused(&fast, 4, 5), None);
    assert_eq!(refused(&fast, 1, 5).unwrap().0, Duration::from_secs(1));
}

#[test]
fn retry_after_does_not_count_idle_time() {
    let mut bench = Bench::new(fake(64, 4).0, &EngineConfig { max_num_seqs: 1, ..small_queue() });
    assert_eq!(refused(&bench, 4, 5), None);
    // One sequence of four steps every eight seconds, then nothing for ten minutes but a request that is given up before it is scheduled.
    for _ in 0..16 {
        bench.clock.advance(Duration::from_secs(2));
        bench.turn();
    }
    bench.clock.advance(Duration::from_secs(540));
    let given_up = bench.submit(request(&prompt(9, 5), 4));
    drop(given_up);
    bench.obey();
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(refused(&bench, 4, 5), None);
    assert_eq!(refused(&bench, 1, 5).unwrap().0, Duration::from_secs(24), "the rate before the idle time");
    bench.clock.advance(Duration::from_secs(8));
    bench.turn();
    // Time in which something runs or waits counts again.
    assert_eq!(refused(&bench, 2, 5).unwrap().0, Duration::from_secs(24));
    bench.run_until_idle();
    block_on(bench.handle.drained());
}

#[test]
fn what_could_never_run_is_refused_at_once() {
    let bench = Bench::new(fake(10, 4).0, &EngineConfig { max_model_len: 50, ..config() });
    let submit = |length, max_tokens| bench.handle.submit(vec![request(&prompt(1, length), max_tokens)], None).map(drop);
    assert_eq!(submit(0, 1), Err(SubmitError::TooLarge(AdmissionError::EmptyPrompt)));
    let too_long = AdmissionError::TooLongForContext { prompt: 40, max_tokens: 11, max_model_len: 50 };
    assert_eq!(submit(40, 11), Err(SubmitError::TooLarge(too_long)));
    let too_large = AdmissionError::TooLargeForPool { needed_tokens: 41, capacity_tokens: 40 };
    assert_eq!(submit(40, 2), Err(SubmitError::TooLarge(too_large)));
    assert_eq!(submit(40, 1), Ok(()));
    let limits = bench.handle.limits();
    assert_eq!((limits.kv_capacity_tokens, limits.block_size, limits.max_num_batched_tokens), (40, 4, 64));
}

#[test]
fn a_limit_of_zero_is_refused_at_the_start() {
    let (runner, _) = fake(10, 4);
    let start = Engine::start(Box::new(runner), EngineConfig { max_num_seqs: 0, ..config() }, Metrics::new("fake"));
    assert!(matches!(start, Err(EngineError::ZeroLimit { limit: "max_num_seqs" })));
}

#[test]
fn chunks_shrink_until_a_step_takes_the_time_it_should() {
    let (runner, control) = fake(64, 4);
    let runner = runner.with_latency(Duration::ZERO, Duration::from_millis(1));
    let (handle, _) = start(runner, EngineConfig { step_time_target: Duration::from_millis(25), ..config() });
    let outcome = block_on(collect(handle.submit(vec![request(&prompt(1, 240), 1)], None).unwrap().remove(0)));
    assert_eq!(outcome.tokens.len(), 1);
    let chunks: Vec<_> = control.log().iter().map(|step| step[0].1).collect();
    assert_eq!(chunks[0], 64, "nothing is known at first: {chunks:?}");
    assert!(chunks[1..].iter().all(|chunk| *chunk <= 25), "{chunks:?}");
    assert!(chunks[1..chunks.len() - 1].iter().all(|chunk| *chunk >= 16), "{chunks:?}");
}

#[test]
fn cached_tokens_are_counted_for_single_tokens_too() {
    let mut bench = Bench::new(fake(64, 4).0, &EngineConfig { enable_prefix_caching: true, ..config() });
    for _ in 0..2 {
        let stream = bench.submit(request(&prompt(1, 9), 1));
        bench.run_until_idle();
        collected(stream);
    }
    assert_eq!(bench.metric("vllm:prompt_tokens_total"), 18.0);
    assert_eq!(bench.metric("vllm:prompt_tokens_cached_total"), 8.0);
}

#[test]
fn choices_of_a_prompt_are_one_observation() {
    let mut bench = Bench::new(fake(64, 4).0, &config());
    let choices = (0..6).map(|index| {
        let (prompt_index, choice_index) = (index / 3, index % 3);
        crate::generation::GenerationRequest { prompt_index, choice_index, ..request(&prompt(prompt_index as usize, 5), 4 + index) }
    });
    let streams = bench.handle.submit(choices.collect(), None).unwrap();
    bench.run_until_idle();
    drop(streams);
    assert_eq!(bench.metric("vllm:request_params_n_sum"), 6.0);
    assert_eq!(bench.metric("vllm:request_params_n_count"), 2.0);
    assert_eq!(bench.metric("vllm:request_max_num_generation_tokens_sum"), 6.0 + 9.0);
}

#[test]
fn latencies_are_measured_on_the_clock_that_was_given() {
    let mut bench = Bench::new(fake(64, 4).0, &config());
    let arrival = bench.clock.now();
    let stream = bench.submit(request(&prompt(1, 9), 3));
    bench.clock.advance(Duration::from_secs(2));
    bench.turn();
    bench.clock.advance(Duration::from_secs(1));
    bench.run_until_idle();
    drop(stream);
    assert_eq!(bench.clock.now() - arrival, Duration::from_secs(3));
    assert_eq!(bench.metric("vllm:request_queue_time_seconds_sum"), 2.0);
    assert_eq!(bench.metric("vllm:time_to_first_token_seconds_sum"), 2.0);
    assert_eq!(bench.metric("vllm:inter_token_latency_seconds_sum"), 1.0);
    assert_eq!(bench.metric("vllm:inter_token_latency_seconds_count"), 2.0);
    assert_eq!(bench.metric("vllm:e2e_request_latency_seconds_sum"), 3.0);
    assert_eq!(bench.metric("vllm:request_decode_time_seconds_sum"), 1.0);
}
