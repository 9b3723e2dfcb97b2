//! Turns what happens to sequences into metrics; the one place of the engine that records any.

use crate::generation::{FinishReason, GenerationRequest, Usage};
use crate::runner::{StepOp, StepProfile};
use crate::scheduler::{SchedulerStats, SeqId};
use crate::telemetry::metrics::{EngineLoad, FinishedSequence, Metrics, Outcome, StepOperations};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Moments in the life of one sequence.
#[derive(Debug)]
pub(super) struct Timeline {
    arrival: Instant,
    first_scheduled: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    preemptions: u32,
    prompt_tokens: u32,
    cached_tokens: u32,
    max_tokens: u32,
    generated: u32,
    prompt_counted: bool,
    /// The group of choices of its prompt.
    prompt: SeqId,
}

/// The choices of one prompt of one request.
#[derive(Debug)]
struct Prompt {
    choices: u32,
    unfinished: u32,
    longest: u32,
}

/// What following the forms of texts is called among the operations of a step.
const MASKS: &str = "masks";

/// Records metrics; knows the groups of choices and the totals reported so far.
#[derive(Debug)]
pub(super) struct Observer {
    metrics: Arc<Metrics>,
    operations: StepOperations,
    /// By the id of the prompt's first sequence.
    prompts: BTreeMap<SeqId, Prompt>,
    reported: SchedulerStats,
}

impl Observer {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let labels: Vec<&str> = StepOp::ALL.map(StepOp::label).into_iter().chain([MASKS]).collect();
        let operations = metrics.step_operations(&labels);
        Self { metrics, operations, prompts: BTreeMap::new(), reported: SchedulerStats::default() }
    }

    /// A sequence entered; `first_of_prompt` is the first sequence of the same prompt in the same request.
    pub(super) fn entered(&mut self, request: &GenerationRequest, arrival: Instant, first_of_prompt: SeqId) -> Timeline {
        let prompt = self.prompts.entry(first_of_prompt).or_insert(Prompt { choices: 0, unfinished: 0, longest: 0 });
        prompt.choices += 1;
        prompt.unfinished += 1;
        Timeline {
            arrival,
            first_scheduled: None,
            first_token: None,
            last_token: None,
            preemptions: 0,
            prompt_tokens: request.prompt.len() as u32,
            cached_tokens: 0,
            max_tokens: request.stop.max_tokens,
            generated: 0,
            prompt_counted: false,
            prompt: first_of_prompt,
        }
    }

    /// A sequence's first step; the prefix cache holds `cached` tokens of its prompt.
    /// Returns how long it waited.
    pub(super) fn first_scheduled(&self, timeline: &mut Timeline, cached: u32, now: Instant) -> Duration {
        timeline.first_scheduled = Some(now);
        timeline.cached_tokens = cached;
        let queue_time = now.saturating_duration_since(timeline.arrival);
        self.metrics.first_scheduled(queue_time);
        queue_time
    }

    pub(super) fn preempted(&self, timeline: &mut Timeline) {
        timeline.preemptions += 1;
    }

    pub(super) fn token(&self, timeline: &mut Timeline, now: Instant) {
        timeline.generated += 1;
        match timeline.last_token.replace(now) {
            Some(last) => self.metrics.next_token(now.saturating_duration_since(last)),
            None => {
                timeline.first_token = Some(now);
                self.metrics.first_token(now.saturating_duration_since(timeline.arrival));
                self.count_prompt(timeline);
            }
        }
    }

    /// Counts a prompt once, when all of it was processed.
    fn count_prompt(&self, timeline: &mut Timeline) {
        if !std::mem::replace(&mut timeline.prompt_counted, true) {
            let cached = timeline.cached_tokens;
            self.metrics.prompt_processed(timeline.prompt_tokens.saturating_sub(cached), cached);
        }
    }

    pub(super) fn finished(&mut self, mut timeline: Timeline, (reason, usage): (FinishReason, Usage), now: Instant) {
        self.count_prompt(&mut timeline);
        let between = |start: Instant, end: Instant| end.saturating_duration_since(start);
        let scheduled = timeline.first_scheduled.unwrap_or(timeline.arrival);
        self.metrics.finished(&FinishedSequence {
            e2e: between(timeline.arrival, now),
            inference: between(scheduled, now),
            prefill: timeline.first_token.map(|first| between(scheduled, first)),
            decode: timeline.first_token.map(|first| between(first, now)),
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            generation_tokens: usage.completion_tokens,
            max_tokens: timeline.max_tokens,
            preemptions: timeline.preemptions,
        });
        self.ended(timeline, Outcome::from(reason));
    }

    /// A sequence ended, however.
    pub(super) fn ended(&mut self, timeline: Timeline, outcome: Outcome) {
        self.metrics.ended(outcome);
        let Some(prompt) = self.prompts.get_mut(&timeline.prompt) else { return };
        prompt.unfinished -= 1;
        prompt.longest = prompt.longest.max(timeline.generated);
        if prompt.unfinished == 0 {
            self.metrics.prompt_ended(prompt.choices, prompt.longest);
            self.prompts.remove(&timeline.prompt);
        }
    }

    /// A step of `tokens` rows was computed.
    pub(super) fn step(&self, tokens: usize, duration: Duration) {
        self.metrics.step(duration, tokens);
    }

    /// Where the time of the last step went, and that of the masks before it, also of one that failed; the profile begins anew.
    pub(super) fn operations(&self, profile: &mut StepProfile, masks: Duration) {
        self.operations.add(StepOp::ALL.into_iter().map(|op| profile.time(op)).chain([masks]));
        profile.reset();
    }

    pub(super) fn generated(&self, tokens: u64, at: Instant) {
        if tokens > 0 {
            self.metrics.generated(tokens, at);
        }
    }

    pub(super) fn step_failed(&self) {
        self.metrics.step_failed();
    }

    /// Nothing runs or waits any more, and nothing will.
    pub(super) fn gone(&self) {
        self.metrics.set_load(EngineLoad::default());
    }

    /// The scheduler's figures; counters grow by what is new in them.
    pub(super) fn load(&mut self, stats: SchedulerStats) {
        if stats == self.reported {
            return;
        }
        self.metrics.set_load(EngineLoad { running: stats.running, waiting: stats.waiting, kv_cache_usage: stats.kv_cache_usage() });
        self.metrics.preempted(stats.preemptions_total - self.reported.preemptions_total);
        self.metrics.prefix_cache(
            stats.prefix_cache_queries_total - self.reported.prefix_cache_queries_total,
            stats.prefix_cache_hits_total - self.reported.prefix_cache_hits_total,
        );
        self.reported = stats;
    }
}
