//! Too few blocks for all.

use super::*;

#[test]
fn the_youngest_is_preempted_keeps_its_tokens_and_is_computed_again() {
    let config = SchedulerConfig { num_blocks: 4, enable_prefix_caching: false, ..config() };
    let mut scheduler = scheduler(config, vec![sequence(1, &[1, 2, 3], 5), sequence(2, &[4, 5, 6], 5)]);
    step(&mut scheduler, 64);
    step(&mut scheduler, 64);
    let plan = scheduler.schedule(NOW, 64);
    assert_eq!(plan.preempted, [SeqId(2)]);
    assert_eq!(chunks(&plan), [(1, 4, 1)]);
    let preempted = scheduler.sequence(SeqId(2)).unwrap();
    assert_eq!((preempted.output(), preempted.num_computed_tokens(), preempted.block_table()), (&[9, 9][..], 0, &[][..]));
    scheduler.complete(&plan, &results(&plan));
    let mut resumed = Vec::new();
    while !scheduler.is_idle() {
        let (plan, _) = step(&mut scheduler, 64);
        assert_eq!(plan.first_scheduled, []);
        resumed.extend(plan.sequences.into_iter().filter(|planned| planned.id == SeqId(2)));
    }
    assert_eq!(resumed[0].tokens, [4, 5, 6, 9, 9], "prompt and output, from position 0");
    assert_eq!(scheduler.stats().preemptions_total, 1);
}

#[test]
fn a_preempted_sequence_comes_back_before_those_that_never_ran() {
    let config = SchedulerConfig { num_blocks: 4, ..config() };
    let mut scheduler = scheduler(config, vec![sequence(1, &[1, 2, 3], 5), sequence(2, &[4, 5, 6], 5), sequence(3, &[7], 1)]);
    let mut ends = Vec::new();
    while !scheduler.is_idle() {
        ends.extend(finished(&step(&mut scheduler, 64).1).iter().map(|end| end.0));
    }
    assert_eq!(scheduler.stats().preemptions_total, 1);
    assert_eq!(ends[0], 1);
}

#[test]
fn a_preempted_sequence_finds_its_own_blocks_and_usage_keeps_the_first_hit() {
    let config = SchedulerConfig { num_blocks: 5, ..config() };
    let mut scheduler = scheduler(config, vec![sequence(1, &[1, 2, 3], 6), sequence(2, &[4, 5, 6, 7, 8], 4)]);
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    while !scheduler.is_idle() {
        let (plan, events) = step(&mut scheduler, 64);
        starts.extend(chunks(&plan).into_iter().filter(|&(id, _, num_tokens)| id == 2 && num_tokens > 1).map(|(_, start, _)| start));
        ends.extend(finished(&events));
    }
    assert_eq!(scheduler.stats().preemptions_total, 1);
    assert_eq!(starts, [0, 2], "its first block is the last that the older sequence would have taken");
    assert_eq!(ends[1].2.cached_tokens, 0);
}

#[test]
fn scoring_goes_on_where_it_was_after_a_preemption() {
    let config = SchedulerConfig { num_blocks: 5, ..config() };
    let scored = NewSequence { score_prompt: true, ..sequence(2, &[10, 11, 12, 13, 14, 15], 1) };
    let mut scheduler = scheduler(config, vec![sequence(1, &[1, 2, 3], 6), scored]);
    let mut targets = Vec::new();
    let mut slices = Vec::new();
    while !scheduler.is_idle() {
        let (plan, _) = step(&mut scheduler, 4);
        for planned in plan.sequences.into_iter().filter(|planned| planned.id == SeqId(2)) {
            slices.push((planned.start, planned.tokens.len(), planned.score_targets.len()));
            targets.extend(planned.score_targets);
        }
    }
    assert_eq!(targets, [11, 12, 13, 14, 15]);
    assert!(scheduler.stats().preemptions_total > 0, "{slices:?}");
}
