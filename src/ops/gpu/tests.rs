//! The emulated device finds what a kernel may not do, and kernels are launched as their files say.

use super::backend::{HEAD_THREADS, WIDE_THREADS};
use super::device::{Arg, At, Device};
use super::emulated::{Checks, EmulatedDevice, Language};
use super::logits::CHOOSE_THREADS;
use super::step::WARPS;
use super::{cuda_product, metal_product};

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

/// What the host and a kernel's file have to agree on.
#[test]
fn kernels_have_the_sizes_that_they_are_launched_with() {
    let attention = [
        include_str!("cuda/paged_attention.cu"),
        include_str!("metal/paged_attention.metal"),
        include_str!("cuda/attention_merge.cu"),
        include_str!("metal/attention_merge.metal"),
        include_str!("cuda/qk_norm_rope_store.cu"),
        include_str!("metal/qk_norm_rope_store.metal"),
    ];
    let has = |text: &str, name: &str, value: usize| {
        let wanted = format!("{name} = {value};");
        assert!(text.contains(&wanted), "{wanted}");
    };
    assert_eq!(HEAD_THREADS as usize, 32 * WARPS);
    for (text, name) in attention.into_iter().zip(["ATTENTION_WARPS", "MERGE_WARPS", "STORE_WARPS"].into_iter().flat_map(|name| [name; 2]))
    {
        has(text, name, WARPS);
    }
    for text in [include_str!("cuda/rms_norm.cu"), include_str!("metal/rms_norm.metal")] {
        has(text, "NORM_THREADS", WIDE_THREADS as usize);
    }
    for text in [include_str!("cuda/choose.cu"), include_str!("metal/choose.metal")] {
        has(text, "CHOOSE_THREADS", CHOOSE_THREADS as usize);
    }
    let matvec = include_str!("cuda/matvec.cu");
    has(matvec, "MATVEC_WARPS", cuda_product::WARPS as usize);
    has(matvec, "LONGEST", cuda_product::LONGEST);
    let (matvec, matmul) = (include_str!("metal/matvec.metal"), include_str!("metal/matmul.metal"));
    // Outputs of a warp, of which a block has so many.
    has(matvec, "VECTOR_WARPS", metal_product::THREADS as usize / 32);
    has(matvec, "VECTOR_OUTPUTS", metal_product::VECTOR_OUTPUTS as usize / (metal_product::THREADS as usize / 32));
    has(matmul, "MATRIX_WARPS", metal_product::THREADS as usize / 32);
    has(matmul, "MATRIX_ROWS", metal_product::MATRIX_ROWS as usize);
    has(matmul, "MATRIX_OUTPUTS", metal_product::MATRIX_OUTPUTS as usize);
}
