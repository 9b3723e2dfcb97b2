//! The engine without its thread: takes sequences in, has steps computed, sends events out.

use super::batch::{self, StepError};
use super::budget::StepBudget;
use super::command::Submission;
use super::observer::{Observer, Timeline};
use super::shared::{Shared, Ticket};
use super::stream::{MOST_PREFILL_REPORTS, is_terminal};
use crate::generation::{
    ConstraintState, FailureKind, FinishReason, GenerationEvent, GenerationFailure, GenerationRequest, TokenId, TokenLogprobs, Usage,
};
use crate::runner::{ModelRunner, RunnerError, SequenceOutput};
use crate::sampling::{SampledToken, SamplingError};
use crate::scheduler::{NewSequence, PlannedSequence, Scheduler, SchedulerEvent, SeqId, StepPlan, StepResult};
use crate::telemetry::metrics::{Metrics, Outcome};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Panics in a row after which the runner is given up.
const MAX_CONSECUTIVE_PANICS: u32 = 3;

/// What the engine keeps of a sequence that has not ended.
#[derive(Debug)]
pub(super) struct ActiveSequence {
    pub request: GenerationRequest,
    /// End-of-sequence and stop tokens together: what `min_tokens` forbids.
    pub stop_tokens: Box<[TokenId]>,
    events: mpsc::Sender<GenerationEvent>,
    timeline: Timeline,
    /// Whether the entry for prompt token 0 was sent, which nothing predicts.
    prompt_logprobs_begun: bool,
    /// How far it is in the form that its text must have.
    pub constraint: Option<Box<dyn ConstraintState>>,
    /// Tokens of the prompt that were reported as computed.
    prefill_reported: usize,
    /// Of the token that the scheduler is about to report.
    logprobs: Option<TokenLogprobs>,
    /// Why the scheduler is about to report a failure.
    failure: Option<GenerationFailure>,
    /// Last, so that everything else is gone when the counters say so.
    ticket: Ticket,
}

/// Whether the engine can go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StepOutcome {
    /// It can.
    Continue,
    /// Nothing more can be computed.
    Fatal(String),
}

/// A step that the runner has, or has refused.
struct Submitted {
    plan: StepPlan,
    /// When the runner could begin it.
    since: Instant,
    outcome: Result<(), StepError>,
}

/// What a step meant, and its readers do not know yet.
struct News {
    plan: StepPlan,
    events: Vec<SchedulerEvent>,
    /// When the step had ended.
    at: Instant,
}

/// Scheduler, runner and the sequences between them. Single-threaded; knows no channel of commands.
///
/// A runner that computes elsewhere is kept busy: the next step is planned and submitted before the last one is collected, where that can be, and
/// readers are told of a step while the next one is computed.
pub(super) struct EngineCore {
    scheduler: Scheduler,
    runner: Box<dyn ModelRunner>,
    /// Whether the runner computes elsewhere, and is to be kept busy.
    is_async: bool,
    active: BTreeMap<SeqId, ActiveSequence>,
    /// The step that was submitted ahead of the results of the last one.
    ahead: Option<Submitted>,
    news: Option<News>,
    budget: StepBudget,
    observer: Observer,
    shared: Arc<Shared>,
    consecutive_panics: u32,
    /// Time that following the forms of texts took since the last step was computed.
    mask_time: Duration,
}

impl EngineCore {
    pub(super) fn new(
        mut runner: Box<dyn ModelRunner>,
        scheduler: Scheduler,
        budget: StepBudget,
        shared: &Arc<Shared>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let observer = Observer::new(metrics);
        if let Some(profile) = runner.step_profile() {
            // What it computed before is not this engine's.
            profile.reset();
        }
        Self {
            scheduler,
            is_async: runner.computes_elsewhere(),
            runner,
            active: BTreeMap::new(),
            ahead: None,
            news: None,
            budget,
            observer,
            shared: Arc::clone(shared),
            consecutive_panics: 0,
            mask_time: Duration::ZERO,
        }
    }

    /// Unless it is wanted, steps are computed one by one.
    pub(super) fn with_async_scheduling(self, is_wanted: bool) -> Self {
        Self { is_async: self.is_async && is_wanted, ..self }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.ahead.is_none() && self.news.is_none()
    }

    /// Takes in all sequences of one request.
    pub(super) fn submit(&mut self, submissions: Vec<Submission>) {
        let now = self.shared.since_origin(self.shared.clock.now());
        for new in self.register(submissions) {
            let id = new.id;
            if let Err(error) = self.scheduler.add(new, now) {
                // The handle asked the same question, so this is a defect, but one of this request alone.
                self.end_failed(id, failure_of(FailureKind::StepFailed, error.to_string()));
            }
        }
        self.report_load();
    }

