//! More than a million steps in shards that run beside each other, each seed twice.

use super::{Summary, run};

/// Steps of a shard; replays are not counted.
const STEPS_PER_SHARD: u64 = 130_000;
const SEEDS_PER_SHARD: u64 = 1_000_000;

/// Runs seeds of one shard until it has enough steps; nothing may be violated, and everything the scenarios promise must have happened.
fn simulate_shard(shard: u64) {
    let mut total = Summary::default();
    for seed in shard * SEEDS_PER_SHARD.. {
        if total.steps >= STEPS_PER_SHARD {
            break;
        }
        let summary = simulate(seed);
        total.steps += summary.steps;
        total.preemptions += summary.preemptions;
        total.cached_tokens += summary.cached_tokens;
        total.ahead.iter_mut().zip(summary.ahead).for_each(|(total, ahead)| *total += ahead);
        total.ends.iter_mut().zip(summary.ends).for_each(|(total, ends)| *total += ends);
    }
    println!("{total:?}");
    assert!(total.ahead.iter().all(|&ahead| ahead > 1000), "{total:?}");
    assert!(total.preemptions > 1000 && total.cached_tokens > 1000 && total.ends.iter().all(|&ends| ends > 1000), "{total:?}");
}

/// One seed, twice.
fn simulate(seed: u64) -> Summary {
    let [first, second] = [(); 2].map(|()| run(seed, None).unwrap_or_else(|text| panic!("{text}\nreplay: OPENELM_SIM_SEED={seed}")));
    assert!(first == second, "seed {seed} gives different logs");
    first
}

/// Runs the seed named by the environment, or one that stands for all.
#[test]
fn replay() {
    let seed = std::env::var("OPENELM_SIM_SEED").map_or(0, |seed| seed.parse().expect("OPENELM_SIM_SEED is a number"));
    let summary = simulate(seed);
    println!("seed {seed}: {} steps, {} preemptions, ends {:?}", summary.steps, summary.preemptions, summary.ends);
}

macro_rules! shards {
    ($($name:ident = $shard:literal),+) => {
        $(#[test]
        fn $name() {
            simulate_shard($shard);
        })+
    };
}

shards!(shard_0 = 0, shard_1 = 1, shard_2 = 2, shard_3 = 3, shard_4 = 4, shard_5 = 5, shard_6 = 6, shard_7 = 7);
