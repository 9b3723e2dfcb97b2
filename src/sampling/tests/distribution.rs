//! Many draws against candle's `LogitsProcessor` and against the softmax.

use super::*;
use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use std::collections::BTreeSet;

/// How often each token comes in `draws` positions.
fn frequencies(logits: &[f32], params: &SamplingParams, draws: u32) -> Vec<f64> {
    let mut sampler = Sampler::new(logits.len());
    let mut counts = vec![0.0; logits.len()];
    let mut row = logits.to_vec();
    for position in 0..draws {
        counts[sampler.sample(&mut row, &SampleSpec { position, ..spec(params) }).unwrap().token as usize] += 1.0;
    }
    counts
}

/// The same with candle's sampler.
fn candle_frequencies(logits: &[f32], sampling: Sampling, draws: u32) -> Vec<f64> {
    let tensor = Tensor::new(logits, &Device::Cpu).unwrap();
    let mut processor = LogitsProcessor::from_sampling(11, sampling);
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[processor.sample(&tensor).unwrap() as usize] += 1.0;
    }
    counts
}

fn support(counts: &[f64]) -> BTreeSet<usize> {
    (0..counts.len()).filter(|index| counts[*index] > 0.0).collect()
}

/// Two-sample chi-square over tokens of which either sample has some, and their number.
fn chi_square(a: &[f64], b: &[f64]) -> (f64, usize) {
    let tokens = a.iter().zip(b).filter(|(a, b)| **a + **b > 0.0);
    tokens.fold((0.0, 0), |(sum, count), (a, b)| (sum + (a - b).powi(2) / (a + b), count + 1))
}

#[test]
fn filters_keep_what_candle_keeps_with_its_frequencies() {
    const DRAWS: u32 = 40_000;
    // Steep enough to be cut, flat enough that every kept token is drawn.
    let logits = row(24, 21, 1.5);
    let cases = [
        (sampled_at(0.8), Sampling::All { temperature: f64::from(0.8f32) }),
        (SamplingParams { top_k: 5, ..sampled_at(0.8) }, Sampling::TopK { k: 5, temperature: f64::from(0.8f32) }),
        (SamplingParams { top_k: 24, ..sampled_at(1.0) }, Sampling::TopK { k: 24, temperature: 1.0 }),
        (SamplingParams { top_p: 0.7, ..sampled_at(1.0) }, Sampling::TopP { p: f64::from(0.7f32), temperature: 1.0 }),
        (SamplingParams { top_p: 0.2, ..sampled_at(1.3) }, Sampling::TopP { p: f64::from(0.2f32), temperature: f64::from(1.3f32) }),
        (SamplingParams { top_p: 0.95, ..sampled_at(0.6) }, Sampling::TopP { p: f64::from(0.95f32), temperature: f64::from(0.6f32) }),
    ];
    for (params, sampling) in cases {
        let ours = frequencies(&logits, &params, DRAWS);
        let candles = candle_frequencies(&logits, sampling.clone(), DRAWS);
        assert_eq!(support(&ours), support(&candles), "{sampling:?}");
        let (chi_square, count) = chi_square(&ours, &candles);
        let freedom = (count - 1) as f64;
        // Mean plus five standard deviations of the distribution.
        assert!(chi_square < freedom + 5.0 * (2.0 * freedom).sqrt() + 1.0, "{sampling:?}: {chi_square} of {freedom}");
    }
    let tensor = Tensor::new(&*logits, &Device::Cpu).unwrap();
    let argmax = LogitsProcessor::from_sampling(0, Sampling::ArgMax).sample(&tensor).unwrap();
    assert_eq!(token(&logits, &spec(&SamplingParams::greedy())), Ok(argmax));
}

#[test]
fn frequencies_follow_the_softmax_over_a_whole_vocabulary() {
    const DRAWS: u32 = 60_000;
    let logits = row(500, 2, 1.0);
    let counts = frequencies(&logits, &sampled_at(1.0), DRAWS);
    let probabilities = softmax(&logits, 1.0);
    let expected = probabilities.iter().map(|probability| probability * f64::from(DRAWS));
    let chi_square: f64 = counts.iter().zip(expected).map(|(count, expected)| (count - expected).powi(2) / expected).sum();
    assert!(chi_square < 499.0 + 5.0 * (2.0f64 * 499.0).sqrt(), "{chi_square}");
}
