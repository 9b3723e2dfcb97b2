//! Any row and any parameters against naive definitions by full sorts.

use super::*;
use crate::sampling::edits::Edits;
use crate::sampling::filters::Weights;
use crate::sampling::order::{Candidate, by_likelihood, top_n};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Bias, penalties and mask by their definitions.
fn naive_row(logits: &[f32], at: &SampleSpec<'_>) -> Vec<f32> {
    let mut row = logits.to_vec();
    let params = at.params;
    let count_of = |token: usize, tokens: &[TokenId]| tokens.iter().filter(|other| **other as usize == token).count();
    for (token, logit) in row.iter_mut().enumerate() {
        for (_, bias) in params.logit_bias.iter().filter(|(biased, _)| *biased as usize == token) {
            *logit += bias;
        }
        let in_output = count_of(token, at.output);
        if in_output + count_of(token, at.prompt) > 0 {
            *logit = if *logit > 0.0 { *logit / params.repetition_penalty } else { *logit * params.repetition_penalty };
        }
        *logit -= params.frequency_penalty * in_output as f32;
        if in_output > 0 {
            *logit -= params.presence_penalty;
        }
        let completes = |word: &[TokenId]| [at.output, &[token as TokenId]].concat().ends_with(word);
        if at.forbidden.contains(&(token as TokenId)) || params.bad_words.iter().any(|word| completes(word)) {
            *logit = f32::NEG_INFINITY;
        }
    }
    row
}

/// Tokens less likely than the best by this factor are not compared: somewhere below, weights become zero.
const NEGLIGIBLE: f64 = 1e-30;

/// Tokens that min-p, top-k, top-p keep, by a full sort. `None` where a threshold is too close to call in f32.
fn naive_kept(row: &[f32], params: &SamplingParams) -> Option<BTreeSet<TokenId>> {
    const MARGIN: f64 = 1e-5;
    let probabilities = softmax(row, params.temperature);
    let highest = probabilities.iter().copied().fold(0.0, f64::max);
    let relative = |token: TokenId| probabilities[token as usize] / highest;
    let mut sorted: Vec<_> = row.iter().enumerate().map(|(token, &logit)| Candidate { token: token as TokenId, logit }).collect();
    sorted.sort_by(by_likelihood);
    if sorted.iter().any(|candidate| (relative(candidate.token) - f64::from(params.min_p)).abs() < MARGIN * f64::from(params.min_p)) {
        return None;
    }
    sorted.retain(|candidate| relative(candidate.token) >= f64::from(params.min_p));
    if params.top_k > 0 {
        sorted.truncate(params.top_k as usize);
    }
    let total: f64 = sorted.iter().map(|candidate| probabilities[candidate.token as usize]).sum();
    let (mut mass, mut kept) = (0.0, BTreeSet::new());
    for candidate in sorted {
        if params.top_p < 1.0 && (mass / total - f64::from(params.top_p)).abs() < MARGIN {
            return None;
        }
        if params.top_p < 1.0 && mass / total >= f64::from(params.top_p) {
            break;
        }
        mass += probabilities[candidate.token as usize];
        if relative(candidate.token) > NEGLIGIBLE {
            kept.insert(candidate.token);
        }
    }
    Some(kept)
}

