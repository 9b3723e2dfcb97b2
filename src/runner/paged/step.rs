//! One step: rows packed, the decoder run, the logits of the rows that need them turned into tokens.

use super::choose::{Awaited, Chooser, Pass, Results, Use, Wanted};
use crate::model::openelm::{Decoder, StepProfile, Workspace};
use crate::ops::{Backend, KvType, OpError, PackedBatch};
use crate::runner::{ModelRunner, RunnerError, RunnerLimits, SequenceOutput, SequenceSlice, StepBatch};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Runs steps of a decoder on backend `B`.
pub struct PagedRunner<B: Backend> {
    decoder: Decoder<B>,
    workspace: Workspace<B>,
    pages: Vec<B::Pages>,
    limits: RunnerLimits,
    batch: PackedBatch,
    chooser: Chooser,
    /// Steps that were submitted and not collected.
    submitted: VecDeque<Submitted<B>>,
    /// Fill new blocks with NaN before they are used (tests).
    poison: bool,
}

/// A step on its way.
struct Submitted<B: Backend> {
    results: Vec<Mutex<Results>>,
    awaited: Option<Awaited<B>>,
}

impl<B: Backend> PagedRunner<B> {
    /// Allocates workspace and pages for `limits`.
    ///
    /// # Errors
    /// [`OpError::Allocation`].
    pub fn new(decoder: Decoder<B>, limits: RunnerLimits, kv_dtype: KvType) -> Result<Self, OpError> {
        Ok(Self {
            workspace: decoder.workspace(limits.max_num_batched_tokens)?,
            pages: decoder.pages(limits.num_blocks, limits.block_size, kv_dtype)?,
            batch: PackedBatch::new(limits.block_size),
            chooser: Chooser::new(decoder.backend(), limits),
            submitted: VecDeque::new(),
            poison: false,
            decoder,
            limits,
        })
    }

    /// Lets the backend rely on workspace and pages: they stay what they are.
    pub(super) fn keep_memory(&mut self) {
        self.decoder.backend().keep_memory();
    }

    /// Takes pages for so many blocks in the place of those that are there.
    ///
    /// # Errors
    /// [`OpError::Allocation`].
    pub(super) fn replace_pages(&mut self, num_blocks: usize, kv_dtype: KvType) -> Result<(), OpError> {
        self.pages.clear();
        self.pages = self.decoder.pages(num_blocks, self.limits.block_size, kv_dtype)?;
        self.limits.num_blocks = num_blocks;
        Ok(())
    }

    /// The model.
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
            let awaited = slice.follows.map(|before| self.token_of(index, before)).transpose()?;
            let tokens = awaited.as_ref().map_or(slice.tokens, std::slice::from_ref);
            self.batch.push(tokens, slice.start, slice.block_table.iter().map(|b| b.0));
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

    /// The token that a sequence follows.
    fn token_of(&self, index: usize, before: usize) -> Result<u32, RunnerError> {
        let missing =
            || RunnerError::Step(format!("sequence {index} of the step follows number {before} of a step that gives it no token"));
        self.chooser.token_of(before).ok_or_else(missing)
    }

    /// Rows whose logits are needed, in order.
    fn wanted(&self, batch: &StepBatch<'_>) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (sequence, (slice, packed)) in batch.sequences.iter().zip(self.batch.sequences()).enumerate() {
            let row = |i: usize| (packed.first_row + i) as u32;
            let targets = slice.score.map_or(0, |s| s.targets.len());
            wanted.extend((0..targets).map(|i| Wanted { row: row(i), sequence, what: Use::Score(i) }));
            if let Some(spec) = &slice.sample {
                let what = Use::Sample { position: spec.position, has_logprobs: spec.logprobs.is_some() };
                wanted.push(Wanted { row: row(packed.rows - 1), sequence, what });
            }
        }
        wanted
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
    if slice.follows.is_some() && slice.tokens.len() != 1 {
        return Err(format!("{} tokens in the place of one that is awaited", slice.tokens.len()));
    }
    if slice.follows.is_some() && slice.sample.is_some_and(|spec| spec.params.reads_output()) {
        return Err("penalties or bad words need the token that is awaited".to_string());
    }
    if slice.block_table.len() * limits.block_size < end {
        return Err(format!("{} blocks do not cover {end} positions", slice.block_table.len()));
    }
    if let Some(block) = slice.block_table.iter().find(|b| b.0 as usize >= limits.num_blocks) {
        return Err(format!("block {} of {}", block.0, limits.num_blocks));
    }
    match slice.score {
        Some(score) if score.targets.len() > slice.tokens.len() => Err(format!("{} targets to score", score.targets.len())),
        Some(score) if score.targets.iter().any(|&t| t as usize >= limits.vocab_size) => Err("a target outside the vocabulary".to_string()),
        _ => Ok(()),
    }
}

impl<B: Backend> ModelRunner for PagedRunner<B> {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn step_profile(&mut self) -> Option<&mut StepProfile> {
        self.decoder.backend().is_done_at_once().then(|| self.workspace.profile())
    }

    fn computes_elsewhere(&self) -> bool {
        !self.decoder.backend().is_done_at_once()
    }

    fn submit(&mut self, batch: &StepBatch<'_>) -> Result<(), RunnerError> {
        if self.poison {
            let blocks: Vec<u32> = batch.new_blocks.iter().map(|b| b.0).collect();
            self.pages.iter_mut().for_each(|pages| self.decoder.backend().poison(pages, &blocks));
        }
        self.pack(batch)?;
        if self.batch.rows() == 0 {
            self.submitted.push_back(Submitted { results: Vec::new(), awaited: None });
            return Ok(());
        }
        self.decoder.forward(&self.batch, &mut self.pages, &mut self.workspace);
        let results: Vec<Mutex<Results>> = batch.sequences.iter().map(Results::empty).collect();
        let wanted = self.wanted(batch);
        let mut pass = Pass { decoder: &self.decoder, workspace: &mut self.workspace, batch };
        let awaited = self.chooser.choose(&mut pass, wanted, &results).map_err(fatal)?;
        self.submitted.push_back(Submitted { results, awaited });
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<SequenceOutput>, RunnerError> {
        let Some(Submitted { results, awaited }) = self.submitted.pop_front() else { return Ok(Vec::new()) };
        if let Some(awaited) = awaited {
            self.chooser.receive(self.decoder.backend(), awaited, &results).map_err(fatal)?;
        }
        Ok(results.into_iter().map(|results| results.into_inner().unwrap_or_else(PoisonError::into_inner).finish()).collect())
    }
}

/// A device that failed does not come back.
fn fatal(error: OpError) -> RunnerError {
    RunnerError::Fatal(error.to_string())
}
