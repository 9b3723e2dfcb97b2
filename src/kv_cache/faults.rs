//! Deliberate bugs, to show that the simulation of `scheduler` finds bugs of these kinds.
//!
//! Code that has a plausible bug asks `faults.has(Fault::…)` at that point. Outside of tests [`Faults`] has no size and the answer is
//! a constant `false`, so nothing of this is left in the program.

/// A plausible bug of the scheduler or the block accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A prefix hit does not count the new holder.
    RefNotTakenOnHit,
    /// A prefix hit on a free block leaves it in the free list.
    HitLeftInFreeList,
    /// A block is freed while one other sequence still holds it.
    FreedWhileShared,
    /// A block is reused but still found by its old tokens.
    EvictedStillCached,
    /// Blocks taken from the pool are not reported to the runner.
    NewBlocksNotReported,
    /// Equal digests are taken for equal tokens.
    TokensNotCompared,
    /// Equal digests and tokens are taken for equal beginnings.
    ParentNotCompared,
    /// Blocks are shared between scopes.
    ScopeIgnored,
    /// What a failed sequence computed can be found by others.
    FailedBlocksStayCached,
    /// What a failed sequence computed is forgotten only after the others of its step have looked for equal blocks.
    FailedBlocksForgottenLate,
    /// A failed sequence's blocks are committed as if the step had succeeded.
    CommittedOnFailure,
    /// Blocks are made findable when the step is planned, before it was computed.
    CommittedBeforeComputed,
    /// A text that is cached completely leaves nothing to compute.
    LastTokenNotRecomputed,
    /// A sequence whose prompt is scored takes blocks from the prefix cache.
    ScoringReadsCache,
    /// Prompt positions are scored again after a preemption.
    ScoredTwice,
    /// `num_computed_tokens` survives a preemption.
    ComputedKeptOnPreemption,
    /// Generated tokens do not survive a preemption.
    OutputLostOnPreemption,
    /// The oldest sequence is preempted, not the youngest.
    OldestPreempted,
    /// An aborted sequence keeps its blocks.
    LeakOnAbort,
    /// A failed sequence keeps its blocks.
    LeakOnFailure,
    /// An expired sequence keeps its blocks.
    LeakOnExpiry,
    /// Deadlines of running sequences are not looked at.
    DeadlineIgnoredWhileRunning,
    /// The end of a sequence is reported twice.
    FinishedTwice,
    /// A chunk that begins a block does not get the block.
    TableOffByOne,
    /// The step's budget is not charged for newly admitted sequences.
    BudgetExceeded,
    /// One sequence more than `max_num_seqs` runs.
    OneSequenceTooMany,
    /// The youngest waiting sequence is admitted first.
    WaitingOvertaken,
    /// A token is sampled after every chunk of a prompt.
    SampledMidPrompt,
    /// `cached_tokens` is overwritten when a preempted sequence resumes.
    UsageWrong,
    /// A sequence is admitted that the pool can never hold.
    PoolLimitIgnored,
    /// A result is applied to a sequence that was aborted and added again under the same id.
    StaleResultApplied,
    /// A row planned ahead that begins a block does not get the block.
    AheadWithoutBlock,
    /// A row is planned ahead of a token that is the sequence's last.
    AheadBeyondEnd,
    /// A plan made ahead keeps the blocks of sequences that ended meanwhile.
    AheadKeepsBlocks,
}

/// Which bug is planted, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    #[cfg(test)]
    pub(crate) planted: Option<Fault>,
    /// Bits cut from every digest, so that different contents collide.
    #[cfg(test)]
    pub(crate) digest_bits_cut: u32,
}

#[cfg(not(test))]
impl Faults {
    /// Whether this bug is planted: never.
    #[inline(always)]
    pub(crate) const fn has(self, _fault: Fault) -> bool {
        false
    }

    /// The digest as it is.
    #[inline(always)]
    pub(crate) const fn narrow_digest(self, digest: u64) -> u64 {
        digest
    }
}

#[cfg(test)]
impl Faults {
    /// Whether this bug is planted.
    pub(crate) fn has(self, fault: Fault) -> bool {
        self.planted == Some(fault)
    }

    /// The digest, weakened.
    pub(crate) fn narrow_digest(self, digest: u64) -> u64 {
        digest & (u64::MAX >> self.digest_bits_cut)
    }
}
