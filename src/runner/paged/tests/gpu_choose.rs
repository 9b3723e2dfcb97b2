//! Tokens chosen and scored on a GPU are those of the host, to the bit.

use super::*;
use crate::generation::{TokenLogprobs, TokenMask};
use crate::ops::gpu::testing::{OnDevice, Setup, on_devices};
use crate::ops::gpu::{Device, GpuBackend, Half};
use crate::ops::{Backend, RowTasks, StepNeeds};
use crate::runner::paged::choose::{DeviceChooser, Use, Wanted, logprobs, sampled};
use crate::sampling::{SampledToken, Sampler, score};
use std::sync::Arc;

/// Numbers that look random, the same on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.below(1 << 20) as f32 / (1 << 20) as f32
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    fn tokens(&mut self, most: u64, vocabulary: usize) -> Vec<TokenId> {
        (0..self.below(most)).map(|_| self.below(vocabulary as u64) as TokenId).collect()
    }

    /// Smooth rows, rows with many equals, flat ones, and one far peak.
    fn row(&mut self, vocabulary: usize) -> Vec<f32> {
        let kind = self.below(5);
        let mut row: Vec<f32> = (0..vocabulary)
            .map(|_| match kind {
                0 => self.between(-9.0, 9.0),
                1 => self.between(-3.0, 3.0).round() / 2.0,
                2 => 0.0,
                3 => self.between(-1e-3, 1e-3),
                _ => self.between(-300.0, 40.0),
            })
            .collect();
        if self.below(4) == 0 {
            let at = self.below(vocabulary as u64) as usize;
            row[at] = self.between(5.0, 90.0);
        }
        if self.below(12) == 0 {
            let at = self.below(vocabulary as u64) as usize;
            row[at] = self.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        }
        row
    }

    fn mask(&mut self, vocabulary: usize) -> TokenMask {
        let few = self.tokens(4, vocabulary);
        let most: Vec<TokenId> = (0..vocabulary as TokenId).filter(|_| self.below(8) > 0).collect();
        TokenMask::of(&if self.below(3) == 0 { few } else { most }, vocabulary)
    }

    fn params(&mut self, vocabulary: usize) -> SamplingParams {
        let mut biased = self.tokens(5, vocabulary);
        biased.sort_unstable();
        biased.dedup();
        SamplingParams {
            temperature: self.pick(&[0.0, 0.05, 0.7, 1.0, 1.0, 2.0]),
            top_p: self.pick(&[1.0, 1.0, 0.95, 0.5, 0.1, 1e-6, 0.999_999]),
            top_k: self.pick(&[0, 0, 1, 2, 40, 1_000_000]),
            min_p: self.pick(&[0.0, 0.0, 0.05, 0.9, 1.0]),
            presence_penalty: self.pick(&[0.0, 0.0, 1.5, -2.0]),
            frequency_penalty: self.pick(&[0.0, 0.0, 0.3, -0.7]),
            repetition_penalty: self.pick(&[1.0, 1.0, 1.3, 0.4]),
            logit_bias: if self.below(3) == 0 {
                biased.into_iter().map(|token| (token, self.between(-100.0, 100.0))).collect()
            } else {
                Arc::from([])
            },
            allowed_tokens: (self.below(4) == 0).then(|| Arc::new(self.mask(vocabulary))),
            bad_words: Arc::from([]),
            seed: self.below(u64::MAX),
        }
    }
}

/// A row and what is wanted of it.
struct Case {
    row: Vec<f32>,
    params: SamplingParams,
    position: u32,
    prompt: Vec<TokenId>,
    output: Vec<TokenId>,
    forbidden: Vec<TokenId>,
    mask: Option<TokenMask>,
    logprobs: Option<u8>,
    listed: Vec<TokenId>,
    /// Score this token in place of a choice.
    target: Option<TokenId>,
}

impl Case {
    fn new(dice: &mut Dice, vocabulary: usize) -> Self {
        Self {
            row: dice.row(vocabulary),
            params: dice.params(vocabulary),
            position: dice.below(2_000) as u32,
            prompt: dice.tokens(40, vocabulary),
            output: dice.tokens(40, vocabulary),
            forbidden: if dice.below(3) == 0 { dice.tokens(3, vocabulary) } else { Vec::new() },
            mask: (dice.below(4) == 0).then(|| dice.mask(vocabulary)),
            logprobs: dice.pick(&[None, Some(0), Some(3), Some(20), Some(255)]),
            listed: if dice.below(4) == 0 { dice.tokens(9, vocabulary) } else { Vec::new() },
            target: (dice.below(4) == 0).then(|| dice.below(vocabulary as u64) as TokenId),
        }
    }

