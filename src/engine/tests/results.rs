//! What comes out of sequences: tokens, log-probabilities, ends.

use super::support::*;
use crate::engine::EngineConfig;
use crate::generation::{FinishReason, GenerationRequest, SamplingParams, StopCriteria, TokenId};
use crate::runner::fake::greedy_continuation;
use crate::sampling::score;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs `requests` together and returns their outcomes.
fn run(num_blocks: usize, config: &EngineConfig, requests: Vec<GenerationRequest>) -> Vec<Outcome> {
    let mut bench = Bench::new(fake(num_blocks, 4).0, config);
    let streams: Vec<_> = requests.into_iter().map(|request| bench.submit(request)).collect();
    bench.run_until_idle();
    assert_eq!(bench.blocks_used(), 0, "no block is left behind");
    streams.into_iter().map(collected).collect()
}

fn sampled(number: usize, choice_index: u32) -> GenerationRequest {
    let sampling = SamplingParams { temperature: 1.0, top_p: 0.9, seed: 7, ..SamplingParams::greedy() };
    GenerationRequest { sampling, choice_index, logprobs: Some(2), ..request(&prompt(number, 5 + number % 20), 12) }
}

#[test]
fn greedy_sequences_are_what_the_model_says() {
    let (model, _) = fake(1, 4);
    let outcomes = run(64, &config(), (0..8).map(|number| request(&prompt(number, 3 + 9 * number), 20)).collect());
    for (number, outcome) in outcomes.iter().enumerate() {
        let length = 3 + 9 * number;
        assert_eq!(outcome.tokens, greedy_continuation(&model, &prompt(number, length), 20));
        let (reason, usage) = outcome.finished.unwrap();
        assert_eq!((reason, usage.prompt_tokens, usage.completion_tokens), (FinishReason::Length, length as u32, 20));
    }
}

#[test]
fn an_outcome_does_not_depend_on_what_else_runs() {
    let together = run(30, &config(), (0..24).map(|number| sampled(number, 0)).collect());
    let small = EngineConfig { max_num_batched_tokens: 7, max_num_seqs: 3, ..config() };
    let chunked = run(1000, &small, (0..24).map(|number| sampled(number, 0)).collect());
    for number in 0..24 {
        let alone = run(1000, &config(), vec![sampled(number, 0)]).remove(0);
        assert_eq!(together[number], alone);
        assert_eq!(chunked[number], alone);
    }
}

#[test]
fn where_the_time_of_steps_goes_is_counted_once() {
    let latency = Duration::from_millis(3);
    let mut bench = Bench::new(fake(64, 4).0.with_latency(latency, Duration::ZERO), &config());
    let series = |op: &str| format!("openelm:step_operation_seconds_total{{engine=\"0\",model_name=\"fake\",operation=\"{op}\"}}");
    assert_eq!(bench.metric(&series("attention")), 0.0);
    let _stream = bench.submit(request(&prompt(1, 5), 3));
    let started = Instant::now();
    bench.run_until_idle();
    let (found, elapsed) = (bench.metric(&series("attention")), started.elapsed());
    // Three steps; were they counted from the beginning each time, six.
    assert!(found >= 3.0 * latency.as_secs_f64() && found <= elapsed.as_secs_f64(), "{found} of {elapsed:?}");
    assert_eq!(bench.metric(&series("sampling")), 0.0);
}

#[test]
fn a_prefix_hit_changes_only_the_usage() {
    let mut bench = Bench::new(fake(64, 4).0, &EngineConfig { enable_prefix_caching: true, ..config() });
    let one = || GenerationRequest { choice_index: 3, ..request(&prompt(1, 30), 8) };
    let first = bench.submit(one());
    bench.run_until_idle();
    let second = bench.submit(one());
    bench.run_until_idle();
    let (first, second) = (collected(first), collected(second));
    assert_eq!(first.tokens, second.tokens);
    assert_eq!((first.finished.unwrap().1.cached_tokens, second.finished.unwrap().1.cached_tokens), (0, 28));
    assert_eq!(bench.metric("vllm:prefix_cache_hits_total"), 28.0);
    assert_eq!(bench.metric("vllm:prompt_tokens_cached_total"), 28.0);
    assert_eq!(bench.metric("vllm:prompt_tokens_total"), 60.0);
}

#[test]
fn choices_with_one_seed_differ_and_repeat() {
    let choices = |count| run(64, &config(), (0..count).map(|choice| sampled(1, choice)).collect());
    let (first, again) = (choices(4), choices(4));
    assert_eq!(first, again);
    for a in 0..4 {
        for b in 0..a {
            assert_ne!(first[a].tokens, first[b].tokens, "choices {a} and {b}");
        }
    }
}