    /// Makes sequences known, so that they can be ended; the scheduler has yet to take them.
    pub(super) fn register(&mut self, submissions: Vec<Submission>) -> Vec<NewSequence> {
        let mut first_of_prompt = BTreeMap::new();
        let mut register_one = |submission: Submission| {
            let first = *first_of_prompt.entry(submission.request.prompt_index).or_insert(submission.id);
            let Submission { id, request, arrival, deadline, events, ticket } = submission;
            let new = NewSequence {
                id,
                prompt: Arc::clone(&request.prompt),
                stop: request.stop.clone(),
                score_prompt: request.prompt_logprobs.is_some(),
                priority: request.priority,
                cache_salt: request.cache_salt,
                deadline: deadline.map(|deadline| self.shared.since_origin(deadline)),
            };
            let timeline = self.observer.entered(&request, arrival, first);
            self.active.insert(id, ActiveSequence::new(request, events, timeline, ticket));
            new
        };
        submissions.into_iter().map(&mut register_one).collect()
    }

    /// Ends a sequence that nobody reads any more; one that has ended already is passed over.
    pub(super) fn abort(&mut self, id: SeqId) {
        self.deliver();
        self.scheduler.abort(id);
        if let Some(active) = self.active.remove(&id) {
            self.observer.ended(active.timeline, Outcome::Abort);
        }
        self.report_load();
    }

    /// Ends a sequence whose reader found in the text what it was to stop at; one that has ended already is passed over.
    pub(super) fn finish(&mut self, id: SeqId) {
        self.deliver();
        if let (Some(active), Some(sequence)) = (self.active.remove(&id), self.scheduler.sequence(id)) {
            let usage = Usage {
                prompt_tokens: sequence.prompt().len() as u32,
                cached_tokens: sequence.cached_tokens() as u32,
                completion_tokens: sequence.output().len() as u32,
            };
            self.observer.finished(active.timeline, (FinishReason::Stop, usage), self.shared.clock.now());
        }
        self.scheduler.abort(id);
        self.report_load();
    }

    /// Fails every sequence and frees its blocks.
    pub(super) fn abort_all(&mut self, kind: FailureKind, detail: &str) {
        self.deliver();
        let ids: Vec<SeqId> = self.active.keys().copied().collect();
        for &id in &ids {
            self.scheduler.abort(id);
        }
        // First: whoever sees that the last one is gone also sees that its blocks are.
        self.report_load();
        for id in ids {
            self.end_failed(id, failure_of(kind, detail.to_owned()));
        }
    }

    /// Fails every sequence without touching scheduler or runner, which may be broken.
    pub(super) fn abandon(&mut self, detail: &str) {
        while let Some((_, active)) = self.active.pop_first() {
            let _ = active.events.try_send(GenerationEvent::Failed(failure_of(FailureKind::EngineDead, detail.to_owned())));
            self.observer.ended(active.timeline, Outcome::Error);
        }
        self.observer.gone();
    }

    /// Plans a step, if none was sent ahead, and has it computed. Where the runner computes elsewhere, the next one is sent ahead and the last one
    /// reported meanwhile.
    pub(super) fn step(&mut self) -> StepOutcome {
        let Submitted { plan, since, outcome } = match self.ahead.take() {
            Some(submitted) => submitted,
            None => match self.begin_step() {
                Ok(submitted) => submitted,
                Err(outcome) => return outcome,
            },
        };
        if outcome.is_ok() && self.is_async {
            self.step_ahead(&plan);
        }
        self.deliver();
        let outcome = outcome.and_then(|()| batch::collect(&mut *self.runner, &plan));
        if let Some(profile) = self.runner.step_profile() {
            self.observer.operations(profile, std::mem::take(&mut self.mask_time));
        }
        let ended = self.shared.clock.now();
        let duration = ended.saturating_duration_since(since);
        let (results, step_outcome) = match outcome {
            Ok(outputs) => {
                // One that was refused meanwhile is counted next.
                if self.ahead.as_ref().is_none_or(|ahead| ahead.outcome.is_ok()) {
                    self.consecutive_panics = 0;
                }
                self.observer.step(plan.num_tokens(), duration);
                self.budget.record(plan.num_tokens(), plan.sequences.len(), duration);
                (self.absorb(&plan, outputs), StepOutcome::Continue)
            }
            Err(error) => self.fail_step(&plan, &error),
        };
        let events = self.scheduler.complete(&plan, &results);
        if let Some(ahead) = &mut self.ahead {
            self.scheduler.confirm(&mut ahead.plan);
            ahead.since = ended;
        }
        self.news = Some(News { plan, events, at: ended });
        // Told while the next step is computed, if there will be one.
        if !self.is_async || self.scheduler.is_idle() || step_outcome != StepOutcome::Continue {
            self.deliver();
        }
        step_outcome
    }

