//! Who is accepted, in which order sequences begin, and how they leave before their time.

use super::*;

#[test]
fn a_sequence_that_could_never_be_computed_is_refused() {
    let scheduler = Scheduler::new(SchedulerConfig { num_blocks: 4, ..config() });
    assert_eq!(scheduler.check(0, 1), Err(AdmissionError::EmptyPrompt));
    let too_long = AdmissionError::TooLongForContext { prompt: 60, max_tokens: 5, max_model_len: 64 };
    assert_eq!(scheduler.check(60, 5), Err(too_long));
    assert_eq!(scheduler.check(8, 2), Err(AdmissionError::TooLargeForPool { needed_tokens: 9, capacity_tokens: 8 }));
    assert_eq!(scheduler.check(8, 1), Ok(()), "the last token needs no room");
    assert_eq!(scheduler.check(8, 0), Ok(()));
    assert!(scheduler.check(usize::MAX, usize::MAX).is_err());
}

#[test]
fn an_id_in_use_is_refused_and_free_again_after_the_end() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[5], 1)]);
    assert_eq!(scheduler.add(sequence(1, &[6], 1), NOW), Err(AdmissionError::DuplicateId { id: SeqId(1) }));
    step(&mut scheduler, 64);
    assert_eq!(scheduler.add(sequence(1, &[6], 1), NOW), Ok(()));
}

#[test]
fn a_sequence_that_fills_the_pool_exactly_is_computed() {
    let mut scheduler = scheduler(SchedulerConfig { num_blocks: 2, ..config() }, vec![sequence(1, &[5, 6, 7], 2)]);
    step(&mut scheduler, 64);
    let (_, events) = step(&mut scheduler, 64);
    let usage = Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 2 };
    assert_eq!(finished(&events), [(1, FinishReason::Length, usage)]);
    assert!(scheduler.is_idle());
}

#[test]
fn a_small_sequence_does_not_overtake_a_large_one_that_waits_for_room() {
    let config = SchedulerConfig { num_blocks: 4, ..config() };
    let mut scheduler = scheduler(config, vec![sequence(1, &[1, 2], 4), sequence(2, &[3; 7], 1), sequence(3, &[4], 1)]);
    let order: Vec<_> = std::iter::from_fn(|| (!scheduler.is_idle()).then(|| step(&mut scheduler, 64).0))
        .flat_map(|plan| plan.first_scheduled)
        .map(|id| id.0)
        .collect();
    assert_eq!(order, [1, 2, 3]);
}

#[test]
fn lower_priorities_go_first_and_waiting_makes_up_for_them() {
    let config = SchedulerConfig { max_num_seqs: 1, ..config() };
    let mut scheduler = scheduler(config, vec![]);
    let at = |seconds| Duration::from_secs(seconds);
    for (id, priority, second) in [(1, 0, 0), (2, 3, 1), (3, 0, 2), (4, -1, 3), (5, 0, 30), (6, 0, 32)] {
        scheduler.add(NewSequence { priority, ..sequence(id, &[id as u32], 1) }, at(second)).unwrap();
    }
    let order: Vec<_> = std::iter::from_fn(|| (!scheduler.is_idle()).then(|| step(&mut scheduler, 64).0))
        .flat_map(|plan| plan.first_scheduled)
        .map(|id| id.0)
        .collect();
    assert_eq!(order, [4, 1, 3, 5, 2, 6], "of priority 3 is as if it came 30 seconds later");
}

#[test]
fn blocks_that_a_running_prompt_still_needs_are_not_given_to_a_newcomer() {
    let config = SchedulerConfig { num_blocks: 5, ..config() };
    let mut scheduler = scheduler(config, vec![sequence(1, &[1; 8], 1), sequence(2, &[2; 4], 1)]);
    let (plan, _) = step(&mut scheduler, 4);
    assert_eq!(chunks(&plan), [(1, 0, 4)]);
    let (plan, _) = step(&mut scheduler, 6);
    assert_eq!(chunks(&plan), [(1, 4, 4)], "sequence 2 would fit the free blocks only if sequence 1 were preempted");
    assert_eq!(scheduler.stats().preemptions_total, 0);
}

#[test]
fn no_more_than_max_num_seqs_run() {
    let config = SchedulerConfig { max_num_seqs: 2, ..config() };
    let mut scheduler = scheduler(config, (0..3).map(|id| sequence(id, &[id as u32], 1)).collect());
    assert_eq!(chunks(&step(&mut scheduler, 64).0), [(0, 0, 1), (1, 0, 1)]);
    assert_eq!(chunks(&step(&mut scheduler, 64).0), [(2, 0, 1)]);
}

#[test]
fn an_aborted_sequence_frees_its_blocks_at_once_and_its_result_is_ignored() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[5, 6, 7], 4), sequence(2, &[8], 4)]);
    let plan = scheduler.schedule(NOW, 64);
    assert!(scheduler.abort(SeqId(1)));
    assert!(!scheduler.abort(SeqId(1)));
    assert_eq!(scheduler.stats().blocks_used, 1);
    let events = scheduler.complete(&plan, &results(&plan));
    assert_eq!(events, [SchedulerEvent::Token { id: SeqId(2), token: 9 }]);
    scheduler.audit().unwrap();
}

#[test]
fn a_result_is_not_applied_to_a_new_sequence_of_the_same_id() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[5, 6, 7], 4)]);
    let plan = scheduler.schedule(NOW, 64);
    scheduler.abort(SeqId(1));
    scheduler.add(sequence(1, &[5, 6, 7], 4), NOW).unwrap();
    assert_eq!(scheduler.complete(&plan, &results(&plan)), []);
    assert_eq!(scheduler.sequence(SeqId(1)).unwrap().num_computed_tokens(), 0);
    scheduler.audit().unwrap();
}

#[test]
fn waiting_and_running_sequences_expire_at_their_deadline() {
    let deadline = Some(Duration::from_millis(5));
    let config = SchedulerConfig { max_num_seqs: 1, ..config() };
    let with_deadline = |id| NewSequence { deadline, ..sequence(id, &[5, 6], 9) };
    let mut scheduler = scheduler(config, vec![with_deadline(1), with_deadline(2)]);
    assert_eq!(scheduler.schedule(Duration::from_millis(4), 64).expired, []);
    let plan = scheduler.schedule(Duration::from_millis(5), 64);
    assert_eq!(plan.expired, [SeqId(1), SeqId(2)]);
    assert!(plan.is_empty() && scheduler.is_idle());
    assert_eq!(scheduler.stats().blocks_used, 0);
}

#[test]
fn stats_count_what_waits_runs_and_is_held() {
    let config = SchedulerConfig { max_num_seqs: 1, ..config() };
    let mut scheduler = scheduler(config, vec![sequence(1, &[5, 6, 7], 4), sequence(2, &[5, 6, 7], 4)]);
    step(&mut scheduler, 64);
    let stats = scheduler.stats();
    assert_eq!((stats.running, stats.waiting, stats.blocks_used, stats.blocks_cached, stats.blocks_total), (1, 1, 2, 1, 32));
    assert_eq!(stats.kv_cache_usage(), 2.0 / 32.0);
    assert_eq!((stats.prefix_cache_queries_total, stats.prefix_cache_hits_total), (3, 0));
}
