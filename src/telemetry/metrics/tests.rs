//! The page is parsed strictly, as Prometheus would, and a little more.

use super::rate::SlidingRate;
use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// Histograms whose name vLLM ends like a counter's.
const TOTAL_BUT_NOT_COUNTER: [&str; 1] = ["vllm:iteration_tokens_total"];

#[derive(Debug, Default)]
struct Family {
    kind: String,
    /// (name, labels) to value.
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

fn is_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect("a label has a quoted value");
        assert!(is_name(name) && !name.contains(':'), "label name {name}");
        let mut escaped = false;
        let end = value.find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        let end = end.expect("a label value is closed");
        assert!(labels.insert(name.to_owned(), value[..end].to_owned()).is_none(), "label {name} twice");
        rest = value[end + 1..].strip_prefix(',').unwrap_or(&value[end + 1..]);
    }
    labels
}

/// Parses a page and checks everything about it that does not depend on values.
fn parse(page: &str) -> BTreeMap<String, Family> {
    assert!(page.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help text");
            assert!(!text.trim().is_empty() && helped.insert(name.to_owned()), "help of {name}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(is_name(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helped.contains(name), "{name} has no help before its type");
            let family = Family { kind: kind.to_owned(), ..Family::default() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} twice");
            current = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = match series.split_once('{') {
                Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect("closed labels"))),
                None => (series, BTreeMap::new()),
            };
            let family = families.get_mut(&current).expect("samples follow a type");
            let suffix = name.strip_prefix(&*current).unwrap_or_else(|| panic!("{name} among the samples of {current}"));
            let allowed: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&suffix), "{line}");
            let value: f64 = value.parse().expect("a number");
            assert!(family.samples.insert((name.to_owned(), labels), value).is_none(), "{series} twice");
        }
    }
    for (name, family) in &families {
        check_family(name, family);
    }
    families
}

fn check_family(name: &str, family: &Family) {
    assert!(!family.samples.is_empty(), "{name} has no samples");
    let ends_like_counter = name.ends_with("_total") && !TOTAL_BUT_NOT_COUNTER.contains(&name);
    assert_eq!(family.kind == "counter", ends_like_counter, "{name} is a {}", family.kind);
    if family.kind == "histogram" {
        check_histogram(name, family);
    }
}

fn check_histogram(name: &str, family: &Family) {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for ((sample, labels), value) in family.samples.iter().filter(|((sample, _), _)| sample.ends_with("_bucket")) {
        let mut labels = labels.clone();
        let bound = labels.remove("le").unwrap_or_else(|| panic!("{sample} without le"));
        series.entry(labels).or_default().push((bound.parse().unwrap(), *value));
    }
    for (labels, mut buckets) in series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{name}: {buckets:?}");
        let last = buckets.last().unwrap();
        let count = family.samples[&(format!("{name}_count"), labels.clone())];
        assert!(last.0.is_infinite() && last.1 == count, "{name}: {last:?}, count {count}");
        assert!(family.samples.contains_key(&(format!("{name}_sum"), labels)), "{name} has no sum");
    }
}

/// Every method once.
fn filled() -> Arc<Metrics> {
    let metrics = Metrics::new("open\"elm\\270m");
    metrics.set_startup(Duration::from_millis(1500));
    let config = CacheConfig { block_size: 32, num_blocks: 100, cache_dtype: "bfloat16", enable_prefix_caching: true };
    metrics.set_cache_config(config);
    metrics.set_cache_config(CacheConfig { num_blocks: 200, ..config });
    metrics.set_load(EngineLoad { running: 3, waiting: 2, kv_cache_usage: 0.25 });
    metrics.step(Duration::from_millis(20), 64);
    metrics.step_operations(&["attention", "head", "sampling"]).add([3, 0, 1].map(Duration::from_millis).into_iter());
    metrics.step_operations(&["attention"]).add([Duration::from_millis(2)].into_iter());
    metrics.step_failed();
    metrics.prefix_cache(100, 64);
    metrics.preempted(2);
    metrics.rejected(Rejection::Tokens);
    metrics.first_scheduled(Duration::from_micros(300));
    metrics.prompt_processed(36, 64);
    metrics.generated(5, Instant::now());
    metrics.first_token(Duration::from_millis(3));
    metrics.next_token(Duration::from_millis(2));
    metrics.ended(Outcome::Stop);
    metrics.finished(&FinishedSequence {
        e2e: Duration::from_millis(15),
        inference: Duration::from_millis(14),
        prefill: Some(Duration::from_millis(4)),
        decode: Some(Duration::from_millis(10)),
        prompt_tokens: 100,
        cached_tokens: 64,
        generation_tokens: 5,
        max_tokens: 16,
        preemptions: 1,
    });
    metrics.prompt_ended(2, 5);
    for (status, seconds) in [(200, 0.02), (503, 70.0)] {
        let duration = Duration::from_secs_f64(seconds);
        metrics.http_request(&HttpRequest {
            handler: "/v1/completions",
            method: "POST",
            status,
            duration,
            request_bytes: 120,
            response_bytes: 4000,
        });
    }
    metrics
}

