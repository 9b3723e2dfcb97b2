//! Flags, variables and file to what `--check-config` prints; mistakes and exit status.

use super::*;
use openelm_server::ops::cpu::{CpuBackend, CpuKernels};
use std::fs;

#[test]
fn check_config_prints_everything_and_its_output_is_valid_input() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = "max_num_seqs = 7\nport = 7\nshutdown-timeout = 1.5\n";
    fs::write(directory.path().join("server.toml"), file).expect("written");
    let arguments = ["--check-config", "--config", "server.toml", "--port", "9", "--no-enable-prefix-caching"];
    let variables = [("OPENELM_PORT", "8"), ("OPENELM_MAX_NUM_SEQS", "8"), ("OPENELM_API_KEY", "sk-hidden,sk-secret")];
    let first = run_in(directory.path(), &arguments, &variables);
    assert_eq!((first.status, first.err.as_str()), (Some(0), ""));
    let values = ["port", "max-num-seqs", "shutdown-timeout", "enable-prefix-caching", "host"].map(|key| first.value(key));
    assert_eq!(values, ["9", "8", "\"1500ms\"", "false", "\"127.0.0.1\""]);
    assert!(first.out.contains("port = 9 # --port\n") && first.out.contains("# server.toml:3: shutdown-timeout\n"), "{}", first.out);
    assert!(first.out.contains("# api-key: 2 given, not shown") && !first.out.contains("sk-"), "{}", first.out);

    fs::write(directory.path().join("again.toml"), &first.out).expect("written");
    let again = run_in(directory.path(), &["serve", "--check-config"], &[("OPENELM_CONFIG", "again.toml")]);
    assert_eq!(again.status, Some(0), "{}", again.err);
    let settings = |text: &str| text.lines().filter_map(|line| line.split(" # ").next().map(str::to_owned)).collect::<Vec<_>>();
    let (mut first, mut again) = (settings(&first.out), settings(&again.out));
    // The keys of the API are the one thing that is not repeated.
    for settings in [&mut first, &mut again] {
        settings.retain(|line| !line.contains("api-key"));
    }
    assert_eq!(first, again);
}

#[test]
fn serve_is_the_default_subcommand() {
    let (with, without) = (run(&["serve", "--port", "1", "--check-config"], &[]), run(&["--port", "1", "--check-config"], &[]));
    assert_eq!((with.status, without.status), (Some(0), Some(0)));
    assert_eq!(with.out, without.out);
    assert_eq!(with.value("port"), "1");
}

#[test]
fn the_example_file_is_the_defaults() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/openelm-server.toml");
    let with = run(&["--config", example, "--check-config"], &[]);
    assert_eq!(with.status, Some(0), "{}", with.err);
    assert_eq!(with.out, run(&["--check-config"], &[]).out);
}

#[test]
fn all_mistakes_come_together_on_standard_error_with_status_2() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("server.toml"), "prot = 1\nblock-size = 48\n").expect("written");
    let arguments = ["serve", "no/such", "--config", "server.toml", "--port", "http", "--check-config"];
    let ended = run_in(directory.path(), &arguments, &[("OPENELM_DTYPE", "int4"), ("OPENELM_THREDS", "2")]);
    assert_eq!((ended.status, ended.out.as_str()), (Some(2), ""));
    assert!(ended.err.starts_with("error: the configuration has 6 mistakes:\n"), "{}", ended.err);
    let parts = [
        "  server.toml:1: prot: no such key; did you mean `port`?\n",
        "  OPENELM_THREDS: no such variable; did you mean `OPENELM_THREADS`?\n",
        "  --port: \"http\": expected a whole number from 0 to 65535\n",
        "  OPENELM_DTYPE: \"int4\": expected one of auto, float32, bfloat16, float16\n",
        "  server.toml:2: block-size: \"48\": expected a multiple of 32 from 32 to 4096\n",
        "  MODEL: \"no/such\": no such directory",
    ];
    for part in parts {
        assert!(ended.err.contains(part), "{part} in {}", ended.err);
    }
}

