//! The emulated device finds what a kernel may not do.

use super::device::{Arg, At, Device};
use super::emulated::{Checks, EmulatedDevice, Language};

/// Launches a kernel of `tests/gpu/faulty.cu` or `faulty.metal`; what the emulator says of it.
fn fault(language: Language, name: &str, (grid, threads): ([u32; 3], u32), length: i32) -> String {
    let device = EmulatedDevice::new(language, Checks::On);
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
        ("faulty_shared_size", [1, 1, 1], "bytes of shared memory"),
    ];
    for language in Language::ALL {
        for (name, grid, word) in cases {
            let message = fault(language, name, (grid, 64), 1024);
            assert!(message.contains(word) && message.contains(name), "{language:?} {name}: {message}");
        }
    }
    let message = fault(Language::Metal, "faulty_matrix", ([1, 1, 1], 32), 0);
    assert!(message.contains("bounds"), "{message}");
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    for language in Language::ALL {
        for launch in [([0, 1, 1], 32), ([1, 1, 1], 1025), ([1, 1, 1], 0)] {
            assert!(!fault(language, "faulty_block_race", launch, 1).is_empty(), "{language:?} {launch:?}");
        }
        assert!(fault(language, "no_such_kernel", ([1, 1, 1], 32), 1).contains("no_such_kernel"));
    }
    for launch in [([1, 65_536, 1], 32), ([1, 1, 65_536], 32)] {
        assert!(!fault(Language::Cuda, "faulty_block_race", launch, 1).is_empty(), "{launch:?}");
    }
}