fn value(families: &BTreeMap<String, Family>, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let is_wanted =
        |labels: &BTreeMap<String, String>| wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|found| found == value));
    let samples = families.values().flat_map(|family| &family.samples);
    let mut found = samples.filter(|((sample, labels), _)| sample == name && is_wanted(labels));
    let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} {wanted:?}"));
    assert!(found.next().is_none(), "{name} {wanted:?} is ambiguous");
    *value
}

/// Name, some labels, value.
type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

#[test]
fn an_empty_page_is_valid() {
    let metrics = Metrics::new("m");
    // The engine names them before it begins.
    let _operations = metrics.step_operations(&["attention"]);
    let families = parse(&metrics.render());
    assert_eq!(value(&families, "openelm:step_operation_seconds_total", &[("operation", "attention"), ("model_name", "m")]), 0.0);
    for reason in ["stop", "length", "abort", "error"] {
        assert_eq!(
            value(&families, "vllm:request_success_total", &[("finished_reason", reason), ("model_name", "m"), ("engine", "0")]),
            0.0
        );
    }
    for reason in ["max_num_queued_reqs", "max_num_queued_tokens"] {
        assert_eq!(value(&families, "vllm:admission_rejections_total", &[("reason", reason)]), 0.0);
    }
}

#[test]
fn a_filled_page_is_valid_and_says_what_happened() {
    let families = parse(&filled().render());
    let expected: &[Expected<'_>] = &[
        ("vllm:num_requests_running", &[("model_name", "open\\\"elm\\\\270m"), ("engine", "0")], 3.0),
        ("vllm:num_requests_waiting", &[], 2.0),
        ("vllm:num_requests_waiting_by_reason", &[("reason", "capacity")], 2.0),
        ("vllm:kv_cache_usage_perc", &[], 0.25),
        ("vllm:engine_sleep_state", &[("sleep_state", "awake")], 1.0),
        (
            "vllm:cache_config_info",
            &[("block_size", "32"), ("num_gpu_blocks", "200"), ("cache_dtype", "bfloat16"), ("enable_prefix_caching", "True")],
            1.0,
        ),
        ("vllm:prompt_tokens_total", &[], 100.0),
        ("vllm:prompt_tokens_cached_total", &[], 64.0),
        ("vllm:prompt_tokens_by_source_total", &[("source", "local_compute")], 36.0),
        ("vllm:prompt_tokens_by_source_total", &[("source", "local_cache_hit")], 64.0),
        ("vllm:generation_tokens_total", &[], 5.0),
        ("vllm:prefix_cache_queries_total", &[], 100.0),
        ("vllm:prefix_cache_hits_total", &[], 64.0),
        ("vllm:num_preemptions_total", &[], 2.0),
        ("vllm:request_success_total", &[("finished_reason", "stop")], 1.0),
        ("vllm:admission_rejections_total", &[("reason", "max_num_queued_tokens")], 1.0),
        ("openelm:step_failures_total", &[], 1.0),
        ("openelm:step_seconds_count", &[], 1.0),
        ("vllm:iteration_tokens_total_sum", &[], 64.0),
        ("openelm:step_operation_seconds_total", &[("operation", "attention"), ("engine", "0")], 0.005),
        ("openelm:step_operation_seconds_total", &[("operation", "head")], 0.0),
        ("openelm:step_operation_seconds_total", &[("operation", "sampling")], 0.001),
        ("vllm:time_to_first_token_seconds_bucket", &[("le", "0.005")], 1.0),
        ("vllm:time_to_first_token_seconds_bucket", &[("le", "0.0025")], 0.0),
        ("vllm:inter_token_latency_seconds_count", &[], 1.0),
        ("vllm:request_time_per_output_token_seconds_sum", &[], 0.002_5),
        ("vllm:e2e_request_latency_seconds_sum", &[], 0.015),
        ("vllm:request_queue_time_seconds_count", &[], 1.0),
        ("vllm:request_inference_time_seconds_count", &[], 1.0),
        ("vllm:request_prefill_time_seconds_sum", &[], 0.004),
        ("vllm:request_decode_time_seconds_sum", &[], 0.01),
        ("vllm:request_prompt_tokens_sum", &[], 100.0),
        ("vllm:request_generation_tokens_sum", &[], 5.0),
        ("vllm:request_max_num_generation_tokens_sum", &[], 5.0),
        ("vllm:request_params_max_tokens_sum", &[], 16.0),
        ("vllm:request_params_n_sum", &[], 2.0),
        ("vllm:request_prefill_kv_computed_tokens_sum", &[], 36.0),
        ("vllm:request_num_preemptions_sum", &[], 1.0),
        ("http_requests_total", &[("handler", "/v1/completions"), ("method", "POST"), ("status", "503")], 1.0),
        ("http_request_duration_seconds_bucket", &[("handler", "/v1/completions"), ("le", "60")], 1.0),
        ("http_request_duration_highr_seconds_count", &[], 2.0),
        ("http_request_size_bytes_sum", &[("handler", "/v1/completions")], 240.0),
        ("http_response_size_bytes_sum", &[("handler", "/v1/completions")], 8000.0),
        ("startup_seconds", &[], 1.5),
        ("openelm:generation_tokens_per_second", &[], 5.0),
    ];
    for (name, labels, expected) in expected {
        assert_eq!(value(&families, name, labels), *expected, "{name} {labels:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_described() {
    let families = parse(&Metrics::new("m").render());
    assert!(value(&families, "process_resident_memory_bytes", &[]) > 0.0);
    assert!(value(&families, "process_open_fds", &[]) > 0.0);
    assert!(families.contains_key("process_cpu_seconds_total"));
}

#[test]
fn buckets_ascend_and_contain_those_of_vllm() {
    let all = [
        buckets::TIME_TO_FIRST_TOKEN,
        buckets::INTER_TOKEN,
        buckets::REQUEST,
        buckets::STEP,
        buckets::REQUEST_TOKENS,
        buckets::CHOICES,
        buckets::PREEMPTIONS,
        buckets::STEP_TOKENS,
        buckets::HTTP,
        buckets::BYTES,
    ];
    assert!(all.iter().all(|bounds| bounds.windows(2).all(|pair| pair[0] < pair[1])));
    let contains = |bounds: &[f64], wanted: &[f64]| wanted.iter().all(|bound| bounds.contains(bound));
    let first_token = [
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
    ];
    assert!(contains(buckets::TIME_TO_FIRST_TOKEN, &first_token));
    let inter_token = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
    assert!(contains(buckets::INTER_TOKEN, &inter_token));
    let request =
        [0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0];
    assert!(contains(buckets::REQUEST, &request));
}

#[test]
fn the_rate_follows_ten_seconds_and_falls_to_zero() {
    let origin = Instant::now();
    let at = |millis: u64| origin + Duration::from_millis(millis);
    let mut rate = SlidingRate::new(origin);
    assert_eq!(rate.per_second(at(0)), 0.0);
    for step in 0..300 {
        rate.add(10, at(step * 100));
    }
    let steady = rate.per_second(at(30_000));
    assert!((95.0..=105.0).contains(&steady), "{steady}");
    assert!(rate.per_second(at(35_000)) < steady);
    assert_eq!(rate.per_second(at(41_000)), 0.0);
    rate.add(7, at(50_000));
    assert_eq!(rate.per_second(at(50_200)), 7.0, "a burst is not divided by time before it");
}