    /// Plans a step and submits it; what comes of it if there is nothing to compute.
    fn begin_step(&mut self) -> Result<Submitted, StepOutcome> {
        let since = self.shared.clock.now();
        let budget = self.budget.tokens(self.scheduler.stats().running);
        let plan = self.scheduler.schedule(self.shared.since_origin(since), budget);
        if !plan.expired.is_empty() {
            // What they were given comes first.
            self.deliver();
        }
        self.note_plan(&plan, since);
        if plan.is_empty() {
            self.deliver();
            self.report_load();
            // Trying again would spin for ever.
            let is_stuck = !self.scheduler.is_idle();
            return Err(if is_stuck { StepOutcome::Fatal("nothing is planned for what waits".to_owned()) } else { StepOutcome::Continue });
        }
        self.prepare_constraints(&plan);
        let outcome = batch::submit(&mut *self.runner, &plan, &self.scheduler, &self.active);
        Ok(Submitted { plan, since, outcome })
    }

    /// Submits the step after `plan`, which the runner has, if it is known what that will be.
    fn step_ahead(&mut self, plan: &StepPlan) {
        let is_ready = |active: &ActiveSequence| active.failure.is_none() && batch::needs_no_token(active);
        if !plan.sequences.iter().filter_map(|planned| self.active.get(&planned.id)).all(is_ready) {
            return;
        }
        let since = self.shared.clock.now();
        let budget = self.budget.tokens(self.scheduler.stats().running);
        let Some(plan) = self.scheduler.schedule_ahead(plan, self.shared.since_origin(since), budget) else { return };
        let outcome = batch::submit(&mut *self.runner, &plan, &self.scheduler, &self.active);
        self.ahead = Some(Submitted { plan, since, outcome });
    }

    /// Tells readers what the last step meant, if they do not know yet.
    fn deliver(&mut self) {
        if let Some(News { plan, events, at }) = self.news.take() {
            self.dispatch(events, at);
            self.report_prefill(&plan);
        }
    }

    /// Finds what may follow in each sequence whose text must have a form. One that cannot go on fails; the step is computed for the others.
    fn prepare_constraints(&mut self, plan: &StepPlan) {
        let started = self.shared.clock.now();
        for planned in plan.sequences.iter().filter(|planned| planned.samples) {
            let Some(active) = self.active.get_mut(&planned.id) else { continue };
            if let Some(Err(detail)) = active.constraint.as_mut().map(|constraint| constraint.prepare()) {
                active.fails(plan.step, failure_of(FailureKind::ConstraintFailed, detail));
            }
        }
        self.mask_time += self.shared.clock.now().saturating_duration_since(started);
    }

    /// Tells those who asked how far their prompts are computed.
    fn report_prefill(&mut self, plan: &StepPlan) {
        for planned in plan.sequences.iter().filter(|planned| !planned.samples) {
            if let Some(active) = self.active.get_mut(&planned.id) {
                active.report_prefill(planned.start + planned.tokens.len());
            }
        }
    }

    /// What the plan itself means for sequences.
    fn note_plan(&mut self, plan: &StepPlan, now: Instant) {
        for id in &plan.first_scheduled {
            if let (Some(active), Some(sequence)) = (self.active.get_mut(id), self.scheduler.sequence(*id)) {
                active.ticket.leave_queue();
                let cached_tokens = sequence.cached_tokens() as u32;
                let queue_time = self.observer.first_scheduled(&mut active.timeline, cached_tokens, now);
                let _ = active.send(GenerationEvent::Scheduled { cached_tokens, queue_time });
            }
        }
        for id in &plan.preempted {
            if let Some(active) = self.active.get_mut(id) {
                self.observer.preempted(&mut active.timeline);
            }
        }
        for id in &plan.expired {
            self.end_failed(*id, failure_of(FailureKind::DeadlineExceeded, "deadline passed".to_owned()));
        }
    }

