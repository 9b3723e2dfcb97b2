//! The emulated device finds what a kernel may not do.

use super::device::{Arg, At, Device};
use super::emulated::{Checks, EmulatedDevice};

/// Launches a kernel of `tests/gpu/faulty.cu`; what the emulator says of it.
fn fault(name: &str, grid: [u32; 3], threads: u32, length: i32) -> String {
    let device = EmulatedDevice::new(Checks::On);
    let memory = device.allocate(1 << 12, "a test").unwrap();
    device.launch_named(name, grid, threads, &[Arg::At(At::start(&memory)), Arg::Int(length)]).expect_err("the fault is found")
}

#[test]
fn planted_faults_are_found() {
    let cases = [
        ("faulty_shared_race", [1, 1, 1], "race"),
        ("faulty_block_race", [2, 1, 1], "race"),
        ("faulty_out_of_bounds", [1, 1, 1], "bounds"),
        ("faulty_barrier", [1, 1, 1], "barrier"),
    ];
    for (name, grid, word) in cases {
        let message = fault(name, grid, 64, 1024);
        assert!(message.contains(word) && message.contains(name), "{name}: {message}");
    }
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    for (grid, threads) in [([0, 1, 1], 32), ([1, 65_536, 1], 32), ([1, 1, 65_536], 32), ([1, 1, 1], 1025), ([1, 1, 1], 0)] {
        assert!(!fault("faulty_block_race", grid, threads, 1).is_empty(), "{grid:?} of {threads}");
    }
    assert!(fault("no_such_kernel", [1, 1, 1], 32, 1).contains("no_such_kernel"));
}
