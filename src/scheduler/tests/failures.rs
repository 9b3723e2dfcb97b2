//! Steps that fail, in part or whole, and callers that break the rules.

use super::*;

#[test]
fn a_failed_step_ends_its_sequences_and_frees_their_blocks() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3], 4), sequence(2, &[4, 5, 6], 4)]);
    let plan = scheduler.schedule(NOW, 64);
    let events = scheduler.complete(&plan, &[StepResult::Failed, StepResult::Failed]);
    assert_eq!(events, [SchedulerEvent::Failed { id: SeqId(1) }, SchedulerEvent::Failed { id: SeqId(2) }]);
    assert!(scheduler.is_idle());
    assert_eq!((scheduler.stats().blocks_used, scheduler.stats().blocks_cached), (0, 0));
    scheduler.audit().unwrap();
}

#[test]
fn one_failed_sequence_does_not_touch_the_others() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3], 4), sequence(2, &[4, 5, 6], 4)]);
    let plan = scheduler.schedule(NOW, 64);
    let events = scheduler.complete(&plan, &[StepResult::Failed, StepResult::Token(7)]);
    assert_eq!(events, [SchedulerEvent::Failed { id: SeqId(1) }, SchedulerEvent::Token { id: SeqId(2), token: 7 }]);
    scheduler.audit().unwrap();
}

#[test]
fn what_a_failed_sequence_computed_in_earlier_steps_is_not_found_either() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3, 4], 4)]);
    step(&mut scheduler, 2);
    assert_eq!(scheduler.stats().blocks_cached, 1);
    let plan = scheduler.schedule(NOW, 2);
    scheduler.complete(&plan, &[StepResult::Failed]);
    scheduler.add(sequence(2, &[1, 2, 3, 4], 4), NOW).unwrap();
    assert_eq!(chunks(&step(&mut scheduler, 64).0), [(2, 0, 4)]);
}

#[test]
fn what_a_sequence_computed_is_not_found_if_it_was_aborted_before_its_failure_was_known() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3, 4], 4)]);
    step(&mut scheduler, 2);
    let plan = scheduler.schedule(NOW, 2);
    scheduler.abort(SeqId(1));
    assert_eq!(scheduler.complete(&plan, &[StepResult::Failed]), []);
    assert_eq!(scheduler.stats().blocks_cached, 0);
    scheduler.audit().unwrap();
}

#[test]
fn of_two_equal_prompts_the_one_that_succeeds_keeps_its_own_block_if_the_other_fails() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3], 4), sequence(2, &[1, 2, 4, 5, 6], 4)]);
    step(&mut scheduler, 5); // all of sequence 1 and the first block of sequence 2
    let shared = scheduler.sequence(SeqId(1)).unwrap().block_table()[0];
    assert_eq!(scheduler.sequence(SeqId(2)).unwrap().block_table()[0], shared);
    let plan = scheduler.schedule(NOW, 64);
    scheduler.complete(&plan, &[StepResult::Failed, StepResult::Token(9)]);
    scheduler.audit().unwrap();
    assert_eq!(scheduler.sequence(SeqId(2)).unwrap().block_table()[0], shared, "still held, but not to be found");
    assert_eq!(scheduler.stats().blocks_cached, 0);
}

#[test]
fn a_missing_result_or_one_of_the_wrong_kind_fails_its_sequence() {
    for results in [vec![], vec![StepResult::Computed]] {
        let mut scheduler = scheduler(config(), vec![sequence(1, &[1], 4)]);
        let plan = scheduler.schedule(NOW, 64);
        assert_eq!(scheduler.complete(&plan, &results), [SchedulerEvent::Failed { id: SeqId(1) }]);
    }
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2], 4)]);
    let plan = scheduler.schedule(NOW, 1);
    assert_eq!(scheduler.complete(&plan, &[StepResult::Token(3)]), [SchedulerEvent::Failed { id: SeqId(1) }]);
}

#[test]
fn a_plan_is_completed_at_most_once_and_only_while_it_is_the_last() {
    let mut scheduler = scheduler(config(), vec![sequence(1, &[1, 2, 3], 4)]);
    let superseded = scheduler.schedule(NOW, 2);
    let plan = scheduler.schedule(NOW, 2);
    assert_eq!(chunks(&superseded), chunks(&plan), "a plan that was never completed counts as not computed");
    assert_eq!(scheduler.complete(&superseded, &results(&superseded)), []);
    scheduler.complete(&plan, &results(&plan));
    scheduler.complete(&plan, &results(&plan));
    assert_eq!(scheduler.sequence(SeqId(1)).unwrap().num_computed_tokens(), 2);
    scheduler.audit().unwrap();
}