    /// A step of which nothing can be used: its sequences fail, the others go on.
    fn fail_step(&mut self, plan: &StepPlan, error: &StepError) -> (Vec<StepResult>, StepOutcome) {
        tracing::error!(step = plan.step, sequences = plan.sequences.len(), tokens = plan.num_tokens(), %error, "step failed");
        self.observer.step_failed();
        let is_panic = matches!(error, StepError::Panicked(_));
        self.consecutive_panics = if is_panic { self.consecutive_panics + 1 } else { 0 };
        let is_fatal = matches!(error, StepError::Runner(RunnerError::Fatal(_))) || self.consecutive_panics >= MAX_CONSECUTIVE_PANICS;
        let kind = if is_fatal { FailureKind::EngineDead } else { FailureKind::StepFailed };
        for planned in &plan.sequences {
            if let Some(active) = self.active.get_mut(&planned.id) {
                active.failure = Some(failure_of(kind, error.to_string()));
            }
        }
        let outcome = if is_fatal { StepOutcome::Fatal(error.to_string()) } else { StepOutcome::Continue };
        (vec![StepResult::Failed; plan.sequences.len()], outcome)
    }

    /// Outputs to results for the scheduler; prompt log-probabilities are sent at once, being before any token.
    fn absorb(&mut self, plan: &StepPlan, outputs: Vec<SequenceOutput>) -> Vec<StepResult> {
        let outputs = plan.sequences.iter().zip(outputs);
        outputs.map(|(planned, output)| self.absorb_one(plan.step, planned, output)).collect()
    }

    fn absorb_one(&mut self, step: u64, planned: &PlannedSequence, mut output: SequenceOutput) -> StepResult {
        let scores = std::mem::take(&mut output.scores);
        let interpreted = interpret(planned, &scores, output);
        // Of one that has ended only its blocks matter: whether they can be trusted.
        let Some(active) = self.active.get_mut(&planned.id) else {
            let token = |sampled: Option<SampledToken>| sampled.map_or(StepResult::Computed, |sampled| StepResult::Token(sampled.token));
            return interpreted.map_or(StepResult::Failed, token);
        };
        if active.failure.is_some() {
            return StepResult::Failed;
        }
        match interpreted {
            Ok(token) => {
                active.send_prompt_logprobs(scores);
                let Some(sampled) = token else { return StepResult::Computed };
                active.logprobs = sampled.logprobs;
                let Some(constraint) = &mut active.constraint else { return StepResult::Token(sampled.token) };
                let started = self.shared.clock.now();
                let accepted = constraint.accept(sampled.token);
                self.mask_time += self.shared.clock.now().saturating_duration_since(started);
                match accepted {
                    Ok(false) => StepResult::Token(sampled.token),
                    Ok(true) => StepResult::LastToken(sampled.token),
                    Err(detail) => active.fails(step, failure_of(FailureKind::ConstraintFailed, detail)),
                }
            }
            Err(failure) => active.fails(step, failure),
        }
    }

    /// Tells the readers what the step meant. Figures come first, so that whoever sees the event also sees them.
    fn dispatch(&mut self, events: Vec<SchedulerEvent>, now: Instant) {
        let is_token = |event: &&SchedulerEvent| matches!(event, SchedulerEvent::Token { .. });
        self.observer.generated(events.iter().filter(is_token).count() as u64, now);
        self.report_load();
        for event in events {
            match event {
                SchedulerEvent::Token { id, token } => self.send_token(id, token, now),
                SchedulerEvent::Finished { id, reason, usage } => {
                    let Some(active) = self.active.remove(&id) else { continue };
                    self.observer.finished(active.timeline, (reason, usage), now);
                    let _ = active.events.try_send(GenerationEvent::Finished { reason, usage });
                }
                SchedulerEvent::Failed { id } => {
                    let pending = self.active.get_mut(&id).and_then(|active| active.failure.take());
                    let unexplained = || failure_of(FailureKind::StepFailed, "the scheduler refused the step's result".to_owned());
                    self.end_failed(id, pending.unwrap_or_else(unexplained));
                }
            }
        }
    }

    fn send_token(&mut self, id: SeqId, token: TokenId, now: Instant) {
        let Some(active) = self.active.get_mut(&id) else { return };
        self.observer.token(&mut active.timeline, now);
        let logprobs = active.logprobs.take();
        // What is computed again after a preemption is no news.
        active.prefill_reported = usize::MAX;
        let has_room = active.send(GenerationEvent::Token { token, logprobs });
        // A sequence whose last token this is ends with the next event.
        if !has_room && self.scheduler.sequence(id).is_some() {
            self.abort(id);
        }
    }

