//! Single rows: random numbers against published vectors, log-probabilities against their definition, edges.

mod distribution;
mod properties;

use super::philox::{RandomKey, philox4x32, random};
use super::*;
use crate::generation::TokenMask;
use std::collections::BTreeMap;
use std::sync::Arc;

fn spec(params: &SamplingParams) -> SampleSpec<'_> {
    SampleSpec::new(params)
}

fn sampled_at(temperature: f32) -> SamplingParams {
    SamplingParams { temperature, ..SamplingParams::greedy() }
}

fn token(logits: &[f32], spec: &SampleSpec<'_>) -> Result<TokenId, SamplingError> {
    Sampler::new(logits.len()).sample(&mut logits.to_vec(), spec).map(|sampled| sampled.token)
}

/// A number of `[0, 1)`.
fn uniform(key: RandomKey) -> f64 {
    (random(key) >> 11) as f64 / (1u64 << 53) as f64
}

/// Pseudo-random logits of `-scale..scale`.
fn row(vocab_size: usize, seed: u64, scale: f32) -> Vec<f32> {
    let key = |position| RandomKey { seed, prompt_index: 9, choice_index: 9, position };
    (0..vocab_size).map(|index| (uniform(key(index as u32)) as f32 * 2.0 - 1.0) * scale).collect()
}

/// Probabilities in f64, by the definition.
fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|logit| (f64::from(logit - max) / f64::from(temperature)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

#[test]
fn philox_gives_the_published_vectors() {
    let known = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, expected) in known {
        assert_eq!(philox4x32(counter, key), expected);
    }
}

#[test]
fn random_numbers_differ_in_every_argument_and_are_uniform() {
    let base = RandomKey { seed: 1 << 40, prompt_index: 1, choice_index: 2, position: 3 };
    let others = [
        RandomKey { seed: 1, ..base },
        RandomKey { prompt_index: 2, ..base },
        RandomKey { choice_index: 1, ..base },
        RandomKey { position: 4, ..base },
    ];
    for other in others {
        assert_ne!(uniform(base), uniform(other));
    }
    let mut bins = [0.0f64; 64];
    for position in 0..64_000 {
        let value = uniform(RandomKey { position, ..base });
        assert!((0.0..1.0).contains(&value));
        bins[(value * 64.0) as usize] += 1.0;
    }
    let chi_square: f64 = bins.iter().map(|count| (count - 1000.0).powi(2) / 1000.0).sum();
    assert!(chi_square < 110.0, "63 degrees of freedom, p < 0.0002: {chi_square}");
}

#[test]
fn exp_is_accurate_and_ends_at_zero() {
    for step in 0..870_000 {
        let x = -(step as f32) * 1e-4;
        let exact = f64::from(x).exp();
        let error = (f64::from(super::row::exp(x)) - exact).abs() / exact;
        assert!(error < 2e-7, "exp({x}) is off by {error}");
    }
    assert_eq!(super::row::exp(0.0), 1.0);
    assert_eq!(super::row::exp(-88.0), 0.0);
    assert_eq!(super::row::exp(f32::NEG_INFINITY), 0.0);
}

#[test]
fn greedy_takes_the_lower_id_of_equals() {
    let params = SamplingParams::greedy();
    assert_eq!(token(&[0.0, 3.0, -1.0, 3.0], &spec(&params)), Ok(1));
    let mut long = vec![1.0; 1000];
    long[777] = 2.0;
    long[778] = 2.0;
    assert_eq!(token(&long, &spec(&params)), Ok(777));
}

#[test]
fn non_finite_logits_are_an_error() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for params in [SamplingParams::greedy(), sampled_at(1.0)] {
            for index in [0, 5, 63, 99] {
                let mut logits = row(100, 1, 4.0);
                logits[index] = bad;
                let at = SampleSpec { position: 7, ..spec(&params) };
                assert_eq!(token(&logits, &at), Err(SamplingError::NonFinite { token: index as TokenId, position: 7 }));
                assert_eq!(score(&logits, 3, 2), None);
            }
        }
    }
    assert_eq!(score(&[1.0, 2.0], 2, 0), None, "a target outside of the row");
}

#[test]
fn forbidden_tokens_are_never_chosen() {
    let logits = [1.0, 9.0, 8.0, 2.0];
    for params in [SamplingParams::greedy(), sampled_at(1e-3), SamplingParams { top_k: 2, ..sampled_at(0.1) }] {
        assert_eq!(token(&logits, &SampleSpec { forbidden: &[1, 2, 99], ..spec(&params) }), Ok(3));
        let all = SampleSpec { forbidden: &[0, 1, 2, 3], position: 4, ..spec(&params) };
        assert_eq!(token(&logits, &all), Err(SamplingError::NothingAllowed { position: 4 }));
    }
    let bias = SamplingParams { logit_bias: Arc::from([(1, 100.0)]), ..SamplingParams::greedy() };
    assert_eq!(token(&logits, &SampleSpec { forbidden: &[1], ..spec(&bias) }), Ok(2), "a bias does not lift the mask");
}

#[test]
fn extreme_parameters_keep_the_row_finite() {
    let huge = [f32::MAX, f32::MIN, 1.0, -1.0];
    let penalties = SamplingParams { repetition_penalty: 1e-30, frequency_penalty: -2.0, temperature: 1e-4, ..SamplingParams::greedy() };
    let seen = [0, 1, 2, 3];
    let at = SampleSpec { prompt: &seen, output: &seen, ..spec(&penalties) };
    assert_eq!(token(&huge, &at), Ok(0));
    assert_eq!(
        token(&[0.0; 8], &spec(&SamplingParams { top_p: 1e-9, ..sampled_at(2.0) })),
        Ok(0),
        "equals: the lowest id alone is a nucleus"
    );
    assert_eq!(token(&[-3.0], &spec(&sampled_at(2.0))), Ok(0));
}

