//! Shows that the simulation bites: every bug that can be planted is found within a few seeds.

use super::run;
use crate::kv_cache::Fault;

/// Every bug that can be planted.
const ALL: &[Fault] = &[
    Fault::RefNotTakenOnHit,
    Fault::HitLeftInFreeList,
    Fault::FreedWhileShared,
    Fault::EvictedStillCached,
    Fault::NewBlocksNotReported,
    Fault::TokensNotCompared,
    Fault::ParentNotCompared,
    Fault::ScopeIgnored,
    Fault::FailedBlocksStayCached,
    Fault::FailedBlocksForgottenLate,
    Fault::CommittedOnFailure,
    Fault::CommittedBeforeComputed,
    Fault::LastTokenNotRecomputed,
    Fault::ScoringReadsCache,
    Fault::ScoredTwice,
    Fault::ComputedKeptOnPreemption,
    Fault::OutputLostOnPreemption,
    Fault::OldestPreempted,
    Fault::LeakOnAbort,
    Fault::LeakOnFailure,
    Fault::LeakOnExpiry,
    Fault::DeadlineIgnoredWhileRunning,
    Fault::FinishedTwice,
    Fault::TableOffByOne,
    Fault::BudgetExceeded,
    Fault::OneSequenceTooMany,
    Fault::WaitingOvertaken,
    Fault::SampledMidPrompt,
    Fault::UsageWrong,
    Fault::PoolLimitIgnored,
    Fault::StaleResultApplied,
    Fault::AheadWithoutBlock,
    Fault::AheadBeyondEnd,
    Fault::AheadKeepsBlocks,
];

const MAX_SEEDS: u64 = 100;

/// How many seeds it takes to find a bug, and what is seen of it.
fn find(fault: Fault) -> Option<(u64, String)> {
    (0..MAX_SEEDS).find_map(|seed| run(seed, Some(fault)).err().map(|text| (seed + 1, text)))
}

#[test]
fn every_planted_fault_is_found() {
    let mut survivors = Vec::new();
    for &fault in ALL {
        match find(fault) {
            Some((seeds, text)) => println!("{fault:?}: after {seeds} seeds: {}", text.lines().next().unwrap_or_default()),
            None => survivors.push(fault),
        }
    }
    assert!(survivors.is_empty(), "not found within {MAX_SEEDS} seeds: {survivors:?}");
}

#[test]
fn without_a_fault_the_same_seeds_violate_nothing() {
    for seed in 0..MAX_SEEDS {
        run(seed, None).unwrap();
    }
}
