//! The order of tokens by likelihood, and the best few of a row.

use crate::generation::TokenId;
use std::cmp::Ordering;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: TokenId,
    /// Its logit, never NaN.
    pub logit: f32,
}

/// More likely tokens first, ties by lower id: the order of every filter and of every list of alternatives. Both zeros are one number.
pub(super) fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
    (b.logit + 0.0).total_cmp(&(a.logit + 0.0)).then(a.token.cmp(&b.token))
}

/// Smallest buffer of [`top_n`]: large enough that a selection pays.
const MIN_BUFFER: usize = 64;
/// Values examined at once: a block without anything above the threshold costs one vectorised maximum.
const BLOCK: usize = 64;

/// Leaves the `n` most likely tokens of `row` in `best`, in order.
///
/// A buffer of twice `n` collects what exceeds the threshold and is halved by selection when full, which raises the threshold:
/// linear in the row, independent of `n`.
pub(super) fn top_n(row: &[f32], n: usize, best: &mut Vec<Candidate>) {
    best.clear();
    let n = n.min(row.len());
    if n == 0 {
        return;
    }
    let capacity = (2 * n).max(MIN_BUFFER);
    best.reserve(capacity);
    // `None` until n tokens are known; then the n-th best: ids ascend, so an equal logit that comes later loses the tie.
    let mut threshold = None;
    for (index, block) in row.chunks(BLOCK).enumerate() {
        if threshold.is_some_and(|threshold| super::row::max(block) <= threshold) {
            continue;
        }
        for (offset, &logit) in block.iter().enumerate() {
            if threshold.is_some_and(|threshold| logit <= threshold) {
                continue;
            }
            best.push(Candidate { token: (index * BLOCK + offset) as TokenId, logit });
            if best.len() == capacity {
                threshold = Some(keep_best(best, n));
            }
        }
    }
    best.sort_unstable_by(by_likelihood);
    best.truncate(n);
}

/// Reduces `candidates` to its `n` best and returns the logit of the last of them.
fn keep_best(candidates: &mut Vec<Candidate>, n: usize) -> f32 {
    let (_, last, _) = candidates.select_nth_unstable_by(n - 1, by_likelihood);
    let threshold = last.logit;
    candidates.truncate(n);
    threshold
}