#[test]
fn only_allowed_tokens_are_chosen_and_logprobs_are_of_all() {
    let logits = row(300, 5, 4.0);
    let allowed: Vec<TokenId> = (0..300).filter(|id| id % 7 == 3).collect();
    let mask = Some(Arc::new(TokenMask::of(&allowed, 300)));
    let best = allowed.iter().copied().max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize])).unwrap();
    let greedy = SamplingParams { allowed_tokens: mask.clone(), ..SamplingParams::greedy() };
    assert_eq!(token(&logits, &spec(&greedy)), Ok(best));
    let sampled = SamplingParams { allowed_tokens: mask, ..sampled_at(2.0) };
    for position in 0..200 {
        assert!(allowed.contains(&token(&logits, &SampleSpec { position, ..spec(&sampled) }).unwrap()));
    }
    let at = SampleSpec { logprobs: Some(2), ..spec(&greedy) };
    let found = Sampler::new(300).sample(&mut logits.clone(), &at).unwrap().logprobs;
    assert_eq!(found, score(&logits, best, 2));
    let none = SampleSpec { forbidden: &allowed, ..spec(&greedy) };
    assert_eq!(Sampler::new(300).sample(&mut logits.clone(), &none), Err(SamplingError::NothingAllowed { position: none.position }));
}

#[test]
fn the_last_token_of_a_bad_word_is_masked_after_the_others() {
    let logits = [0.0, 3.0, 2.0, 1.0];
    let params = SamplingParams { bad_words: Arc::from([Box::from([2, 1]), Box::from([2])]), ..SamplingParams::greedy() };
    let after = |output: &[TokenId]| token(&logits, &SampleSpec { output, ..spec(&params) }).unwrap();
    assert_eq!([after(&[]), after(&[1]), after(&[2]), after(&[1, 2]), after(&[2, 3])], [1, 1, 3, 3, 1]);
}

#[test]
fn the_row_is_left_as_it_was() {
    let logits = row(300, 5, 4.0);
    let params = SamplingParams {
        repetition_penalty: 1.3,
        presence_penalty: 1.0,
        frequency_penalty: -0.5,
        logit_bias: Arc::from([(1, -100.0), (2, 3.0)]),
        ..sampled_at(1.0)
    };
    let mut changed = logits.clone();
    let at = SampleSpec { prompt: &[1, 2, 3, 2, 299, 5000], output: &[2, 2, 7], forbidden: &[2, 9], ..spec(&params) };
    Sampler::new(300).sample(&mut changed, &at).unwrap();
    assert_eq!(changed, logits);
}

#[test]
fn logprobs_follow_their_definition() {
    let logits = row(1003, 3, 6.0);
    let probabilities = softmax(&logits, 1.0);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    for target in [0usize, 17, 1002, order[0], order[19]] {
        let scored = score(&logits, target as TokenId, 20).unwrap();
        assert!((f64::from(scored.chosen.logprob) - probabilities[target].ln()).abs() < 1e-5);
        assert_eq!(scored.rank as usize, 1 + order.iter().position(|token| *token == target).unwrap());
        let top: Vec<usize> = scored.top.iter().map(|entry| entry.token as usize).collect();
        assert_eq!(top, order[..20]);
        for entry in scored.top.iter().filter(|entry| entry.token as usize == target) {
            assert_eq!(entry.logprob.to_bits(), scored.chosen.logprob.to_bits());
        }
    }
    let tied = score(&[2.0, 2.0, 1.0, 2.0], 3, 3).unwrap();
    assert_eq!((tied.rank, tied.top[0].token, tied.top[2].token), (3, 0, 3));
    assert_eq!(score(&[5.0], 0, 4).unwrap().chosen.logprob, 0.0);
    assert!(score(&[f32::MAX, f32::MIN], 1, 0).unwrap().chosen.logprob.is_finite());
}

#[test]
fn logprobs_ignore_penalties_and_temperature() {
    let logits = row(100, 8, 3.0);
    let params = SamplingParams { repetition_penalty: 2.0, logit_bias: Arc::from([(4, 50.0)]), ..sampled_at(0.5) };
    let at = SampleSpec { prompt: &[4], logprobs: Some(3), ..spec(&params) };
    let sampled = Sampler::new(100).sample(&mut logits.clone(), &at).unwrap();
    assert_eq!(sampled.token, 4);
    assert_eq!(sampled.logprobs, score(&logits, 4, 3));
}

#[test]
fn threads_agree_to_the_bit() {
    let rows: Vec<_> = (0..16).map(|seed| row(2000, seed, 5.0)).collect();
    let params = SamplingParams { top_p: 0.9, ..sampled_at(0.9) };
    let sample_all = || -> BTreeMap<usize, SampledToken> {
        let mut sampler = Sampler::new(2000);
        let at = SampleSpec { logprobs: Some(5), ..spec(&params) };
        rows.iter().enumerate().map(|(index, row)| (index, sampler.sample(&mut row.clone(), &at).unwrap())).collect()
    };
    let here = sample_all();
    std::thread::scope(|scope| {
        for there in [scope.spawn(sample_all), scope.spawn(sample_all)] {
            assert_eq!(there.join().unwrap(), here);
        }
    });
}
