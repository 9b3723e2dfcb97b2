//! How long each operation takes on a CUDA device, one after the other as in a recorded step: `cargo test --features cuda -- --ignored cuda_timing`.

use super::device::{Arg, At, Device, Kernel, Launch, Operation, Product};
use super::{CudaDevice, GpuBackend, GpuOptions, Half};
use crate::ops::{AttentionShape, Backend, DType, KvType, PackedBatch, PageShape, StepNeeds, WeightType};
use std::time::Instant;

const REPEATS: u32 = 50;

/// Kernels that start before the one before has ended, and such that do not.
fn backends() -> [(&'static str, GpuBackend<CudaDevice>); 2] {
    let options = GpuOptions { half: Half::Bf16, is_batch_invariant: false, threads: 1, positions: 2048 };
    ["early", "in turn"].map(|name| {
        let mut device = CudaDevice::open(0).unwrap();
        device.starts_early &= name == "early";
        (name, GpuBackend::new(device, options).unwrap())
    })
}

/// Microseconds of what `send` sends, the best of some recordings of many.
fn microseconds(backend: &GpuBackend<CudaDevice>, send: &mut dyn FnMut()) -> f64 {
    send();
    backend.end_step().unwrap();
    backend.device.begin_recording().unwrap();
    (0..REPEATS).for_each(|_| send());
    let recording = backend.device.end_recording().unwrap();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        backend.device.wait().unwrap();
        let start = Instant::now();
        backend.device.replay(&recording).unwrap();
        backend.device.wait().unwrap();
        best = best.min(start.elapsed().as_secs_f64());
    }
    backend.end_step().unwrap();
    best * 1e6 / f64::from(REPEATS)
}

/// Weights beyond what caches hold, so that every product reads its own from memory.
const WEIGHT_BYTES: usize = 256 << 20;

/// Shapes of the products of the 270M's last layer, of its head, and of the 1.1B's widest layer.
const PRODUCTS: [(usize, usize); 6] = [(1920, 1280), (1280, 1280), (10240, 1280), (1280, 5120), (32000, 1280), (16384, 2048)];

#[test]
#[ignore = "a measurement"]
fn cuda_timing_of_products() {
    backends().iter().for_each(|(name, backend)| products(name, backend));
}

