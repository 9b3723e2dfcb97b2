//! A runner without weights, for tests of the engine and the server.
//!
//! Its "KV cache" is a shadow: every slot remembers the token and position written to it. A step reads all earlier positions of a sequence back through
//! its block table, panics where one is missing or belongs elsewhere, and computes logits from the tokens it found. So an output is right only if
//! the block accounting is. Handed-out blocks are wiped first.

use super::{ModelRunner, RunnerError, RunnerLimits, SequenceOutput, SequenceSlice, StepBatch, StepOp, StepProfile};
use crate::generation::TokenId;
use crate::kv_cache::BlockId;
use crate::sampling::{Sampler, score};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Logit by which a scripted token exceeds all others.
const SCRIPTED_LOGIT: f32 = 60.0;

/// Something that goes wrong in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`RunnerError::Step`].
    Step,
    /// [`RunnerError::Fatal`].
    Fatal,
    /// A panic.
    Panic,
    /// One output too few.
    MissingOutput,
}

/// What tests change while the runner is in the engine.
#[derive(Debug, Default)]
struct State {
    /// For the next steps, in order; `None` = none.
    faults: VecDeque<Option<Fault>>,
    /// By the number of the step: what goes wrong when it is submitted.
    refusals: BTreeMap<u64, Fault>,
    hung: bool,
    /// Steps begun.
    steps: u64,
    /// (start, tokens) of each sequence, of each step.
    log: Vec<Vec<(usize, usize)>>,
    /// Rows that followed a token which was awaited.
    awaited: u64,
}

/// Controls a [`FakeRunner`] from outside.
#[derive(Clone, Debug, Default)]
pub struct FakeControl(Arc<(Mutex<State>, Condvar)>);

impl FakeControl {
    /// The next step without a fault gets this one.
    pub fn fail_next(&self, fault: Fault) {
        self.state().faults.push_back(Some(fault));
    }

    /// A step that succeeds before the next fault.
    pub fn pass_next(&self) {
        self.state().faults.push_back(None);
    }

    /// The step of this number, from 1 on, is not taken.
    pub fn refuse(&self, step: u64, fault: Fault) {
        self.state().refusals.insert(step, fault);
    }

    /// The next step does not return before [`Self::release`].
    pub fn hang(&self) {
        self.state().hung = true;
    }

    /// Ends [`Self::hang`].
    pub fn release(&self) {
        self.state().hung = false;
        self.0.1.notify_all();
    }

    /// Steps begun.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// (start, tokens) of each sequence of each step.
    pub fn log(&self) -> Vec<Vec<(usize, usize)>> {
        self.state().log.clone()
    }

    /// Rows that were submitted before their token was known.
    pub fn awaited(&self) -> u64 {
        self.state().awaited
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What goes wrong at once, and with the step.
    fn begin_step(&self, batch: &StepBatch<'_>) -> [Option<Fault>; 2] {
        let mut state = self.state();
        state.steps += 1;
        state.awaited += batch.sequences.iter().filter(|slice| slice.follows.is_some()).count() as u64;
        state.log.push(batch.sequences.iter().map(|slice| (slice.start, slice.tokens.len())).collect());
        while state.hung {
            state = self.0.1.wait(state).unwrap();
        }
        let step = state.steps;
        let refused = state.refusals.remove(&step);
        [refused, if refused.is_none() { state.faults.pop_front().flatten() } else { None }]
    }
}

/// See the module. Built with `new` and the `with_…` methods.
#[derive(Debug)]
pub struct FakeRunner {
    limits: RunnerLimits,
    /// By block, then by offset: (position, token).
    slots: Vec<Vec<Option<(usize, TokenId)>>>,
    /// Prompt to continuation.
    scripts: BTreeMap<Vec<TokenId>, Vec<TokenId>>,
    step_latency: Duration,
    token_latency: Duration,
    /// Sequences that hold this token get NaN rows.
    poison_token: Option<TokenId>,
    sampler: Sampler,
    /// Steps are computed elsewhere: they are sent ahead, and what goes wrong shows when they are collected.
    is_elsewhere: bool,
    /// Of the step submitted last.
    tokens: Vec<Option<TokenId>>,
    submitted: VecDeque<(Vec<SequenceOutput>, Option<Fault>)>,
    /// All time of a step counts as attention.
    profile: StepProfile,
    control: FakeControl,
}

impl FakeRunner {
    /// A runner of these limits and a handle to control it.
    pub fn new(limits: RunnerLimits) -> (Self, FakeControl) {
        let control = FakeControl::default();
        let runner = Self {
            limits,
            slots: vec![vec![None; limits.block_size]; limits.num_blocks],
            scripts: BTreeMap::new(),
            step_latency: Duration::ZERO,
            token_latency: Duration::ZERO,
            poison_token: None,
            sampler: Sampler::new(limits.vocab_size),
            is_elsewhere: false,
            tokens: Vec::new(),
            submitted: VecDeque::new(),
            profile: StepProfile::default(),
            control: control.clone(),
        };
        (runner, control)
    }

