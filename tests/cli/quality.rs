//! `quality`: a table and JSON of what fewer bits cost, and mistakes that name their flag. And `quantize --calibration`, which it judges.

use super::{run, run_in};
use serde_json::Value;
use std::fs;
use std::path::Path;

const SHORT: [&str; 4] = ["--tokens", "60", "--window", "64"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The report that `arguments` write, which measure the demo model.
fn report(directory: &Path, arguments: &[&str]) -> Value {
    let arguments = [&["quality"], &SHORT[..], arguments, &["--output-json", "q.json"]].concat();
    let ended = run_in(directory, &arguments, &[]);
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    let names: Vec<&str> = ended.out.lines().skip(3).filter_map(|line| line.split_whitespace().next()).collect();
    let text = fs::read_to_string(directory.join("q.json")).expect("written");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let candidates = report["candidates"].as_array().expect("a list");
    assert_eq!(names[0], "f32");
    assert!(candidates.iter().map(|candidate| &candidate["weights"]).eq(names[1..].iter().copied()), "{}", ended.out);
    report
}

fn divergence(report: &Value, index: usize) -> f64 {
    report["candidates"][index]["kl_divergence_nats"].as_f64().expect("a number")
}

#[test]
fn of_the_demo_model_prints_a_line_for_each_and_writes_json() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let report = report(directory.path(), &["--candidates", "q8_0,q4_0"]);
    assert_eq!((&report["scored_tokens"], &report["window_tokens"], &report["seed"]), (&62.into(), &64.into(), &0.into()));
    assert!(0.0 < divergence(&report, 0) && divergence(&report, 0) < divergence(&report, 1), "{report}");
}

#[test]
fn with_several_kv_caches_compares_each_candidate_with_each_but_none_twice() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let report = report(directory.path(), &["--candidates", "f32,q8_0,f32", "--kv-cache-dtype", "auto,float32,int8"]);
    let pairs = report["candidates"].as_array().expect("a list").iter();
    let pairs: Vec<_> = pairs.map(|one| [&one["weights"], &one["kv_cache_dtype"]].map(|word| word.as_str().expect("a word"))).collect();
    // Beside blocks the demo model is bfloat16, so that is the cache it is served with.
    let wanted = [["f32", "float32"], ["f32", "int8"], ["q8_0", "bfloat16"], ["q8_0", "float32"], ["q8_0", "int8"]];
    assert_eq!(pairs, wanted);
    assert_eq!(divergence(&report, 0), 0.0, "the reference itself");
    assert!(0.0 < divergence(&report, 1) && divergence(&report, 1) < divergence(&report, 3), "{report}");
    assert!((2..5).all(|one| divergence(&report, one) != divergence(&report, 0)) && divergence(&report, 3) != divergence(&report, 4));
    let ended = run_in(directory.path(), &["quality", "--kv-cache-dtype", "int9"], &[]);
    assert!(ended.status == Some(2) && ended.err.contains("did you mean `int8`"), "{}", ended.err);
}

#[test]
fn of_files_calibration_brings_four_bits_nearer() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let demo = root().join("models/demo").display().to_string();
    let write = |file: &str, more: &[&str]| {
        let ended = run_in(directory.path(), &[&["quantize", &demo, file, "--type", "q4_0"], more].concat(), &[]);
        assert_eq!(ended.status, Some(0), "{}", ended.err);
    };
    write("plain.gguf", &["--scales", "plain"]);
    write("calibrated.gguf", &["--calibration", "self", "--calibration-tokens", "4000"]);
    let report = report(directory.path(), &["--candidates", "q4_0,plain.gguf,calibrated.gguf"]);
    assert_eq!(divergence(&report, 0), divergence(&report, 1), "the plain rule is that of the load");
    assert!(divergence(&report, 2) < 0.8 * divergence(&report, 1), "{report}");
    // The reference of a file is its blocks, widened.
    let ended = run_in(directory.path(), &[&["quality", "plain.gguf", "--candidates", "plain.gguf,f32"][..], &SHORT].concat(), &[]);
    let last = ended.out.lines().last().unwrap_or_default();
    assert!(last.starts_with("f32 ") && last.contains("0.000000 ± 0.000000"), "{}{}", ended.out, ended.err);
}