fn products(name: &str, backend: &GpuBackend<CudaDevice>) {
    for (outputs, inputs) in PRODUCTS {
        let bytes = outputs * inputs * 2;
        let copies = WEIGHT_BYTES / bytes + 1;
        let weights = backend.device.allocate(bytes * copies, "weights").unwrap();
        for rows in [1, 2, 4, 8, 9, 16, 64] {
            let x = backend.operand(rows, inputs, &[]).unwrap();
            let out = backend.buffer(rows, outputs).unwrap();
            let turn = std::cell::Cell::new(0);
            let product = || Product {
                weight: At { memory: &weights, offset: bytes * turn.replace((turn.get() + 1) % copies) },
                x: At::start(&x.memory),
                out: At::start(&out.memory),
                rows,
                inputs,
                outputs,
                half: Half::Bf16,
                is_added: true,
            };
            let ours = microseconds(backend, &mut || backend.device.multiply(&product()).unwrap());
            let blas = microseconds(backend, &mut || backend.device.multiply_by_blas(&product()).unwrap());
            let bytes = bytes as f64;
            println!(
                "{name}: product {outputs}x{inputs} rows {rows}: {ours:.2} us ({:.0} GB/s), cuBLAS {blas:.2} us ({:.0} GB/s)",
                bytes / ours / 1e3,
                bytes / blas / 1e3
            );
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn cuda_timing_of_attention_and_the_rest() {
    backends().iter().for_each(|(name, backend)| attention_and_the_rest(name, backend));
}

fn attention_and_the_rest(kind: &str, backend: &GpuBackend<CudaDevice>) {
    let (shape, width) = (AttentionShape { q_heads: 20, kv_heads: 5, head_dim: 64 }, 1280);
    let needs = StepNeeds { rows: 2048, positions: 2048, attention: vec![shape], widest_product: 10240, vocabulary: 32000 };
    backend.reserve(&needs).unwrap();
    let blocks = 64 * 64;
    let page = PageShape { num_blocks: blocks, block_size: 32, kv_heads: 5, head_dim: 64, stored: KvType::Scalar(DType::Bf16) };
    let mut pages = backend.pages(page).unwrap();
    let (mut qkv, hidden) = (backend.buffer(2048, shape.qkv_width()).unwrap(), backend.buffer(2048, width).unwrap());
    let mut operand = backend.operand(2048, width, &[]).unwrap();
    let gain = backend.vector(&vec![1.0; width]).unwrap();
    let rope = backend.rope(2048, 64, 1e4).unwrap();
    for (sequences, rows, context) in
        [(1, 1, 100), (1, 1, 500), (1, 1, 2000), (16, 1, 500), (64, 1, 500), (64, 1, 2000), (1, 512, 0), (1, 2048, 0), (4, 512, 0)]
    {
        let mut batch = PackedBatch::new(32);
        for sequence in 0..sequences {
            batch.push(&vec![1; rows], context, (0..64u32).map(|block| (block * 64 + sequence) % blocks as u32));
        }
        backend.begin_step(&batch);
        let all = batch.rows();
        let name = format!("{sequences} x {rows} rows at {context}");
        let store = microseconds(backend, &mut || backend.qk_norm_rope_store(&mut qkv, (shape, None), &rope, &batch, &mut pages));
        let attention = microseconds(backend, &mut || {
            backend.paged_attention(&qkv, shape, &batch, &pages, (&mut operand, WeightType::Scalar(DType::Bf16)));
        });
        let norm = microseconds(backend, &mut || {
            backend.rms_norm(&hidden, (&gain, 1e-6), all, (&mut operand, WeightType::Scalar(DType::Bf16)));
        });
        println!("{kind}, {name}: store {store:.2} us, attention {attention:.2} us, norm {norm:.2} us");
    }
    let values = backend.device.allocate(2048 * 10240 * 4, "values").unwrap();
    for rows in [1, 64, 2048] {
        let args = [Arg::At(At::start(&values)), Arg::At(At::start(&operand.memory)), Arg::Int(640)];
        let kernel = Kernel { operation: Operation::Swiglu, half: Half::Bf16, head_dim: 0, queries: 0 };
        let launch = Launch { kernel, grid: [3, rows, 1], threads: 256, args: &args };
        println!("{kind}, swiglu of {rows}: {:.2} us", microseconds(backend, &mut || backend.device.launch(&launch).unwrap()));
    }
}

/// What [`super::recorder::RECORDING_BYTES`] must cover.
#[test]
#[ignore = "a measurement"]
fn cuda_memory_of_recordings() {
    const COUNT: u64 = 64;
    let [(_, backend), _] = &backends();
    let device = &backend.device;
    let memory = device.allocate(1 << 20, "values").unwrap();
    let args = [Arg::At(At::start(&memory)), Arg::At(At::start(&memory)), Arg::Int(64)];
    let kernel = Kernel { operation: Operation::Silu, half: Half::Bf16, head_dim: 0, queries: 0 };
    let launch = Launch { kernel, grid: [1, 1, 1], threads: 256, args: &args };
    device.launch(&launch).unwrap();
    device.wait().unwrap();
    let before = device.free_bytes().unwrap();
    let recordings: Vec<_> = (0..COUNT)
        .map(|_| {
            device.begin_recording().unwrap();
            (0..400).for_each(|_| device.launch(&launch).unwrap());
            let recording = device.end_recording().unwrap();
            device.replay(&recording).unwrap();
            recording
        })
        .collect();
    device.wait().unwrap();
    let taken = before.saturating_sub(device.free_bytes().unwrap());
    println!("{} recordings of 400 launches: {} bytes each", recordings.len(), taken / COUNT);
}
