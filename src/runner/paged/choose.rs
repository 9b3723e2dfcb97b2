//! Logits turned into tokens and scores: on the host, some rows at a time, or where the backend has them. There only the last group of
//! tasks of a step is left to be waited for, so that the next step may be sent before.

use crate::generation::{SamplingParams, TokenLogprobs};
use crate::model::openelm::{Decoder, StepOp, Workspace};
use crate::ops::{AWAITED_TOKEN, Alternatives, Backend, OpError, Outcome, RowAnswer, RowChoice, RowEdit, RowTasks, TaskLimits, TaskToken};
use crate::runner::{RunnerLimits, SequenceOutput, SequenceSlice, StepBatch};
use crate::sampling::{Candidate, Edit, Edits, Plan, RowFacts, SampledToken, Sampler, SamplingError, score};
use std::sync::{Mutex, PoisonError};

/// Rows of logits held on the host at once: 32 × 32,000 f32 are 4 MB, where a prompt of 2,048 tokens would take 262 MB.
const LOGIT_ROWS: usize = 32;

/// A sequence's output in the making; its rows come in any order.
pub(super) struct Results {
    sampled: Option<Result<SampledToken, SamplingError>>,
    scores: Vec<Option<TokenLogprobs>>,
}

impl Results {
    pub(super) fn empty(slice: &SequenceSlice<'_>) -> Mutex<Self> {
        Mutex::new(Self { sampled: None, scores: vec![None; slice.score.map_or(0, |s| s.targets.len())] })
    }

    /// Takes the answer to one of its tasks.
    fn take(&mut self, what: Use, answer: RowAnswer<'_>) {
        match what {
            Use::Score(target) => self.scores[target] = logprobs(answer),
            Use::Sample { position, has_logprobs } => self.sampled = Some(sampled(answer, position, has_logprobs)),
        }
    }

    /// Scores up to the first row that is not finite.
    pub(super) fn finish(self) -> SequenceOutput {
        SequenceOutput { sampled: self.sampled, scores: self.scores.into_iter().map_while(|score| score).collect() }
    }
}

/// What a row's logits are for.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// Choose the next token of the sequence.
    Sample {
        /// Its position.
        position: u32,
        /// Whether its log-probability is told.
        has_logprobs: bool,
    },
    /// Score target `0` of the sequence.
    Score(usize),
}

/// A row whose logits are needed.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) row: u32,
    pub(super) sequence: usize,
    pub(super) what: Use,
}

/// Turns logits into what is wanted of them.
pub(super) enum Chooser {
    /// On the host's threads.
    Host(HostChooser),
    /// On the backend's device.
    Device(DeviceChooser),
}

impl Chooser {
    /// Where `backend` leaves it.
    pub(super) fn new<B: Backend>(backend: &B, limits: RunnerLimits) -> Self {
        let vocab_size = limits.vocab_size;
        if let Some(limits) = backend.task_limits(limits.max_num_batched_tokens, vocab_size) {
            return Self::Device(DeviceChooser::new(limits));
        }
        let rows = LOGIT_ROWS.min(limits.max_num_batched_tokens);
        Self::Host(HostChooser {
            logits: vec![0.0; rows * vocab_size],
            samplers: (0..rows).map(|_| Mutex::new(Sampler::new(vocab_size))).collect(),
            vocab_size,
        })
    }

    /// Does what is wanted of rows of the last forward pass; `None` when all of it is in `results`.
    pub(super) fn choose<B: Backend>(
        &mut self,
        pass: &mut Pass<'_, B>,
        wanted: Vec<Wanted>,
        results: &[Mutex<Results>],
    ) -> Result<Option<Awaited<B>>, OpError> {
        match self {
            Self::Host(host) => {
                let at_once = host.samplers.len();
                wanted.chunks(at_once).for_each(|wanted| host.choose(pass, wanted, results));
                Ok(None)
            }
            Self::Device(device) => device.choose(pass, wanted, results).map(Some),
        }
    }

    /// The token of sequence `index` of the last step as a batch takes it; `None` if it cannot be awaited.
    pub(super) fn token_of(&self, index: usize) -> Option<u32> {
        match self {
            Self::Host(_) => None,
            Self::Device(device) => device.tokens.get(index).copied().flatten(),
        }
    }