#[test]
fn of_a_text_reads_its_words() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("words.txt"), "Once upon a time there was a fox. ".repeat(30)).expect("written");
    let of = |file: &str| run_in(directory.path(), &[&["quality", "--text", file, "--candidates", "bf16"][..], &SHORT].concat(), &[]);
    let ended = of("words.txt");
    assert!(ended.status == Some(0) && ended.out.starts_with("62 tokens in windows of 64"), "{}{}", ended.out, ended.err);
    fs::write(directory.path().join("few.txt"), "A fox.").expect("written");
    let ended = of("few.txt");
    assert!(ended.status == Some(1) && ended.err.contains("the text few.txt: the text has "), "{}", ended.err);
    let ended = of("none.txt");
    assert!(ended.status == Some(1) && ended.err.contains("the text none.txt: "), "{}", ended.err);
    fs::write(directory.path().join("bytes.txt"), [0xff, 0xfe]).expect("written");
    let ended = of("bytes.txt");
    assert!(ended.status == Some(1) && ended.err.contains("the text bytes.txt: "), "{}", ended.err);
}

/// The tokenizer has 3,072 tokens, this model 384: it would read behind its embedding.
#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("words.txt"), "Once upon a time there was a fox. ".repeat(30)).expect("written");
    let (tiny, tokenizer) = (root().join("tests/golden/tiny-hd64-gqa4"), root().join("models/demo"));
    let (tiny, tokenizer) = (tiny.display().to_string(), tokenizer.display().to_string());
    let ended = run_in(directory.path(), &["quality", &tiny, "--tokenizer", &tokenizer, "--text", "words.txt", "--window", "32"], &[]);
    assert!(ended.status == Some(1) && ended.err.contains("they do not belong together"), "{}", ended.err);
    let output = directory.path().join("out.gguf").display().to_string();
    let calibration = ["--type", "q4_0", "--tokenizer", &tokenizer, "--calibration", "words.txt"];
    let ended = run_in(directory.path(), &[&["quantize", &tiny, &output], &calibration[..]].concat(), &[]);
    assert!(ended.status == Some(1) && ended.err.contains("they do not belong together"), "{}", ended.err);
}

#[test]
fn of_what_cannot_be_names_the_flag() {
    let tiny = root().join("tests/golden/tiny-hd64-gqa4").display().to_string();
    let long = ["--tokens", "1", "--window", "16"];
    for (arguments, status, part) in [
        (&["quality", "--tokens", "0"][..], 2, "--tokens"),
        (&["quality", "--seed", "1", "--text", "x"], 2, "--seed"),
        (&["quality", "--tokenizer", "x"], 2, "--text"),
        (&["quality", "--window", "100000"], 1, "--window 100000: the model was trained on"),
        (&["quality", "--candidates", "q9_9"], 1, "--candidates q9_9: expected f32, bf16"),
        (&["quality", "--candidates", &tiny], 1, "tokens, the reference has"),
        (&["quality", "no/such/model"], 1, "no/such/model"),
        (&["quality", "--output-json", "no/such/q.json", long[0], long[1], long[2], long[3]], 1, "--output-json no/such/q.json"),
        (&["quantize", &tiny, "x.gguf", "--type", "q8_0", "--calibration", "self"], 1, "--calibration: only the search"),
        (&["quantize", &tiny, "x.gguf", "--type", "q4_0", "--calibration", "none.txt"], 1, "--calibration none.txt"),
        (&["quantize", &tiny, "x.gguf", "--calibration-tokens", "5"], 2, "--calibration <FILE>"),
    ] {
        let ended = run(arguments, &[]);
        assert!(ended.status == Some(status) && ended.err.contains(part), "{arguments:?}: {:?} {}", ended.status, ended.err);
    }
}
