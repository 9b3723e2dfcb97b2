//! How the budget of a step is shared.

use super::*;

#[test]
fn a_long_prompt_is_computed_in_chunks_and_samples_only_at_its_end() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3, 4, 5, 6, 7], 2)]);
    let mut seen = Vec::new();
    while !scheduler.is_idle() {
        let (plan, events) = step(&mut scheduler, 3);
        seen.push((chunks(&plan), plan.sequences[0].samples, events.len()));
    }
    let expected = [
        (vec![(1, 0, 3)], false, 0),
        (vec![(1, 3, 3)], false, 0),
        (vec![(1, 6, 1)], true, 1),
        (vec![(1, 7, 1)], true, 2), // a token and the end
    ];
    assert_eq!(seen, expected);
}

#[test]
fn decoding_and_a_prompt_share_a_step() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2], 9)]);
    step(&mut scheduler, 64);
    scheduler.add(sequence(2, &[3; 9], 9), NOW).unwrap();
    assert_eq!(chunks(&step(&mut scheduler, 6).0), [(1, 2, 1), (2, 0, 5)]);
    assert_eq!(chunks(&step(&mut scheduler, 6).0), [(1, 3, 1), (2, 5, 4)]);
}

#[test]
fn a_budget_smaller_than_the_number_of_decodes_serves_the_oldest_and_all_finish() {
    let mut scheduler = scheduler(config(), (0..4).map(|id| sequence(id, &[id as u32], 3)).collect());
    step(&mut scheduler, 64);
    assert_eq!(chunks(&step(&mut scheduler, 0).0), [(0, 1, 1)], "a budget of nothing is a budget of one");
    let mut ends = Vec::new();
    while !scheduler.is_idle() {
        ends.extend(finished(&step(&mut scheduler, 1).1).iter().map(|end| end.0));
    }
    assert_eq!(ends, [0, 1, 2, 3]);
}

#[test]
fn the_budget_never_exceeds_max_num_batched_tokens() {
    let config = SchedulerConfig { max_num_batched_tokens: 5, ..config() };
    let mut scheduler = scheduler(config, vec![sequence(1, &[1; 9], 1)]);
    assert_eq!(chunks(&step(&mut scheduler, 1000).0), [(1, 0, 5)]);
}

#[test]
fn a_stop_token_ends_the_sequence_once_min_tokens_are_there() {
    let stop = StopCriteria { min_tokens: 2, eos_token_ids: Arc::from([9]), ..StopCriteria::length(8) };
    let mut scheduler = scheduler(config(), vec![NewSequence { stop, ..sequence(1, &[1], 8) }]);
    let mut events = Vec::new();
    while !scheduler.is_idle() {
        events.extend(step(&mut scheduler, 64).1);
    }
    let usage = Usage { prompt_tokens: 1, cached_tokens: 0, completion_tokens: 3 };
    assert_eq!(finished(&events), [(1, FinishReason::Stop, usage)]);
}

#[test]
fn every_prompt_token_but_the_first_is_scored_once_across_chunks() {
    let scored = NewSequence { score_prompt: true, ..sequence(1, &[1, 2, 3, 4, 5], 0) };
    let mut scheduler = scheduler(config(), vec![scored]);
    let mut targets = Vec::new();
    let mut events = Vec::new();
    while !scheduler.is_idle() {
        let (plan, new_events) = step(&mut scheduler, 2);
        assert!(!plan.sequences[0].samples);
        targets.push(plan.sequences[0].score_targets.clone());
        events.extend(new_events);
    }
    assert_eq!(targets, [vec![2, 3], vec![4, 5], vec![]]);
    let usage = Usage { prompt_tokens: 5, cached_tokens: 0, completion_tokens: 0 };
    assert_eq!(events, [SchedulerEvent::Finished { id: SeqId(1), reason: FinishReason::Length, usage }]);
}