    /// Waits for what is left of a step.
    pub(super) fn receive<B: Backend>(&mut self, backend: &B, awaited: Awaited<B>, results: &[Mutex<Results>]) -> Result<(), OpError> {
        let Awaited { returning, mut tasks, wanted } = awaited;
        let received = backend.receive(returning, &mut tasks);
        if received.is_ok() {
            take_answers(&tasks, &wanted, results);
        }
        if let Self::Device(device) = self {
            device.idle.push(tasks);
        }
        received
    }
}

/// What a step is waited for with, on a device.
pub(super) struct Awaited<B: Backend> {
    returning: B::Returning,
    /// The last group of tasks.
    tasks: RowTasks,
    /// What it is about.
    wanted: Vec<Wanted>,
}

fn take_answers(tasks: &RowTasks, wanted: &[Wanted], results: &[Mutex<Results>]) {
    for (index, wanted) in wanted.iter().enumerate() {
        locked(&results[wanted.sequence]).take(wanted.what, tasks.answer(index));
    }
}

/// A forward pass that was just made.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) decoder: &'a Decoder<B>,
    pub(super) workspace: &'a mut Workspace<B>,
    pub(super) batch: &'a StepBatch<'a>,
}

/// See [`Chooser::Host`].
pub(super) struct HostChooser {
    logits: Vec<f32>,
    /// One per row, so that rows are sampled in parallel.
    samplers: Vec<Mutex<Sampler>>,
    vocab_size: usize,
}

impl HostChooser {
    /// Of as many rows as there are samplers, at most.
    fn choose<B: Backend>(&mut self, pass: &mut Pass<'_, B>, wanted: &[Wanted], results: &[Mutex<Results>]) {
        let rows: Vec<u32> = wanted.iter().map(|w| w.row).collect();
        let logits = &mut self.logits[..rows.len() * self.vocab_size];
        pass.decoder.logits(pass.workspace, &rows, logits);
        let lines: Vec<Mutex<&mut [f32]>> = logits.chunks_exact_mut(self.vocab_size).map(Mutex::new).collect();
        let samplers = &self.samplers;
        pass.decoder.backend().for_each(wanted.len(), &|i| {
            let Wanted { sequence, what, .. } = wanted[i];
            let (slice, mut line) = (&pass.batch.sequences[sequence], locked(&lines[i]));
            match (what, slice.sample, slice.score) {
                (Use::Sample { .. }, Some(spec), _) => {
                    let sampled = locked(&samplers[i]).sample(&mut line, &spec);
                    locked(&results[sequence]).sampled = Some(sampled);
                }
                (Use::Score(target), _, Some(spec)) => {
                    let scored = score(&line, spec.targets[target], spec.top_n);
                    locked(&results[sequence]).scores[target] = scored;
                }
                _ => {}
            }
        });
        pass.workspace.profile().lap(StepOp::Sampling);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`Chooser::Device`].
pub(super) struct DeviceChooser {
    limits: TaskLimits,
    /// Room for tasks that no step uses.
    idle: Vec<RowTasks>,
    /// The token of each sequence of the last step, or where it will be, as a batch takes it.
    tokens: Vec<Option<u32>>,
    edits: Edits,
}

impl DeviceChooser {
    pub(super) fn new(limits: TaskLimits) -> Self {
        Self { limits, idle: Vec::new(), tokens: Vec::new(), edits: Edits::new(limits.vocabulary) }
    }

    /// In one group of tasks, unless their masks and edits are very many: then the others are waited for.
    fn choose<B: Backend>(
        &mut self,
        pass: &mut Pass<'_, B>,
        mut wanted: Vec<Wanted>,
        results: &[Mutex<Results>],
    ) -> Result<Awaited<B>, OpError> {
        self.tokens.clear();
        self.tokens.resize(results.len(), None);
        let backend = pass.decoder.backend();
        loop {
            let mut tasks = self.idle.pop().unwrap_or_else(|| RowTasks::new(self.limits));
            tasks.clear();
            let fits = |wanted: &&Wanted| self.push(&mut tasks, wanted, &pass.batch.sequences[wanted.sequence]);
            let count = wanted.iter().take_while(fits).count();
            if !tasks.is_empty() {
                pass.decoder.answer(pass.workspace, &mut tasks);
            }
            let returning = backend.send_back(&tasks);
            let rest = wanted.split_off(count);
            if rest.is_empty() {
                self.await_tokens(&wanted);
                return Ok(Awaited { returning, tasks, wanted });
            }
            assert!(count > 0, "a task alone always fits");
            backend.receive(returning, &mut tasks)?;
            take_answers(&tasks, &wanted, results);
            self.know_tokens(&wanted, results);
            self.idle.push(tasks);
            wanted = rest;
        }
    }