/// Logits with many ties: multiples of 1/8.
fn any_row() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        proptest::collection::vec((-80i32..80).prop_map(|eighths| eighths as f32 / 8.0), 1..400),
        proptest::collection::vec(-30.0f32..30.0, 1..400),
        (1usize..3000, any::<u64>(), 0.01f32..20.0).prop_map(|(size, seed, scale)| row(size, seed, scale)),
    ]
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let off_or = |range: std::ops::Range<f32>, off: f32| prop_oneof![Just(off), range];
    let penalties = (off_or(-2.0..2.0, 0.0), off_or(-2.0..2.0, 0.0), off_or(0.2..3.0, 1.0));
    let bias = proptest::collection::btree_map(0u32..100, -100.0f32..100.0, 0..4);
    let filters = (off_or(0.01..1.0, 1.0), prop_oneof![Just(0u32), 2u32..60], off_or(0.001..1.0, 0.0));
    (0.05f32..2.0, filters, penalties, bias, any::<u64>()).prop_map(|(temperature, (top_p, top_k, min_p), penalties, bias, seed)| {
        SamplingParams {
            temperature,
            top_p,
            top_k,
            min_p,
            presence_penalty: penalties.0,
            frequency_penalty: penalties.1,
            repetition_penalty: penalties.2,
            logit_bias: bias.into_iter().collect::<Vec<_>>().into(),
            seed,
            ..SamplingParams::greedy()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn filters_keep_what_a_full_sort_keeps(row in any_row(), params in any_params()) {
        let Some(kept) = naive_kept(&row, &params) else { return Ok(()) };
        let mut weights = Weights::new(row.len());
        weights.fill(&row, crate::sampling::row::max(&row), &Plan::new(&spec(&params)));
        let kept_by_us = weights.as_slice().iter().enumerate().filter(|(_, weight)| f64::from(**weight) > NEGLIGIBLE);
        let ours: BTreeSet<TokenId> = kept_by_us.map(|(token, _)| token as TokenId).collect();
        prop_assert_eq!(ours, kept);
    }

    #[test]
    fn penalties_follow_their_definition(
        row in any_row(), params in any_params(), ids in proptest::collection::vec(0u32..120, 0..60), split in 0usize..60,
        bad_words in proptest::collection::vec(proptest::collection::vec(0u32..120, 1..4), 0..4), cut in 0usize..60,
    ) {
        let split = split.min(ids.len());
        // One word begins with what the output ends with.
        let likely = [&ids[split.max(ids.len().saturating_sub(cut % 3))..], &[7]].concat();
        let bad_words = bad_words.into_iter().chain([likely]).map(Vec::into_boxed_slice).collect();
        let params = SamplingParams { bad_words, ..params };
        let at = SampleSpec { prompt: &ids[..split], output: &ids[split..], forbidden: &ids[..split.min(2)], ..spec(&params) };
        let mut edits = Edits::new(row.len());
        for _ in 0..2 {
            // Twice: scratch left over from one row must not show in the next.
            let mut ours = row.clone();
            edits.apply(&mut ours, &at);
            for (index, (ours, naive)) in ours.iter().zip(naive_row(&row, &at)).enumerate() {
                prop_assert!(*ours == naive || (ours - naive).abs() <= 1e-5 * naive.abs().max(1.0), "token {}: {} for {}", index, ours, naive);
            }
            edits.undo(&mut ours);
            prop_assert_eq!(&ours, &row);
        }
    }

    #[test]
    fn a_choice_is_a_pure_function(row in any_row(), params in any_params(), position in any::<u32>()) {
        let at = SampleSpec { position, logprobs: Some(4), ..spec(&params) };
        let mut used = Sampler::new(7);
        let noise = SampleSpec { prompt: &[1, 2, 3], output: &[1], ..spec(&params) };
        used.sample(&mut super::row(600, 1, 3.0), &noise).unwrap();
        let fresh = Sampler::new(row.len()).sample(&mut row.clone(), &at).unwrap();
        prop_assert_eq!(used.sample(&mut row.clone(), &at).unwrap(), fresh.clone());
        prop_assert!((fresh.token as usize) < row.len());
    }

    #[test]
    fn top_n_is_a_sorted_prefix(row in any_row(), n in 0usize..200) {
        let mut all: Vec<_> = row.iter().enumerate().map(|(token, &logit)| Candidate { token: token as TokenId, logit }).collect();
        all.sort_by(by_likelihood);
        all.truncate(n);
        let mut best = Vec::new();
        top_n(&row, n, &mut best);
        prop_assert_eq!(best, all);
    }
}

proptest! {
    #[test]
    fn the_peak_is_the_first_of_the_largest(
        mut row in prop::collection::vec(-3i8..3, 0..1300).prop_map(|row| row.into_iter().map(f32::from).collect::<Vec<_>>()),
        wrong in prop::option::of((any::<prop::sample::Index>(), prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]))),
    ) {
        if let (Some((index, value)), false) = (&wrong, row.is_empty()) {
            let index = index.index(row.len());
            row[index] = *value;
            prop_assert_eq!(crate::sampling::row::peak(&row), None);
            return Ok(());
        }
        let largest = row.iter().copied().reduce(f32::max);
        let first = largest.map(|largest| (row.iter().position(|v| *v == largest).expect("it is there"), largest));
        prop_assert_eq!(crate::sampling::row::peak(&row), first);
    }
}
