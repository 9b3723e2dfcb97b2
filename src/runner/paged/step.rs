//! One step: rows packed, the decoder run, the logits of the rows that need them taken in slices and turned into tokens.

use crate::generation::TokenLogprobs;
use crate::model::openelm::{Decoder, StepOp, StepProfile, Workspace};
use crate::ops::{Backend, HostValues, KvType, OpError, PackedBatch};
use crate::runner::{ModelRunner, RunnerError, RunnerLimits, SequenceOutput, SequenceSlice, StepBatch};
use crate::sampling::{SampledToken, Sampler, SamplingError, score};
use std::sync::{Mutex, PoisonError};

/// Rows of logits held at once: 32 × 32,000 f32 are 4 MB, where a prompt of 2,048 tokens would take 262 MB.
const LOGIT_ROWS: usize = 32;

/// Runs steps of a decoder on backend `B`.
pub struct PagedRunner<B: Backend> {
    decoder: Decoder<B>,
    workspace: Workspace<B>,
    pages: Vec<B::Pages>,
    limits: RunnerLimits,
    batch: PackedBatch,
    logits: HostValues,
    /// One per row of a slice, so that rows are sampled in parallel.
    samplers: Vec<Mutex<Sampler>>,
    /// Fill new blocks with NaN before they are used (tests).
    poison: bool,
}

/// A sequence's output in the making; its rows come in any order.
struct Outcome {
    sampled: Option<Result<SampledToken, SamplingError>>,
    scores: Vec<Option<TokenLogprobs>>,
}

/// What a row's logits are for.
#[derive(Clone, Copy)]
enum Use {
    /// Choose the next token of the sequence.
    Sample,
    /// Score target `0` of the sequence.
    Score(usize),
}

/// A row whose logits are needed.
#[derive(Clone, Copy)]
struct Wanted {
    row: u32,
    sequence: usize,
    what: Use,
}

impl<B: Backend> PagedRunner<B> {
    /// Allocates workspace and pages for `limits`.
    ///
    /// # Errors
    /// [`OpError::Allocation`].
    pub fn new(decoder: Decoder<B>, limits: RunnerLimits, kv_dtype: KvType) -> Result<Self, OpError> {
        let rows = LOGIT_ROWS.min(limits.max_num_batched_tokens);
        decoder.backend().keep_memory();
        Ok(Self {
            workspace: decoder.workspace(limits.max_num_batched_tokens)?,
            pages: decoder.pages(limits.num_blocks, limits.block_size, kv_dtype)?,
            batch: PackedBatch::new(limits.block_size),
            logits: decoder.backend().host_values(rows * limits.vocab_size)?,
            samplers: (0..rows).map(|_| Mutex::new(Sampler::new(limits.vocab_size))).collect(),
            poison: false,
            decoder,
            limits,
        })
    }

    /// The model.
    #[cfg(test)]
    pub(super) fn decoder(&self) -> &Decoder<B> {
        &self.decoder
    }

    /// Fills every block with NaN before its first use, so that reading what nobody wrote shows in the logits.
    pub fn poison_new_blocks(&mut self) {
        self.poison = true;
    }