#[test]
fn an_end_token_is_sent_and_then_the_end() {
    let (runner, _) = fake(64, 4);
    let mut bench = Bench::new(runner.with_script(&[1, 2], &[10, 11, 3, 12]), &config());
    let stop = StopCriteria { eos_token_ids: Arc::from([3]), ..StopCriteria::length(20) };
    let stream = bench.submit(GenerationRequest { stop, ..request(&[1, 2], 0) });
    bench.run_until_idle();
    let outcome = collected(stream);
    assert_eq!(outcome.tokens, [10, 11, 3]);
    assert_eq!(outcome.finished.unwrap().0, FinishReason::Stop);
    assert_eq!(bench.metric("vllm:request_success_total{engine=\"0\",finished_reason=\"stop\""), 1.0);
}

#[test]
fn min_tokens_forbids_every_end_token_until_then() {
    let script = |stop: StopCriteria| {
        let (runner, _) = fake(64, 4);
        let mut bench = Bench::new(runner.with_script(&[1, 2], &[3, 3, 3, 3, 3]), &config());
        let stream = bench.submit(GenerationRequest { stop, ..request(&[1, 2], 0) });
        bench.run_until_idle();
        collected(stream)
    };
    let eos = StopCriteria { eos_token_ids: Arc::from([3]), ..StopCriteria::length(5) };
    assert_eq!(script(eos.clone()).tokens, [3]);
    let outcome = script(StopCriteria { min_tokens: 2, ..eos.clone() });
    assert!(outcome.tokens.len() > 2 && !outcome.tokens[..2].contains(&3), "{outcome:?}");
    let stop_token = StopCriteria { min_tokens: 2, eos_token_ids: Arc::from([]), stop_token_ids: Arc::from([3]), ..eos.clone() };
    assert_eq!(script(stop_token).tokens[..2], outcome.tokens[..2]);
    // `ignore_eos` arrives as an empty list.
    let ignored = script(StopCriteria { eos_token_ids: Arc::from([]), ..eos });
    assert_eq!(ignored.tokens, [3, 3, 3, 3, 3]);
    assert_eq!(ignored.finished.unwrap().0, FinishReason::Length);
}

fn expected_prompt_logprobs(prompt: &[TokenId]) -> Vec<Option<crate::generation::TokenLogprobs>> {
    let (model, _) = fake(1, 4);
    let rest = (1..prompt.len()).map(|position| score(&model.logits(&prompt[..position]), prompt[position], 3));
    std::iter::once(None).chain(rest).collect()
}

#[test]
fn prompt_logprobs_come_once_per_position_in_chunks_and_after_preemption() {
    let scored = |number: usize| GenerationRequest { prompt_logprobs: Some(3), ..request(&prompt(number, 1 + 7 * number), 30) };
    let small = EngineConfig { max_num_batched_tokens: 9, enable_prefix_caching: true, ..config() };
    for num_blocks in [18, 500] {
        let mut bench = Bench::new(fake(num_blocks, 4).0, &small);
        let streams: Vec<_> = (0..6).map(|number| bench.submit(scored(number))).collect();
        bench.run_until_idle();
        assert_eq!(bench.metric("vllm:num_preemptions_total") > 0.0, num_blocks == 18);
        for (number, stream) in streams.into_iter().enumerate() {
            let outcome = collected(stream);
            assert_eq!(outcome.prompt_logprobs, expected_prompt_logprobs(&prompt(number, 1 + 7 * number)));
            assert_eq!(outcome.tokens.len(), 30);
        }
    }
}

#[test]
fn a_prompt_is_scored_without_generating() {
    let outcomes = run(64, &config(), vec![GenerationRequest { prompt_logprobs: Some(3), ..request(&prompt(2, 40), 0) }]);
    assert_eq!(outcomes[0].prompt_logprobs, expected_prompt_logprobs(&prompt(2, 40)));
    let (reason, usage) = outcomes[0].finished.unwrap();
    assert_eq!((reason, usage.completion_tokens, outcomes[0].tokens.len()), (FinishReason::Length, 0, 0));
}

#[test]
fn logprobs_are_those_of_the_unmodified_row() {
    let outcome = run(64, &config(), vec![sampled(4, 0)]).remove(0);
    let (model, _) = fake(1, 4);
    let mut prefix = prompt(4, 9);
    for (token, logprobs) in outcome.tokens.iter().zip(outcome.logprobs) {
        assert_eq!(logprobs, score(&model.logits(&prefix), *token, 2));
        prefix.push(*token);
    }
    assert_eq!(run(64, &config(), vec![request(&[1], 3)])[0].logprobs, [None, None, None]);
}