    fn spec(&self) -> SampleSpec<'_> {
        SampleSpec {
            params: &self.params,
            prompt_index: 1,
            choice_index: 2,
            position: self.position,
            prompt: &self.prompt,
            output: &self.output,
            forbidden: &self.forbidden,
            mask: self.mask.as_ref(),
            logprobs: self.logprobs,
            logprob_tokens: &self.listed,
        }
    }

    fn choice(&self) -> Use {
        Use::Sample { position: self.position, has_logprobs: self.logprobs.is_some() }
    }

    fn slice<'a>(&'a self, targets: &'a [TokenId]) -> SequenceSlice<'a> {
        let score = self.target.map(|_| ScoreSpec { targets, top_n: self.logprobs.unwrap_or(0) });
        SequenceSlice { tokens: &[0], follows: None, start: 0, block_table: &[], sample: Some(self.spec()), score }
    }
}

/// What comes of a case.
#[derive(Debug, PartialEq)]
enum Found {
    Sampled(Result<SampledToken, SamplingError>),
    Scored(Option<TokenLogprobs>),
}

fn on_host(case: &Case) -> Found {
    match case.target {
        Some(target) => Found::Scored(score(&case.row, target, case.logprobs.unwrap_or(0))),
        None => Found::Sampled(Sampler::new(case.row.len()).sample(&mut case.row.clone(), &case.spec())),
    }
}

/// All cases in one group.
struct Choices<'a>(&'a [Case]);

impl OnDevice for Choices<'_> {
    type Found = Vec<Found>;

    fn run<D: Device>(&self, make: &dyn Fn() -> GpuBackend<D>) -> Vec<Found> {
        let (backend, vocabulary) = (make(), self.0[0].row.len());
        backend.reserve(&StepNeeds { rows: self.0.len(), positions: 32, attention: Vec::new(), widest_product: 1, vocabulary }).unwrap();
        let limits = backend.task_limits(self.0.len(), vocabulary).unwrap();
        let (mut chooser, mut tasks) = (DeviceChooser::new(limits), RowTasks::new(limits));
        for (row, case) in self.0.iter().enumerate() {
            let what = if case.target.is_some() { Use::Score(0) } else { case.choice() };
            let targets = [case.target.unwrap_or(0)];
            assert!(chooser.push(&mut tasks, &Wanted { row: row as u32, sequence: row, what }, &case.slice(&targets)));
        }
        let logits: Vec<f32> = self.0.iter().flat_map(|case| case.row.clone()).collect();
        backend.answer_from(&logits, &mut tasks);
        backend.end_step().unwrap();
        let found = |(index, case): (usize, &Case)| {
            let answer = tasks.answer(index);
            if case.target.is_some() {
                Found::Scored(logprobs(answer))
            } else {
                Found::Sampled(sampled(answer, case.position, case.logprobs.is_some()))
            }
        };
        self.0.iter().enumerate().map(found).collect()
    }
}

fn compare(setup: Setup, vocabulary: usize, groups: u64) {
    for group in 0..groups {
        let mut dice = Dice(group * 1_000 + vocabulary as u64);
        let cases: Vec<Case> = (0..8).map(|_| Case::new(&mut dice, vocabulary)).collect();
        for (device, found) in on_devices(setup, &Choices(&cases)) {
            for (case, found) in cases.iter().zip(found) {
                assert_eq!(found, on_host(case), "{device}, {vocabulary} tokens, group {group}: {:?} {:?}", case.spec(), case.target);
            }
        }
    }
}

#[test]
fn a_gpu_chooses_as_the_host_does() {
    for vocabulary in [1, 31, 400, 1_025] {
        compare(Setup::checked(Half::Bf16), vocabulary, 3);
    }
}

#[test]
fn a_gpu_chooses_as_the_host_does_from_many_rows() {
    for (vocabulary, groups) in [(7, 40), (385, 40), (2_500, 20), (32_000, 3)] {
        compare(Setup::unchecked(Half::Bf16), vocabulary, groups);
    }
}