    /// After `prompt` comes `continuation`, at any usual temperature; after that what comes anyway.
    pub fn with_script(mut self, prompt: &[TokenId], continuation: &[TokenId]) -> Self {
        self.scripts.insert(prompt.to_vec(), continuation.to_vec());
        self
    }

    /// A step takes `per_step` and `per_token` for each row.
    pub fn with_latency(mut self, per_step: Duration, per_token: Duration) -> Self {
        (self.step_latency, self.token_latency) = (per_step, per_token);
        self
    }

    /// Steps can be submitted ahead, as to a device.
    pub fn with_device(mut self) -> Self {
        self.is_elsewhere = true;
        self
    }

    /// Sequences that hold `token` get a row of NaN.
    pub fn with_poison_token(mut self, token: TokenId) -> Self {
        self.poison_token = Some(token);
        self
    }

    /// The logits after `prefix`: a script's, or pseudo-random ones of `-4..4`.
    pub fn logits(&self, prefix: &[TokenId]) -> Vec<f32> {
        if self.poison_token.is_some_and(|token| prefix.contains(&token)) {
            return vec![f32::NAN; self.limits.vocab_size];
        }
        let mut state = prefix.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &token| mix(hash ^ u64::from(token)));
        let mut row: Vec<f32> = (0..self.limits.vocab_size)
            .map(|_| {
                state = mix(state);
                (state >> 40) as f32 / (1u64 << 24) as f32 * 8.0 - 4.0
            })
            .collect();
        if let Some(token) = self.scripted(prefix) {
            row[token as usize] = SCRIPTED_LOGIT;
        }
        row
    }

    fn scripted(&self, prefix: &[TokenId]) -> Option<TokenId> {
        (1..=prefix.len()).find_map(|length| {
            let continuation = self.scripts.get(&prefix[..length])?;
            let is_followed = prefix[length..].iter().zip(continuation).all(|(a, b)| a == b);
            continuation.get(prefix.len() - length).copied().filter(|_| is_followed)
        })
    }

    /// The tokens of a slice, also the one that it follows. Where that sequence got none, any will do.
    fn tokens_of(&self, slice: &SequenceSlice<'_>) -> Vec<TokenId> {
        let Some(before) = slice.follows else { return slice.tokens.to_vec() };
        assert!(self.is_elsewhere && slice.tokens.len() == 1, "nothing can be awaited");
        vec![self.tokens[before].unwrap_or(0)]
    }

    fn write(&mut self, slice: &SequenceSlice<'_>, tokens: &[TokenId]) {
        for (offset, &token) in tokens.iter().enumerate() {
            let position = slice.start + offset;
            let block = slice.block_table[position / self.limits.block_size];
            self.slots[block.0 as usize][position % self.limits.block_size] = Some((position, token));
        }
    }

    /// Reads the tokens of positions `0..end` back.
    fn read(&self, block_table: &[BlockId], end: usize) -> Vec<TokenId> {
        let read_one = |position: usize| {
            let block = block_table[position / self.limits.block_size];
            match self.slots[block.0 as usize][position % self.limits.block_size] {
                Some((found, token)) if found == position => token,
                other => panic!("shadow KV: position {position} of a sequence is {other:?} in block {}", block.0),
            }
        };
        (0..end).map(read_one).collect()
    }