#[test]
fn unknown_flags_and_commands_name_the_nearest() {
    for (arguments, meant) in
        [(&["--max-num-seq", "1"][..], "--max-num-seqs"), (&["serv"], "serve"), (&["serve", "--chek-config"], "--check-config")]
    {
        let ended = run(arguments, &[]);
        assert_eq!((ended.status, ended.out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(ended.err.contains(meant), "{arguments:?}: {}", ended.err);
    }
}

#[test]
fn keys_of_the_api_are_in_no_message() {
    let ended = run(&["--api-key", "sk-se cret", "--api-key", "", "--port", "x"], &[]);
    assert_eq!(ended.status, Some(2));
    assert!(!ended.err.contains("sk-se") && ended.err.contains("visible ASCII") && ended.err.contains("empty key"), "{}", ended.err);
}

#[test]
fn a_model_that_is_not_there_is_refused_before_anything_is_bound() {
    let ended = run(&["serve", "apple/OpenELM-270M-Instruct", "--port", "0"], &[]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.err.contains("hf download apple/OpenELM-270M-Instruct --local-dir DIR"), "{}", ended.err);
}

#[test]
fn help_and_version_go_to_standard_output_with_status_0() {
    let version = run(&["--version"], &[]);
    assert_eq!((version.status, version.out), (Some(0), format!("openelm-server {}\n", env!("CARGO_PKG_VERSION"))));
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let help = run(arguments, &[]);
        assert_eq!((help.status, help.err.as_str()), (Some(0), ""));
        for part in ["--max-num-seqs", "OPENELM_MAX_NUM_SEQS", "--no-enable-prefix-caching", "--config", "Scheduling"] {
            assert!(help.out.contains(part), "{part} in {}", help.out);
        }
    }
}

#[test]
fn the_description_of_the_api_is_printed() {
    let ended = run(&["openapi"], &[]);
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.starts_with("openapi: ") && ended.out.contains("/v1/chat/completions"), "{}", ended.out);
}

#[test]
fn a_port_that_is_taken_is_a_failure_with_status_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let port = taken.local_addr().expect("bound").port().to_string();
    let ended = run(&["--port", &port, "--log-level", "error"], &[]);
    assert_eq!((ended.status, ended.out.as_str()), (Some(1), ""));
    let expected = format!("error: cannot listen on 127.0.0.1 port {port}: another process listens there");
    assert!(ended.err.starts_with(&expected) && ended.err.lines().count() == 1, "{}", ended.err);
}

#[test]
fn devices_that_are_not_there_are_refused_by_their_flag() {
    let cuda = ("cuda:200", if cfg!(feature = "cuda") { "CUDA" } else { "this build has no CUDA" });
    // A Mac has one GPU, which cannot be missing.
    let metal = (!cfg!(feature = "metal")).then_some(("metal", "this build has no Metal: on macOS, build it with"));
    for (device, problem) in metal.into_iter().chain([cuda]) {
        let ended = run(&["--device", device, "--port", "0", "--log-level", "error"], &[]);
        let expected = format!("error: --device is {device}; ");
        assert!(ended.err.starts_with(&expected) && ended.err.contains(problem), "{}", ended.err);
    }
    let ended = run(&["--device", "gpu", "--check-config"], &[]);
    assert!(ended.err.contains("--device: \"gpu\": expected auto, cpu, cuda, cuda:N or metal"), "{}", ended.err);
}

/// On a CPU that has the instructions there is nothing to refuse.
#[test]
fn kernels_that_the_cpu_lacks_are_refused_by_their_flag() {
    let ended = run(&["--cpu-kernels", "avx512", "--check-config"], &[]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.err.contains("--cpu-kernels: \"avx512\": expected one of auto, portable, avx512-bf16"), "{}", ended.err);
    if CpuBackend::new(CpuKernels::Avx512Bf16, 1).is_err() {
        let ended = run(&["--cpu-kernels", "avx512-bf16", "--port", "0", "--log-level", "error"], &[]);
        assert_eq!((ended.status, ended.out.as_str()), (Some(1), ""));
        let expected = "error: --cpu-kernels is avx512-bf16; this CPU has no AVX512_BF16: use `auto` or `portable`\n";
        assert_eq!(ended.err, expected);
    }
}
