//! A report for the tests of what shows one.

use super::report::*;
use super::statistics::Summary;

/// Three rounds around `median`.
fn around(median: f64, spread: f64) -> Summary {
    Summary::of(vec![median - spread, median + spread, median]).expect("three rounds")
}

fn profile(products: f64) -> Vec<OpShare> {
    [("products", products), ("attention", 1.0 - products)].map(|(name, share)| OpShare { operation: name.to_owned(), share }).to_vec()
}

fn decode(sequences: usize, context_tokens: usize) -> Decode {
    let share = 0.13 * sequences as f64;
    Decode {
        sequences,
        context_tokens,
        steps: 16,
        tokens_per_s: around(60.0 * sequences as f64, 1.0),
        step_ms: around(16.7, 0.1),
        share_of_read: Some(around(1.0, 0.0)),
        share_of_peak: Some(around(share, 0.0)),
        profile: profile(0.5),
    }
}

fn http(clients: usize, errors: usize) -> Http {
    let figures = HttpFigures {
        output_tokens_per_s: around(50.0 + clients as f64, 1.0),
        ttft_p50_ms: around(200.0 * clients as f64, 1.0),
        ttft_p99_ms: around(300.0 * clients as f64, 1.0),
        inter_token_p50_ms: Some(around(17.0, 1.0)),
        inter_token_p99_ms: Some(around(20.0, 1.0)),
        share_of_peak: Some(around(0.5, 0.0)),
    };
    Http { clients, prompt_tokens: 128, output_tokens: 64, requests_per_round: 8, errors, figures: Some(figures) }
}

/// A whole report.
pub(super) fn report() -> Report {
    let model = Model {
        name: "demo".to_owned(),
        parameters: 5_070_000,
        weight_bytes: 10_140_000,
        weight_bytes_per_step: 10_000_000,
        flops_per_token: 1e7,
        dtype: "bfloat16".to_owned(),
        kv_cache_dtype: "bfloat16".to_owned(),
        kv_bytes_per_token: 1024,
        kernels: "cpu avx512 (2 threads)".to_owned(),
        instruction: Some(Instruction::F32Fma),
        max_model_len: 512,
    };
    let limits = Limits {
        buffer_bytes: 128 << 20,
        read_gb_per_s: around(30.0, 1.0),
        f32_fma_gflops: around(230.0, 1.0),
        bf16_dot_gflops: Some(around(460.0, 1.0)),
        int8_dot_gops: None,
    };
    let prefill = Prefill {
        prompt_tokens: 512,
        step_tokens: 512,
        tokens_per_s: around(430.0, 1.0),
        gflops: around(200.0, 1.0),
        share_of_peak: Some(around(0.8, 0.0)),
        profile: profile(0.25),
    };
    Report {
        schema: SCHEMA,
        version: "0.1.0".to_owned(),
        date: "Sun, 06 Nov 1994 08:49:37 GMT".to_owned(),
        unix_time_s: 784_111_777,
        machine: Machine { cpu: "Some CPU".to_owned(), cores: 2, threads: 2, memory_bytes: 4 << 30 },
        model: Some(model),
        url: None,
        rounds: 3,
        min_round_ms: 1000,
        sampling: Sampling { temperature: 0.0, top_p: 1.0, logprobs: None },
        limits: Some(limits),
        prefill: vec![prefill],
        decode: vec![decode(1, 128), decode(2, 128), decode(8, 128), decode(1, 480), decode(2, 480), decode(8, 480)],
        http: vec![http(1, 0), http(4, 1)],
    }
}
