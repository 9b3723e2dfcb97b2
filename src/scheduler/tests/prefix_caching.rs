//! Blocks shared between sequences.

use super::*;

fn finish(scheduler: &mut Scheduler) {
    while !scheduler.is_idle() {
        step(scheduler, 64);
    }
}

#[test]
fn a_second_sequence_begins_behind_the_common_blocks() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3, 4, 5], 1)]);
    finish(&mut scheduler);
    scheduler.add(sequence(2, &[1, 2, 3, 4, 6], 1), NOW).unwrap();
    let (plan, events) = step(&mut scheduler, 64);
    assert_eq!(chunks(&plan), [(2, 4, 1)]);
    assert_eq!(finished(&events)[0].2, Usage { prompt_tokens: 5, cached_tokens: 4, completion_tokens: 1 });
    assert_eq!(scheduler.stats().prefix_cache_hits_total, 4);
}

#[test]
fn the_last_prompt_token_is_computed_even_if_all_blocks_are_cached() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3, 4], 1)]);
    finish(&mut scheduler);
    scheduler.add(sequence(2, &[1, 2, 3, 4], 1), NOW).unwrap();
    let (plan, _) = step(&mut scheduler, 64);
    assert_eq!(chunks(&plan), [(2, 2, 2)]);
    assert!(plan.sequences[0].samples);
}

#[test]
fn generated_tokens_are_found_by_the_next_turn() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2], 4)]);
    finish(&mut scheduler);
    scheduler.add(sequence(2, &[1, 2, 9, 9, 9, 9, 3], 1), NOW).unwrap();
    // The last generated token was never computed, so the block with it was never full.
    assert_eq!(chunks(&step(&mut scheduler, 64).0), [(2, 4, 3)]);
}

#[test]
fn an_aborted_prompt_leaves_what_it_computed() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3, 4, 5, 6], 1)]);
    step(&mut scheduler, 4);
    scheduler.abort(SeqId(1));
    scheduler.add(sequence(2, &[1, 2, 3, 4, 5, 6], 1), NOW).unwrap();
    assert_eq!(chunks(&step(&mut scheduler, 64).0), [(2, 4, 2)]);
}

#[test]
fn another_salt_or_caching_off_shares_nothing() {
    for (enable_prefix_caching, cache_salt) in [(true, 7), (false, 0)] {
        let mut scheduler = scheduler(SchedulerConfig { enable_prefix_caching, ..config() }, vec![sequence(1, &[1, 2, 3], 1)]);
        finish(&mut scheduler);
        scheduler.add(NewSequence { cache_salt, ..sequence(2, &[1, 2, 3], 1) }, NOW).unwrap();
        assert_eq!(chunks(&step(&mut scheduler, 64).0), [(2, 0, 3)]);
    }
}

#[test]
fn scoring_a_prompt_reads_nothing_from_the_cache_but_fills_it() {
    let scored = |id| NewSequence { score_prompt: true, ..sequence(id, &[1, 2, 3, 4, 5], 1) };
    let mut scheduler = scheduler(config(), vec![scored(1)]);
    finish(&mut scheduler);
    scheduler.add(scored(2), NOW).unwrap();
    scheduler.add(sequence(3, &[1, 2, 3, 4, 5], 1), NOW).unwrap();
    let (plan, _) = step(&mut scheduler, 64);
    assert_eq!(chunks(&plan), [(2, 0, 5), (3, 4, 1)]);
}

#[test]
fn choices_of_one_prompt_compute_it_once() {
    let prompt = [1, 2, 3, 4, 5];
    let mut scheduler = scheduler(config(), (1..=3).map(|id| sequence(id, &prompt, 4)).collect());
    assert_eq!(chunks(&step(&mut scheduler, 64).0), [(1, 0, 5)]);
    assert_eq!(chunks(&step(&mut scheduler, 64).0), [(1, 5, 1), (2, 4, 1), (3, 4, 1)]);
}

#[test]
fn a_prompt_that_shares_little_or_cannot_share_does_not_wait_for_another() {
    let others = [sequence(2, &[1, 2, 9, 9, 9, 9], 4), NewSequence { cache_salt: 7, ..sequence(2, &[1, 2, 3, 4, 5], 4) }];
    let scored = NewSequence { score_prompt: true, ..sequence(2, &[1, 2, 3, 4, 5], 4) };
    for other in others.into_iter().chain([scored]) {
        let num_tokens = other.prompt.len();
        let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3, 4, 5], 4), other]);
        assert_eq!(chunks(&step(&mut scheduler, 64).0), [(1, 0, 5), (2, 0, num_tokens)]);
    }
}

#[test]
fn equal_prompts_do_not_wait_for_each_other_with_caching_off() {
    let config = SchedulerConfig { enable_prefix_caching: false, ..config() };
    let mut scheduler = scheduler(config, vec![sequence(1, &[1, 2, 3], 4), sequence(2, &[1, 2, 3], 4)]);
    assert_eq!(chunks(&step(&mut scheduler, 64).0), [(1, 0, 3), (2, 0, 3)]);
}

#[test]
fn blocks_hit_in_the_free_list_are_not_counted_as_room() {
    let config = SchedulerConfig { num_blocks: 3, ..config() };
    let mut scheduler = scheduler(config, vec![sequence(1, &[1, 2, 3, 4, 5], 1)]);
    finish(&mut scheduler);
    scheduler.add(sequence(2, &[1, 2, 7], 3), NOW).unwrap();
    scheduler.add(sequence(3, &[1, 2, 3, 4, 5], 1), NOW).unwrap();
    let (plan, _) = step(&mut scheduler, 64);
    assert_eq!(chunks(&plan), [(2, 2, 1)], "the one free block is a hit of the third prompt, which needs another one beside it");
    finish(&mut scheduler);
    assert_eq!(scheduler.stats().preemptions_total, 0);
}