    fn pack(&mut self, batch: &StepBatch<'_>) -> Result<(), RunnerError> {
        self.batch.clear();
        for (index, slice) in batch.sequences.iter().enumerate() {
            check_slice(slice, &self.limits).map_err(|detail| RunnerError::Step(format!("sequence {index} of the step: {detail}")))?;
            self.batch.push(slice.tokens, slice.start, slice.block_table.iter().map(|b| b.0));
        }
        let (rows, limit) = (self.batch.rows(), self.limits.max_num_batched_tokens);
        if rows > limit {
            return Err(RunnerError::Step(format!("{rows} rows, the limit is {limit}")));
        }
        // Rows are written by several threads at once: two for one slot would be a race.
        let mut slots: Vec<_> = (0..rows).map(|row| self.batch.slot_of_row(row)).collect();
        slots.sort_unstable();
        match slots.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(RunnerError::Step(format!("two rows for slot {} of block {}", pair[0].1, pair[0].0))),
            None => Ok(()),
        }
    }

    /// Rows whose logits are needed, in order.
    fn wanted(&self, batch: &StepBatch<'_>) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (sequence, (slice, packed)) in batch.sequences.iter().zip(self.batch.sequences()).enumerate() {
            let row = |i: usize| (packed.first_row + i) as u32;
            let targets = slice.score.map_or(0, |s| s.targets.len());
            wanted.extend((0..targets).map(|i| Wanted { row: row(i), sequence, what: Use::Score(i) }));
            if slice.sample.is_some() {
                wanted.push(Wanted { row: row(packed.rows - 1), sequence, what: Use::Sample });
            }
        }
        wanted
    }

    /// Computes the logits of up to `LOGIT_ROWS` rows and what they are for.
    fn slice_of_logits(&mut self, batch: &StepBatch<'_>, wanted: &[Wanted], outputs: &[Mutex<Outcome>]) {
        let vocab = self.limits.vocab_size;
        let rows: Vec<u32> = wanted.iter().map(|w| w.row).collect();
        let logits = &mut self.logits[..rows.len() * vocab];
        self.decoder.logits(&mut self.workspace, &rows, logits);
        let lines: Vec<Mutex<&mut [f32]>> = logits.chunks_exact_mut(vocab).map(Mutex::new).collect();
        let samplers = &self.samplers;
        self.decoder.backend().for_each(wanted.len(), &|i| {
            let Wanted { sequence, what, .. } = wanted[i];
            let (slice, mut line) = (&batch.sequences[sequence], lines[i].lock().unwrap_or_else(PoisonError::into_inner));
            match (what, slice.sample, slice.score) {
                (Use::Sample, Some(spec), _) => {
                    let sampled = samplers[i].lock().unwrap_or_else(PoisonError::into_inner).sample(&mut line, &spec);
                    outputs[sequence].lock().unwrap_or_else(PoisonError::into_inner).sampled = Some(sampled);
                }
                (Use::Score(target), _, Some(spec)) => {
                    let scored = score(&line, spec.targets[target], spec.top_n);
                    let mut output = outputs[sequence].lock().unwrap_or_else(PoisonError::into_inner);
                    output.scores[target] = scored;
                }
                _ => {}
            }
        });
        self.workspace.profile().lap(StepOp::Sampling);
    }
}

fn check_slice(slice: &SequenceSlice<'_>, limits: &RunnerLimits) -> Result<(), String> {
    let end = slice.start + slice.tokens.len();
    if slice.tokens.is_empty() {
        return Err("no tokens".to_string());
    }
    if let Some(token) = slice.tokens.iter().find(|&&t| t as usize >= limits.vocab_size) {
        return Err(format!("token {token} is outside the vocabulary of {}", limits.vocab_size));
    }
    if slice.block_table.len() * limits.block_size < end {
        return Err(format!("{} blocks do not cover {end} positions", slice.block_table.len()));
    }
    if let Some(block) = slice.block_table.iter().find(|b| b.0 as usize >= limits.num_blocks) {
        return Err(format!("block {} of {}", block.0, limits.num_blocks));
    }
    match slice.score {
        Some(score) if score.targets.len() > slice.tokens.len() => Err(format!("{} targets to score", score.targets.len())),
        _ => Ok(()),
    }
}

impl<B: Backend> ModelRunner for PagedRunner<B> {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn step_profile(&mut self) -> Option<&mut StepProfile> {
        Some(self.workspace.profile())
    }

    fn step(&mut self, batch: &StepBatch<'_>) -> Result<Vec<SequenceOutput>, RunnerError> {
        if self.poison {
            let blocks: Vec<u32> = batch.new_blocks.iter().map(|b| b.0).collect();
            self.pages.iter_mut().for_each(|pages| self.decoder.backend().poison(pages, &blocks));
        }
        self.pack(batch)?;
        if self.batch.rows() == 0 {
            return Ok(Vec::new());
        }
        self.decoder.forward(&self.batch, &mut self.pages, &mut self.workspace);
        let outputs: Vec<Mutex<Outcome>> = batch.sequences.iter().map(Outcome::empty).collect();
        for wanted in self.wanted(batch).chunks(LOGIT_ROWS.min(self.samplers.len())) {
            self.slice_of_logits(batch, wanted, &outputs);
        }
        // A device that failed does not come back.
        self.decoder.backend().end_step().map_err(|error| RunnerError::Fatal(error.to_string()))?;
        Ok(outputs.into_iter().map(|o| o.into_inner().unwrap_or_else(PoisonError::into_inner).finish()).collect())
    }
}

impl Outcome {
    fn empty(slice: &SequenceSlice<'_>) -> Mutex<Self> {
        Mutex::new(Self { sampled: None, scores: vec![None; slice.score.map_or(0, |s| s.targets.len())] })
    }

    /// Scores up to the first row that is not finite.
    fn finish(self) -> SequenceOutput {
        SequenceOutput { sampled: self.sampled, scores: self.scores.into_iter().map_while(|score| score).collect() }
    }
}
