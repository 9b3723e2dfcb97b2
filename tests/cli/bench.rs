//! `bench` on the demo model: table, JSON and plot, and what is refused.

use super::*;
use serde_json::Value;
use std::fs;

const TINY: [&str; 20] = [
    "--rounds",
    "1",
    "--prefill",
    "32",
    "--batch",
    "1,2",
    "--context",
    "16",
    "--decode-steps",
    "8",
    "--min-round-ms",
    "0",
    "--http",
    "1",
    "--http-prompt-tokens",
    "8",
    "--http-output-tokens",
    "4",
    "--threads",
    "1",
];

/// Every median of `value`, with the path to it.
fn medians(value: &Value, path: &str, found: &mut Vec<(String, f64)>) {
    if let Some(median) = value.get("median") {
        found.push((path.to_owned(), median.as_f64().unwrap_or(f64::NAN)));
    }
    if let Value::Object(entries) = value {
        entries.iter().for_each(|(key, value)| medians(value, &format!("{path}/{key}"), found));
    }
    if let Value::Array(entries) = value {
        entries.iter().for_each(|value| medians(value, path, found));
    }
}

#[test]
fn of_the_demo_model_fills_table_json_and_plot() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let sampling = ["--temperature", "0.8", "--top-p", "0.9", "--logprobs", "5"];
    let arguments = [&["bench"], &TINY[..], &sampling, &["--output-json", "out.json", "--output-svg", "out.svg"]].concat();
    let ended = run_in(directory.path(), &arguments, &[("OPENELM_API_KEY", "unused")]);
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    assert!(ended.err.lines().all(|line| line.starts_with("bench: ")), "{}", ended.err);
    for part in ["openelm-server 0", "limit: f32 FMA", "prefill 32", "decode 2 at 16", "HTTP 1 clients, first token p99"] {
        assert!(ended.out.contains(part), "{part} in {}", ended.out);
    }
    let text = fs::read_to_string(directory.path().join("out.json")).expect("written");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let mut found = Vec::new();
    medians(&report, "", &mut found);
    assert!(found.len() > 15 && found.iter().all(|(_, median)| *median > 0.0), "{found:?}");
    for key in ["read_gb_per_s", "f32_fma_gflops"] {
        assert!(found.iter().any(|(path, _)| path == &format!("/limits/{key}")), "{key} in {found:?}");
    }
    let lengths = ["prefill", "decode", "http"].map(|part| report[part].as_array().map_or(0, Vec::len));
    assert_eq!((lengths, &report["http"][0]["errors"], &report["schema"]), ([1, 2, 1], &0.into(), &1.into()));
    assert_eq!((&report["decode"][0]["steps"], &report["min_round_ms"]), (&8.into(), &0.into()));
    assert_eq!(report["sampling"]["logprobs"], 5);
    assert!(ended.out.contains("decode   temperature 0.8, top-p 0.9, log-probabilities with 5 alternatives\n"), "{}", ended.out);
    let plot = fs::read_to_string(directory.path().join("out.svg")).expect("written");
    assert!(plot.starts_with("<svg") && plot.contains("sequences in a step"));
}

#[test]
fn of_what_cannot_be_names_the_flag() {
    for (arguments, status, part) in [
        (&["--batch", "1,x"][..], 2, "--batch"),
        (&["--port", "x"], 2, "--port"),
        (&["--context", "100000"], 1, "--context 100000"),
        (&["--decode-steps", "100000"], 1, "--decode-steps 100000"),
        (&["--min-round-ms", "x"], 2, "--min-round-ms"),
        (&["--prefill", "100000"], 1, "--prefill 100000"),
        (&["--http-prompt-tokens", "100000"], 1, "--http-prompt-tokens 100000"),
        (&["--output-svg", "no/such/file.svg"], 1, "--output-svg no/such/file.svg"),
        (&["--url", "https://127.0.0.1:1"], 1, "--url https://127.0.0.1:1"),
        (&["--url", "http://127.0.0.1:1"], 1, "--url http://127.0.0.1:1"),
        (&["--max-num-batched-tokens", "2", "--batch", "4", "--prefill", "none"], 1, "--max-num-batched-tokens"),
        (&["--kv-cache-memory-bytes", "4MiB", "--batch", "512"], 1, "--kv-cache-memory-bytes"),
    ] {
        let ended = run(&[&["bench", "--rounds", "1"], arguments].concat(), &[]);
        assert_eq!((ended.status, ended.out.as_str()), (Some(status), ""), "{arguments:?}: {}", ended.err);
        assert!(ended.err.contains(part), "{part} in {}", ended.err);
    }
}