    /// Ends a sequence that the scheduler holds no longer.
    fn end_failed(&mut self, id: SeqId, failure: GenerationFailure) {
        let Some(active) = self.active.remove(&id) else { return };
        let outcome = match failure.kind {
            FailureKind::DeadlineExceeded | FailureKind::ShuttingDown => Outcome::Abort,
            FailureKind::NonFiniteLogits
            | FailureKind::NothingAllowed
            | FailureKind::ConstraintFailed
            | FailureKind::StepFailed
            | FailureKind::EngineDead => Outcome::Error,
        };
        self.observer.ended(active.timeline, outcome);
        let _ = active.events.try_send(GenerationEvent::Failed(failure));
    }

    fn report_load(&mut self) {
        self.observer.load(self.scheduler.stats());
    }

    #[cfg(test)]
    pub(super) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }
}

impl ActiveSequence {
    fn new(request: GenerationRequest, events: mpsc::Sender<GenerationEvent>, timeline: Timeline, ticket: Ticket) -> Self {
        let stop_tokens = request.stop.eos_token_ids.iter().chain(request.stop.stop_token_ids.iter()).copied().collect();
        let constraint = request.constraint.as_ref().map(|constraint| constraint.0.begin());
        Self {
            request,
            stop_tokens,
            events,
            timeline,
            prompt_logprobs_begun: false,
            prefill_reported: 0,
            constraint,
            logprobs: None,
            failure: None,
            ticket,
        }
    }

    /// Notes why the scheduler is about to report a failure.
    fn fails(&mut self, step: u64, failure: GenerationFailure) -> StepResult {
        let request_id = &*self.request.request_id;
        // What a request asked for is not this server's failure.
        if matches!(failure.kind, FailureKind::ConstraintFailed | FailureKind::NothingAllowed) {
            tracing::info!(step, request_id, kind = ?failure.kind, detail = failure.detail, "sequence failed");
        } else {
            tracing::error!(step, request_id, kind = ?failure.kind, detail = failure.detail, "sequence failed");
        }
        self.failure = Some(failure);
        StepResult::Failed
    }

    /// Sends an event that is not the last; false when there is no room for it, which there always should be. Whoever stops reading has said so by a
    /// command, which comes next: how the sequence ends is told there.
    fn send(&self, event: GenerationEvent) -> bool {
        debug_assert!(!is_terminal(&event));
        match self.events.try_send(event) {
            Ok(()) | Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(_)) => {
                tracing::error!(request_id = &*self.request.request_id, "more events than a sequence can have");
                false
            }
        }
    }

    /// Reports progress, if it was asked for and there is enough since the last report.
    fn report_prefill(&mut self, computed: usize) {
        let least = self.request.prompt.len().div_ceil(MOST_PREFILL_REPORTS);
        if self.request.reports_prefill && computed >= self.prefill_reported.saturating_add(least) && computed < self.request.prompt.len() {
            self.prefill_reported = computed;
            let _ = self.send(GenerationEvent::Prefill { computed: computed as u32 });
        }
    }

    fn send_prompt_logprobs(&mut self, scores: Vec<TokenLogprobs>) {
        if self.request.prompt_logprobs.is_none() {
            return;
        }
        let first = if std::mem::replace(&mut self.prompt_logprobs_begun, true) { None } else { Some(None) };
        let entries: Vec<_> = first.into_iter().chain(scores.into_iter().map(Some)).collect();
        if !entries.is_empty() {
            let _ = self.send(GenerationEvent::PromptLogprobs(entries));
        }
    }
}

/// The token that an output holds, if one was due, or why the sequence fails.
fn interpret(
    planned: &PlannedSequence,
    scores: &[TokenLogprobs],
    output: SequenceOutput,
) -> Result<Option<SampledToken>, GenerationFailure> {
    let sampled = output.sampled.transpose().map_err(|error| {
        let kind = match error {
            SamplingError::NonFinite { .. } => FailureKind::NonFiniteLogits,
            SamplingError::NothingAllowed { .. } => FailureKind::NothingAllowed,
        };
        failure_of(kind, error.to_string())
    })?;
    if scores.len() != planned.score_targets.len() {
        // A row that cannot be scored is one with logits that are not finite.
        let detail = format!("{} of {} prompt tokens were scored", scores.len(), planned.score_targets.len());
        return Err(failure_of(FailureKind::NonFiniteLogits, detail));
    }
    if sampled.is_some() != planned.samples {
        let detail = if planned.samples { "the runner sampled no token" } else { "the runner sampled a token too early" };
        return Err(failure_of(FailureKind::StepFailed, detail.to_owned()));
    }
    Ok(sampled)
}

fn failure_of(kind: FailureKind, detail: String) -> GenerationFailure {
    GenerationFailure { kind, detail }
}
