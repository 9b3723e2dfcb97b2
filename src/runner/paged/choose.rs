//! Logits turned into tokens and scores: on the host, some rows at a time, or where the backend has them.

use crate::generation::{SamplingParams, TokenLogprobs};
use crate::model::openelm::{Decoder, StepOp, Workspace};
use crate::ops::{Alternatives, Backend, HostValues, OpError, Outcome, RowAnswer, RowChoice, RowEdit, RowTasks, TaskToken};
use crate::runner::{RunnerLimits, SequenceOutput, SequenceSlice, StepBatch};
use crate::sampling::{Candidate, Edit, Edits, Plan, RowFacts, SampleSpec, SampledToken, Sampler, SamplingError, score};
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

    /// Scores up to the first row that is not finite.
    pub(super) fn finish(self) -> SequenceOutput {
        SequenceOutput { sampled: self.sampled, scores: self.scores.into_iter().map_while(|score| score).collect() }
    }
}

/// What a row's logits are for.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// Choose the next token of the sequence.
    Sample,
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
    ///
    /// # Errors
    /// [`OpError::Allocation`].
    pub(super) fn new<B: Backend>(backend: &B, limits: RunnerLimits) -> Result<Self, OpError> {
        let vocab_size = limits.vocab_size;
        if let Some(tasks) = backend.row_tasks(limits.max_num_batched_tokens, vocab_size)? {
            return Ok(Self::Device(DeviceChooser::new(tasks, vocab_size)));
        }
        let rows = LOGIT_ROWS.min(limits.max_num_batched_tokens);
        Ok(Self::Host(HostChooser {
            logits: backend.host_values(rows * vocab_size)?,
            samplers: (0..rows).map(|_| Mutex::new(Sampler::new(vocab_size))).collect(),
            vocab_size,
        }))
    }

    /// Does what is wanted of rows of the last forward pass.
    pub(super) fn choose<B: Backend>(&mut self, pass: &mut Pass<'_, B>, wanted: &[Wanted], results: &[Mutex<Results>]) {
        match self {
            Self::Host(host) => {
                let at_once = host.samplers.len();
                wanted.chunks(at_once).for_each(|wanted| host.choose(pass, wanted, results));
            }
            Self::Device(device) => device.choose(pass, wanted, results),
        }
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
    logits: HostValues,
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
                (Use::Sample, Some(spec), _) => {
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
    pub(super) tasks: RowTasks,
    edits: Edits,
    vocab_size: usize,
}

impl DeviceChooser {
    pub(super) fn new(tasks: RowTasks, vocab_size: usize) -> Self {
        Self { tasks, edits: Edits::new(vocab_size), vocab_size }
    }

    /// In one group of tasks, unless their masks and edits are very many.
    fn choose<B: Backend>(&mut self, pass: &mut Pass<'_, B>, wanted: &[Wanted], results: &[Mutex<Results>]) {
        let mut rest = wanted;
        while !rest.is_empty() {
            self.tasks.clear();
            let count = rest.iter().take_while(|wanted| self.push(wanted, &pass.batch.sequences[wanted.sequence])).count();
            assert!(count > 0, "a task alone always fits");
            pass.decoder.answer(pass.workspace, &mut self.tasks);
            for (index, &Wanted { sequence, what, .. }) in rest[..count].iter().enumerate() {
                let answer = self.tasks.answer(index);
                let mut results = locked(&results[sequence]);
                match (what, pass.batch.sequences[sequence].sample) {
                    (Use::Score(target), _) => results.scores[target] = logprobs(answer),
                    (Use::Sample, Some(spec)) => results.sampled = Some(sampled(answer, &spec)),
                    (Use::Sample, None) => {}
                }
            }
            rest = &rest[count..];
        }
    }

    /// Adds a task for a row; false if it has to wait for the next group.
    pub(super) fn push(&mut self, wanted: &Wanted, slice: &SequenceSlice<'_>) -> bool {
        let best = |count: u8| Alternatives::Best(usize::from(count).min(self.vocab_size));
        match (wanted.what, slice.sample, slice.score) {
            (Use::Score(target), _, Some(spec)) => {
                self.tasks.push(wanted.row, TaskToken::Target(spec.targets[target]), [].into_iter(), best(spec.top_n))
            }
            (Use::Sample, Some(spec), _) => {
                let alternatives = match (spec.logprobs, spec.logprob_tokens) {
                    (None, _) => Alternatives::None,
                    (Some(count), []) => best(count),
                    (Some(_), listed) => Alternatives::Listed(listed),
                };
                let choice = choice(&Plan::new(&spec), spec.params);
                let masks = [spec.params.allowed_tokens.as_deref(), spec.mask].map(|mask| mask.map(|mask| mask.words()));
                let edits = self.edits.collect(&spec, self.vocab_size).iter().map(row_edit);
                self.tasks.push(wanted.row, TaskToken::Chosen(&choice, masks), edits, alternatives)
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

pub(super) fn sampled(answer: RowAnswer<'_>, spec: &SampleSpec<'_>) -> Result<SampledToken, SamplingError> {
    match answer.outcome() {
        Outcome::Token(token) => Ok(SampledToken { token, logprobs: spec.logprobs.and_then(|_| logprobs(answer)) }),
        Outcome::NonFinite(token) => Err(SamplingError::NonFinite { token, position: spec.position }),
        Outcome::NothingAllowed => Err(SamplingError::NothingAllowed { position: spec.position }),
    }
}

/// `None` when the row is not finite.
pub(super) fn logprobs(answer: RowAnswer<'_>) -> Option<TokenLogprobs> {
    let Outcome::Token(token) = answer.outcome() else { return None };
    let target = Candidate { token, logit: answer.logit() };
    let alternatives: Vec<_> = answer.alternatives().map(|(token, logit)| Candidate { token, logit }).collect();
    Some(RowFacts { target, rank: answer.rank(), max: answer.max(), mass: answer.mass() }.logprobs(&alternatives))
}
