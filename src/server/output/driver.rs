//! Merges the sequences of one request and turns their events into pieces of the answer.

use super::choice::{Choice, Progress};
use crate::api::common::{PromptProgress, PromptTokensDetails, Usage};
use crate::engine::GenerationStream;
use crate::generation::{FailureKind, GenerationEvent, GenerationFailure};
use crate::server::error::{ApiError, Deadline};
use crate::server::parse::OutputPlan;
use crate::server::request_record::RequestRecord;
use crate::tokenizer::Tokenizer;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The sequences of one request and the state of their choices. Dropping it aborts what still runs.
#[derive(Debug)]
pub struct Driver {
    running: FuturesUnordered<NextEvent>,
    choices: Vec<Choice>,
    choices_per_prompt: usize,
    record: Arc<RequestRecord>,
    deadline: Deadline,
}

/// What one event came to.
#[derive(Debug)]
pub struct Output {
    /// Index of the choice.
    pub choice: u32,
    /// What it adds, and whether it is the end.
    pub progress: Progress,
}

impl Driver {
    /// Drives `streams`, one per choice of the plan, in order.
    pub fn new(streams: Vec<GenerationStream>, plan: &OutputPlan, tokenizer: Option<&Arc<Tokenizer>>, record: Arc<RequestRecord>) -> Self {
        let prompts = plan.prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, plan.best_of as usize));
        let choices = prompts.map(|prompt| Choice::new(plan, prompt, tokenizer)).collect();
        let running = (0u32..).zip(streams).map(|(choice, stream)| NextEvent { choice, stream: Some(stream) }).collect();
        Self { running, choices, choices_per_prompt: plan.best_of as usize, record, deadline: Deadline::default() }
    }

    /// Says which deadline the sequences have, for the error when it passes.
    pub fn with_deadline(mut self, deadline: Deadline) -> Self {
        self.deadline = deadline;
        self
    }

    /// The next output; `None` when all choices are finished. Cancel safe.
    ///
    /// # Errors
    /// A sequence failed; the request is over.
    pub async fn next(&mut self) -> Option<Result<Output, ApiError>> {
        loop {
            let (choice, stream, event) = self.running.next().await?;
            let progress = match self.handle(choice, event) {
                Ok(progress) => progress,
                Err(error) => return Some(Err(error)),
            };
            match progress.finish {
                Some(reason) => {
                    stream.finish();
                    self.record.finished(reason);
                }
                None => self.running.push(NextEvent { choice, stream: Some(stream) }),
            }
            if progress != Progress::default() {
                return Some(Ok(Output { choice, progress }));
            }
        }
    }

    fn handle(&mut self, choice: u32, event: Option<GenerationEvent>) -> Result<Progress, ApiError> {
        let state = self.choices.get_mut(choice as usize).expect("there is a choice for each stream");
        match event {
            Some(GenerationEvent::Scheduled { cached_tokens, queue_time }) => {
                self.record.scheduled(queue_time);
                state.scheduled(cached_tokens);
                Ok(Progress::default())
            }
            Some(GenerationEvent::Prefill { computed }) => {
                let usage = state.usage();
                let time_ms = u64::try_from(self.record.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                let (total, cache) = (u64::from(usage.prompt_tokens), u64::from(usage.cached_tokens));
                let prefill = PromptProgress { total, cache, processed: u64::from(computed), time_ms };
                Ok(Progress { prefill: Some(prefill), ..Progress::default() })
            }
            Some(GenerationEvent::PromptLogprobs(scores)) => {
                state.prompt_logprobs(scores);
                Ok(Progress::default())
            }
            Some(GenerationEvent::Token { token, logprobs }) => {
                self.record.token();
                Ok(state.token(token, logprobs))
            }
            Some(GenerationEvent::Finished { reason, usage }) => Ok(state.finished(reason, usage)),
            Some(GenerationEvent::Failed(failure)) => Err(failed(failure, self.deadline)),
            None => Err(ApiError::Internal { detail: "a sequence ended without a last event".to_owned() }),
        }
    }

    /// Tokens of the request: each prompt counted once, every choice's output.
    pub fn usage(&self) -> Usage {
        let prompts = || self.choices.iter().step_by(self.choices_per_prompt.max(1)).map(Choice::usage);
        let prompt_tokens = prompts().map(|usage| u64::from(usage.prompt_tokens)).sum();
        let cached_tokens = prompts().map(|usage| u64::from(usage.cached_tokens)).sum();
        let completion_tokens = self.choices.iter().map(|choice| u64::from(choice.usage().completion_tokens)).sum();
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }

    /// Notes the error that ended the answer inside a stream, where no status can tell of it.
    pub fn failed(&self, error: &ApiError) {
        self.record.failed(error);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.record.set_usage(self.usage());
    }
}

/// Waits for one event of one stream and hands the stream back with it.
#[derive(Debug)]
struct NextEvent {
    choice: u32,
    stream: Option<GenerationStream>,
}

impl Future for NextEvent {
    type Output = (u32, GenerationStream, Option<GenerationEvent>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = self.stream.as_mut().expect("not polled after it was ready");
        let event = std::task::ready!(stream.poll_recv(context));
        let stream = self.stream.take().expect("it was there a line ago");
        Poll::Ready((self.choice, stream, event))
    }
}

/// Why a sequence failed, as an error of the request.
fn failed(failure: GenerationFailure, deadline: Deadline) -> ApiError {
    let GenerationFailure { kind, detail } = failure;
    match kind {
        FailureKind::NonFiniteLogits => ApiError::NonFiniteLogits { detail },
        FailureKind::NothingAllowed => ApiError::NothingAllowed,
        FailureKind::ConstraintFailed => ApiError::FormTooComplex { detail },
        FailureKind::StepFailed => ApiError::Internal { detail },
        FailureKind::DeadlineExceeded => ApiError::DeadlineExceeded { deadline },
        FailureKind::ShuttingDown => ApiError::Draining,
        FailureKind::EngineDead => ApiError::EngineDead { detail },
    }
}