    fn output(&mut self, slice: &SequenceSlice<'_>, written: &[TokenId]) -> SequenceOutput {
        let tokens = self.read(slice.block_table, slice.start + slice.tokens.len());
        assert_eq!(&tokens[slice.start..], written, "shadow KV: another sequence wrote into the same blocks");
        let targets = slice.score.map_or(&[][..], |score| score.targets);
        let top_n = slice.score.map_or(0, |score| score.top_n);
        let rows = targets.iter().enumerate();
        let scores = rows.map_while(|(row, &target)| score(&self.logits(&tokens[..=slice.start + row]), target, top_n)).collect();
        let sampled = slice.sample.as_ref().map(|spec| {
            assert_eq!(&tokens[..spec.prompt.len()], spec.prompt, "shadow KV: another prompt");
            let known = tokens.len() - usize::from(slice.follows.is_some());
            assert_eq!(&tokens[spec.prompt.len()..known], spec.output, "shadow KV: another output");
            let mut row = self.logits(&tokens);
            self.sampler.sample(&mut row, spec)
        });
        SequenceOutput { sampled, scores }
    }

    fn check_limits(&self, batch: &StepBatch<'_>) {
        let rows: usize = batch.sequences.iter().map(|slice| slice.tokens.len()).sum();
        assert!(rows > 0 && rows <= self.limits.max_num_batched_tokens, "{rows} rows in a step");
        assert!(batch.sequences.iter().all(|slice| !slice.tokens.is_empty()), "a slice without tokens");
    }
}

impl ModelRunner for FakeRunner {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn step_profile(&mut self) -> Option<&mut StepProfile> {
        (!self.is_elsewhere).then_some(&mut self.profile)
    }

    fn computes_elsewhere(&self) -> bool {
        self.is_elsewhere
    }

    fn submit(&mut self, batch: &StepBatch<'_>) -> Result<(), RunnerError> {
        self.profile.start();
        let [refused, fault] = self.control.begin_step(batch);
        self.check_limits(batch);
        happen(refused)?;
        let rows: usize = batch.sequences.iter().map(|slice| slice.tokens.len()).sum();
        let latency = self.step_latency + self.token_latency * rows as u32;
        if !latency.is_zero() {
            std::thread::sleep(latency);
        }
        for block in batch.new_blocks {
            self.slots[block.0 as usize].fill(None);
        }
        if !self.is_elsewhere {
            happen(fault)?;
        }
        let tokens: Vec<Vec<TokenId>> = batch.sequences.iter().map(|slice| self.tokens_of(slice)).collect();
        for (slice, tokens) in batch.sequences.iter().zip(&tokens) {
            self.write(slice, tokens);
        }
        let outputs: Vec<_> = batch.sequences.iter().zip(&tokens).map(|(slice, tokens)| self.output(slice, tokens)).collect();
        let token = |output: &SequenceOutput| output.sampled.as_ref()?.as_ref().ok().map(|sampled| sampled.token);
        self.tokens = outputs.iter().map(token).collect();
        self.submitted.push_back((outputs, fault));
        assert!(self.submitted.len() <= 2, "more than two steps on their way");
        self.profile.lap(StepOp::Attention);
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<SequenceOutput>, RunnerError> {
        let (mut outputs, fault) = self.submitted.pop_front().unwrap_or_default();
        happen(fault)?;
        if fault == Some(Fault::MissingOutput) {
            outputs.pop();
        }
        Ok(outputs)
    }
}

/// Whatever goes wrong, but for what is missing.
fn happen(fault: Option<Fault>) -> Result<(), RunnerError> {
    match fault {
        Some(Fault::Step) => Err(RunnerError::Step("injected".to_owned())),
        Some(Fault::Fatal) => Err(RunnerError::Fatal("injected".to_owned())),
        Some(Fault::Panic) => panic!("injected"),
        Some(Fault::MissingOutput) | None => Ok(()),
    }
}

/// What [`FakeRunner`] generates greedily for `prompt`, computed without any engine.
pub fn greedy_continuation(runner: &FakeRunner, prompt: &[TokenId], tokens: usize) -> Vec<TokenId> {
    let mut all = prompt.to_vec();
    for _ in 0..tokens {
        let row = runner.logits(&all);
        let best = (0..row.len()).reduce(|best, other| if row[other] > row[best] { other } else { best }).unwrap();
        all.push(best as TokenId);
    }
    all.split_off(prompt.len())
}

/// SplitMix64's finalizer.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