    /// Notes where the tokens of the last group will be.
    fn await_tokens(&mut self, wanted: &[Wanted]) {
        for (task, wanted) in wanted.iter().enumerate().filter(|(_, wanted)| matches!(wanted.what, Use::Sample { .. })) {
            self.tokens[wanted.sequence] = Some(AWAITED_TOKEN | task as u32);
        }
    }

    /// Notes the tokens of a group that was waited for. Where there is none, what follows is computed for nothing.
    fn know_tokens(&mut self, wanted: &[Wanted], results: &[Mutex<Results>]) {
        for wanted in wanted.iter().filter(|wanted| matches!(wanted.what, Use::Sample { .. })) {
            let sampled = locked(&results[wanted.sequence]).sampled.clone();
            self.tokens[wanted.sequence] = Some(sampled.and_then(Result::ok).map_or(0, |sampled| sampled.token));
        }
    }

    /// Adds a task for a row; false if it has to wait for the next group.
    pub(super) fn push(&mut self, tasks: &mut RowTasks, wanted: &Wanted, slice: &SequenceSlice<'_>) -> bool {
        let vocabulary = self.limits.vocabulary;
        let best = |count: u8| Alternatives::Best(usize::from(count).min(vocabulary));
        match (wanted.what, slice.sample, slice.score) {
            (Use::Score(target), _, Some(spec)) => {
                tasks.push(wanted.row, TaskToken::Target(spec.targets[target]), [].into_iter(), best(spec.top_n))
            }
            (Use::Sample { .. }, Some(spec), _) => {
                let alternatives = match (spec.logprobs, spec.logprob_tokens) {
                    (None, _) => Alternatives::None,
                    (Some(count), []) => best(count),
                    (Some(_), listed) => Alternatives::Listed(listed),
                };
                let choice = choice(&Plan::new(&spec), spec.params);
                let masks = [spec.params.allowed_tokens.as_deref(), spec.mask].map(|mask| mask.map(|mask| mask.words()));
                let edits = self.edits.collect(&spec, vocabulary).iter().map(row_edit);
                tasks.push(wanted.row, TaskToken::Chosen(&choice, masks), edits, alternatives)
            }
            _ => unreachable!("rows are wanted for a sample or a score that the slice has"),
        }
    }
}

fn choice(plan: &Plan, params: &SamplingParams) -> RowChoice {
    RowChoice {
        is_greedy: plan.is_greedy,
        scale: plan.scale,
        min_p: plan.min_p,
        top_k: plan.top_k,
        nucleus: plan.nucleus,
        random: plan.random,
        penalties: [params.repetition_penalty, params.frequency_penalty, params.presence_penalty],
    }
}

fn row_edit(edit: &Edit) -> RowEdit {
    let Edit { token, bias, count, is_penalized, is_masked } = *edit;
    RowEdit { token, bias, count, is_penalized, is_masked }
}

pub(super) fn sampled(answer: RowAnswer<'_>, position: u32, has_logprobs: bool) -> Result<SampledToken, SamplingError> {
    match answer.outcome() {
        Outcome::Token(token) => Ok(SampledToken { token, logprobs: if has_logprobs { logprobs(answer) } else { None } }),
        Outcome::NonFinite(token) => Err(SamplingError::NonFinite { token, position }),
        Outcome::NothingAllowed => Err(SamplingError::NothingAllowed { position }),
    }
}

/// `None` when the row is not finite.
pub(super) fn logprobs(answer: RowAnswer<'_>) -> Option<TokenLogprobs> {
    let Outcome::Token(token) = answer.outcome() else { return None };
    let target = Candidate { token, logit: answer.logit() };
    let alternatives: Vec<_> = answer.alternatives().map(|(token, logit)| Candidate { token, logit }).collect();
    Some(RowFacts { target, rank: answer.rank(), max: answer.max(), mass: answer.mass() }.logprobs(&alternatives))
}
