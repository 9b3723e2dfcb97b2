//! Turns a row into weights and removes what min-p, top-k and top-p exclude, by setting weights to zero.

use super::order::{Candidate, by_likelihood, top_n};
use super::plan::Plan;
use super::row;
use crate::generation::TokenId;

/// Buckets of the first pass of top-p.
const BUCKETS: usize = 1024;
/// Distance from the maximum, in nats, beyond which weights are zero anyway.
const MAX_DISTANCE: f32 = 87.0;
/// Most buckets a nat of distance is cut into: keeps products with it finite for a row of equals.
const MAX_SCALE: f32 = 1e30;
/// Tokens examined at once for a bucket.
const SCAN_BLOCK: usize = 64;
/// Weights in a block of the draw.
const DRAW_BLOCK: usize = 128;

/// Weights of one row at a time.
#[derive(Debug)]
pub(super) struct Weights {
    /// `exp((logit - max) / temperature)`, or 0 where a filter removed the token.
    weights: Vec<f32>,
    /// Top-p: bucket of each token, by distance from the maximum.
    buckets: Vec<u16>,
    /// Top-p: mass of each bucket.
    masses: Vec<u64>,
    candidates: Vec<Candidate>,
    block_masses: Vec<u64>,
}

impl Weights {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self {
            weights: Vec::with_capacity(vocab_size),
            buckets: Vec::with_capacity(vocab_size),
            masses: vec![0; BUCKETS],
            candidates: Vec::new(),
            block_masses: Vec::with_capacity(vocab_size.div_ceil(DRAW_BLOCK)),
        }
    }

    /// Scratch for [`top_n`], shared with the log-probabilities.
    pub(super) fn candidates(&mut self) -> &mut Vec<Candidate> {
        &mut self.candidates
    }

    /// The weights as the filters left them.
    #[cfg(test)]
    pub(super) fn as_slice(&self) -> &[f32] {
        &self.weights
    }

    /// Fills the weights from `row`, whose largest value is `max`, and applies min-p, top-k, top-p, in this order.
    pub(super) fn fill(&mut self, row: &[f32], max: f32, plan: &Plan) {
        self.weights.resize(row.len(), 0.0);
        row::exp_into(row, max, plan.scale, &mut self.weights);
        if plan.min_p > 0.0 {
            self.keep_min_p(plan.min_p);
        }
        if plan.top_k > 0 && (plan.top_k as usize) < row.len() {
            self.keep_top_k(row, plan.top_k as usize);
        }
        if plan.nucleus > 0 {
            self.keep_nucleus(row, max, plan);
        }
    }

    /// Keeps tokens at least `min_p` times as likely as the most likely one, whose weight is 1.
    fn keep_min_p(&mut self, min_p: f32) {
        for weight in &mut self.weights {
            *weight = if *weight < min_p { 0.0 } else { *weight };
        }
    }

    fn keep_top_k(&mut self, row: &[f32], k: usize) {
        top_n(row, k, &mut self.candidates);
        if let Some(&last) = self.candidates.last() {
            self.cut_after(row, last);
        }
    }

    /// Keeps the shortest prefix of the tokens in order of likelihood whose share of the remaining mass reaches the nucleus.
    ///
    /// No sort of the row: masses by bucket of distance from the maximum find the bucket in which the prefix ends, and a selection by mass
    /// the token in it.
    fn keep_nucleus(&mut self, row: &[f32], max: f32, plan: &Plan) {
        let distance = ((max - row::min(row)) * plan.scale).clamp(f32::MIN_POSITIVE, MAX_DISTANCE);
        let scale = (plan.scale * ((BUCKETS - 1) as f32 / distance)).min(MAX_SCALE);
        self.buckets.resize(row.len(), 0);
        row::buckets_into(row, max, (scale, (BUCKETS - 1) as u16), &mut self.buckets);
        self.masses.fill(0);
        for (&bucket, &weight) in self.buckets.iter().zip(&self.weights) {
            self.masses[usize::from(bucket)] += row::mass(weight);
        }
        let target = share_of(plan.nucleus, self.masses.iter().sum());
        let mut reached = 0;
        let boundary = self.masses.iter().position(|mass| {
            reached += mass;
            reached >= target
        });
        // No share is larger than all.
        let Some(boundary) = boundary else { return };
        let above = reached - self.masses[boundary];
        self.collect_bucket(row, boundary as u16);
        let last = self.select_by_mass(target - above);
        self.cut_after(row, last);
    }

    /// Makes the tokens of one bucket that have weight the candidates.
    fn collect_bucket(&mut self, row: &[f32], wanted: u16) {
        self.candidates.clear();
        for (block, buckets) in self.buckets.chunks(SCAN_BLOCK).enumerate() {
            if !buckets.iter().fold(false, |found, bucket| found | (*bucket == wanted)) {
                continue;
            }
            let start = block * SCAN_BLOCK;
            let tokens = buckets.iter().enumerate().filter(|(_, bucket)| **bucket == wanted).map(|(offset, _)| start + offset);
            let weighty = tokens.filter(|token| self.weights[*token] > 0.0);
            self.candidates.extend(weighty.map(|token| Candidate { token: token as TokenId, logit: row[token] }));
        }
    }

    /// The candidate at which the mass of the candidates, most likely first, reaches `target`; the last one if none does.
    fn select_by_mass(&mut self, target: u64) -> Candidate {
        let Self { weights, candidates, .. } = self;
        let mass_of = |candidate: &Candidate| row::mass(weights[candidate.token as usize]);
        let (mut rest, mut target) = (candidates.as_mut_slice(), target);
        while rest.len() > 1 {
            let middle = rest.len() / 2;
            rest.select_nth_unstable_by(middle - 1, by_likelihood);
            let (upper, lower) = rest.split_at_mut(middle);
            let mass: u64 = upper.iter().map(mass_of).sum();
            if mass >= target {
                rest = upper;
            } else {
                target -= mass;
                rest = lower;
            }
        }
        rest[0]
    }

    /// Removes every token less likely than `last`, ties by lower id.
    fn cut_after(&mut self, row: &[f32], last: Candidate) {
        let split = last.token as usize + 1;
        let (kept_ties, lost_ties) = self.weights.split_at_mut(split);
        for (weight, &logit) in kept_ties.iter_mut().zip(row) {
            *weight = if logit < last.logit { 0.0 } else { *weight };
        }
        for (weight, &logit) in lost_ties.iter_mut().zip(&row[split..]) {
            *weight = if logit <= last.logit { 0.0 } else { *weight };
        }
    }

    /// The token at the fraction `random` / 2^64 of the mass, tokens in order of id. The mass is never zero: the most likely token weighs 1.
    pub(super) fn draw(&mut self, random: u64) -> TokenId {
        self.block_masses.clear();
        self.block_masses.extend(self.weights.chunks(DRAW_BLOCK).map(row::mass_of));
        let total: u64 = self.block_masses.iter().sum();
        let mut left = high(random, total);
        let mut start = 0;
        // What is left is less than the mass that is still to come: both loops end at a token that has some.
        for &mass in &self.block_masses {
            if left < mass {
                break;
            }
            left -= mass;
            start += DRAW_BLOCK;
        }
        let mut token = start;
        for mass in self.weights[start..].iter().map(|&weight| row::mass(weight)) {
            if left < mass {
                break;
            }
            left -= mass;
            token += 1;
        }
        token as TokenId
    }
}

/// `fraction` / 2^64 of `total`, rounded down.
fn high(fraction: u64, total: u64) -> u64 {
    ((u128::from(fraction) * u128::from(total)) >> 64) as u64
}

/// `fraction` / 2^64 of `total`, rounded up.
fn share_of(fraction: u64, total: u64) -> u64 {
    high(fraction, total) + u64::from(fraction.wrapping_mul(total) != 0)
}
