//! Counter-based random numbers: Philox 4x32 with ten rounds (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011).
//!
//! **Architecture invariant:** there is no state. The number for a token is a function of (seed, prompt index, choice index, position), so it does
//! not depend on what else was sampled, in which order, or whether the sequence was preempted and computed again.

/// Multipliers of the two lanes.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the key words grow by from round to round (golden ratio and sqrt(3) - 1, as 32-bit fractions).
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The Philox 4x32-10 block function.
pub(super) fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut counter, mut key) = (counter, key);
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let (high0, low0) = multiply(MULTIPLIERS[0], counter[0]);
        let (high1, low1) = multiply(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

/// High and low half of the 64-bit product.
fn multiply(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

/// What the random number of one token depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RandomKey {
    /// Seed of the request.
    pub seed: u64,
    /// Index of the prompt within its HTTP request.
    pub prompt_index: u32,
    /// Index of the choice.
    pub choice_index: u32,
    /// Absolute position of the token.
    pub position: u32,
}

/// 64 random bits.
pub(super) fn random(key: RandomKey) -> u64 {
    // The last counter word separates uses of the same position: 0 is the choice of the token.
    let counter = [key.position, key.choice_index, key.prompt_index, 0];
    let words = philox4x32(counter, [key.seed as u32, (key.seed >> 32) as u32]);
    u64::from(words[1]) << 32 | u64::from(words[0])
}
