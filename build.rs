//! Compiles the CUDA kernels with nvcc, where the feature `cuda` asks for them.

use std::path::PathBuf;
use std::process::Command;

const KERNELS: [&str; 9] =
    ["matvec", "embed", "rms_norm", "qk_norm_rope_store", "paged_attention", "attention_merge", "activation", "gather", "choose"];

/// Machine code for A100, H100 and RTX 50; PTX for everything between and after, from 9.0 on with kernels that overlap.
const TARGETS: [&str; 5] = [
    "arch=compute_80,code=sm_80",
    "arch=compute_90,code=sm_90",
    "arch=compute_120,code=sm_120",
    "arch=compute_80,code=compute_80",
    "arch=compute_90,code=compute_90",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=src/ops/gpu/cuda");
    for name in ["NVCC", "CUDA_HOME", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for kernel in KERNELS {
        let mut command = Command::new(nvcc());
        command.args(["-fatbin", "-O3", "-std=c++17"]);
        for target in TARGETS {
            command.args(["-gencode", target]);
        }
        command.arg("-o").arg(out.join(format!("{kernel}.fatbin"))).arg(format!("src/ops/gpu/cuda/{kernel}.cu"));
        let status = command.status().unwrap_or_else(|error| {
            panic!("{command:?}: {error}: the feature `cuda` needs nvcc of CUDA 13; NVCC or CUDA_HOME says where it is")
        });
        assert!(status.success(), "{command:?} failed");
    }
}

/// `NVCC`, else that of `CUDA_HOME`, else the one on the path.
fn nvcc() -> PathBuf {
    let of_home = || std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    std::env::var_os("NVCC").map(PathBuf::from).or_else(of_home).unwrap_or_else(|| "nvcc".into())
}
