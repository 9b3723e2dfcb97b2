use super::example::example;
use super::layers::Layers;
use super::parse;
use super::render::Shown;
use super::*;
use clap::Command;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLE: &str = include_str!("../../config/openelm-server.toml");

fn command() -> Command {
    Command::new("test").args(flags()).arg(Flags::model_argument())
}

fn typed(arguments: &[&str]) -> Flags {
    let arguments = std::iter::once("test").chain(arguments.iter().copied());
    Flags::from_matches(&command().try_get_matches_from(arguments).expect("clap takes these"))
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn by_flags(arguments: &[&str]) -> Result<Resolved, ConfigError> {
    load(&typed(arguments), &BTreeMap::new())
}

fn by_variables(pairs: &[(&str, &str)]) -> Result<Resolved, ConfigError> {
    load(&Flags::default(), &variables(pairs))
}

fn by_file(text: &str) -> Result<Resolved, ConfigError> {
    let mut layers = Layers::default();
    file::parse("server.toml", text, &mut layers);
    resolve::resolve(layers)
}

fn messages(result: Result<Resolved, ConfigError>) -> Vec<String> {
    result.expect_err("there are mistakes").mistakes.iter().map(ToString::to_string).collect()
}

fn defaults() -> Config {
    by_flags(&[]).expect("defaults are valid").config
}

/// A value for each setting that is not its default, as one text. Paths exist.
fn other(key: &Key) -> &'static str {
    let root = env!("CARGO_MANIFEST_DIR");
    match (key.name, key.kind) {
        ("model", _) => "embedded",
        ("tokenizer" | "generation-config" | "weight-cache", _) => root,
        ("served-model-name", _) => "one,two",
        ("chat-template", _) => "zephyr",
        ("host", _) => "::1",
        ("api-key", _) => "sk-one,sk-two",
        ("cors-allowed-origin", _) => "https://a.example,http://b.example:8080",
        ("dtype" | "kv-cache-dtype", _) => "float32",
        ("quantization", _) => "q4_0",
        ("cpu-kernels", _) => "portable",
        ("device", _) => "cuda:1",
        ("batch-invariant", _) => "true",
        ("gpu-memory-utilization", _) => "0.5",
        ("log-level", _) => "debug",
        ("log-format", _) => "json",
        ("skip-tokenizer-init", _) => "true",
        ("enable-prefix-caching" | "async-scheduling", _) => "false",
        (name, _) if name.ends_with("-bytes") => "3MiB",
        (name, _) if name.ends_with("-timeout") || name == "sse-keep-alive" => "1500ms",
        _ => "96",
    }
}

/// The settings of `config` as texts, without the secrets.
fn shown(config: &Config) -> BTreeMap<&'static str, String> {
    config.settings().into_iter().map(|(key, shown)| (key.name, format!("{shown:?}"))).collect()
}

#[test]
fn the_contracts_defaults() {
    let config = defaults();
    assert_eq!(config.model, ModelSource::Embedded);
    assert_eq!(config.served_model_names, ["openelm-demo"]);
    assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 8000));
    assert_eq!((config.max_num_seqs, config.max_num_batched_tokens, config.block_size), (64, 512, 32));
    assert_eq!((config.max_num_queued_reqs, config.max_num_queued_tokens, config.max_choices), (256, 262_144, 128));
    assert_eq!(config.max_body_bytes, 4 << 20);
    assert_eq!((config.shutdown_timeout, config.header_timeout), (Duration::from_secs(30), Duration::from_secs(10)));
    assert_eq!((config.write_timeout, config.sse_keep_alive), (Duration::from_secs(30), Duration::from_secs(15)));
    assert!(config.enable_prefix_caching && !config.skip_tokenizer_init && config.api_keys.is_empty());
    assert_eq!((config.dtype, config.kv_cache_dtype, config.seed, config.threads), (Dtype::Auto, KvCacheDtype::Auto, None, None));
}

#[test]
fn packed_weights_are_kept_by_default_nowhere_or_in_a_directory_that_need_not_be_there() {
    let place = |text: &str| by_flags(&["--weight-cache", text]).map(|resolved| resolved.config.weight_cache);
    assert_eq!(defaults().weight_cache, WeightCache::Auto);
    assert_eq!(place("off").expect("valid"), WeightCache::Off);
    assert_eq!(place("no/such/place").expect("valid"), WeightCache::Directory("no/such/place".into()));
    assert_eq!(place("./off").expect("valid"), WeightCache::Directory("./off".into()));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (text, part) in [(file, "this is a file"), ("", "must not be empty")] {
        let found = messages(by_flags(&["--weight-cache", text]));
        assert!(found[0].contains(part) && found[0].contains("`auto` or `off`"), "{found:?}");
    }
}

#[test]
fn the_settings_shown_are_the_table() {
    let config = defaults();
    let shown: Vec<Key> = config.settings().into_iter().map(|(key, _)| key).collect();
    assert_eq!(shown.iter().collect::<Vec<_>>(), KEYS.iter().collect::<Vec<_>>());
}

#[test]
fn every_setting_is_read_from_flag_variable_and_file_alike() {
    for key in KEYS {
        let (name, text) = (format!("--{}", key.name), other(key));
        let arguments = match key.kind {
            Kind::Switch(off) => vec![if text == "true" { name } else { format!("--{off}") }],
            _ => vec![name, text.to_owned()],
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let flag = by_flags(&arguments).unwrap_or_else(|error| panic!("{}: {error}", key.name)).config;
        let variable = by_variables(&[(&key.variable(), text)]).unwrap_or_else(|error| panic!("{}: {error}", key.name)).config;
        let file = by_file(&format!("{} = {text:?}", key.name)).unwrap_or_else(|error| panic!("{}: {error}", key.name)).config;
        assert_eq!(flag, variable, "{}", key.name);
        assert_eq!(flag, file, "{}", key.name);
        if key.name != "model" {
            let (before, after) = (shown(&defaults()), shown(&flag));
            let changed: Vec<_> = before.iter().filter(|(name, value)| after[*name] != **value).map(|(name, _)| *name).collect();
            assert_eq!(changed, [key.name], "the value of a setting changes that field and no other");
        }
    }
}

#[test]
fn flags_are_the_table_and_two_more() {
    let named: Vec<String> = flags().iter().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    let mut expected = vec!["config".to_owned(), "check-config".to_owned()];
    for key in KEYS {
        expected.push(key.name.to_owned());
        if let Kind::Switch(off) = key.kind {
            assert_eq!(off, format!("no-{}", key.name));
            expected.push(off.to_owned());
        }
    }
    assert_eq!(named, expected);
    command().debug_assert();
}

#[test]
fn names_are_kebab_case_and_unique() {
    for (index, key) in KEYS.iter().enumerate() {
        assert!(key.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", key.name);
        assert!(!key.name.starts_with("no-"), "{}", key.name);
        assert!(!KEYS[..index].iter().any(|other| other.name == key.name), "{}", key.name);
        assert!(!key.help.ends_with('.') && !key.help.is_empty(), "{}", key.name);
    }
}

#[test]
fn the_example_file_is_the_one_the_table_makes() {
    if EXAMPLE != example() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/openelm-server.toml");
        std::fs::write(path, example()).expect("target is writable");
        panic!("config/openelm-server.toml is out of date; the current text is in target/openelm-server.toml, copy it over");
    }
}

#[test]
fn the_example_file_uncommented_is_the_defaults() {
    let is_setting = |line: &&str| line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase());
    let settings: Vec<&str> = EXAMPLE.lines().filter(is_setting).map(|line| &line[1..]).collect();
    assert_eq!(settings.len(), KEYS.len());
    let resolved = by_file(&settings.join("\n")).expect("the example is valid");
    assert_eq!(resolved.config, defaults());
    assert!(KEYS.iter().all(|key| matches!(resolved.origins[key.name], Origin::File { .. })), "every key stands in it");
    assert!(EXAMPLE.lines().all(|line| line.len() <= 140));
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("server.toml");
    std::fs::write(&path, "port = 1\nmax_num_seqs = 1\nblock-size = 64\n").expect("written");
    let path = path.display().to_string();
    let set = [("OPENELM_PORT", "2"), ("OPENELM_MAX_NUM_SEQS", "2"), ("OPENELM_CONFIG", path.as_str())];
    let resolved = load(&typed(&["--port", "3"]), &variables(&set)).expect("valid");
    let config = &resolved.config;
    assert_eq!((config.port, config.max_num_seqs, config.block_size, config.max_choices), (3, 2, 64, 128));
    let origins = ["port", "max-num-seqs", "block-size", "max-choices"].map(|name| resolved.origins[name].to_string());
    assert_eq!(origins, ["--port", "OPENELM_MAX_NUM_SEQS", &format!("{path}:3: block-size"), "default"]);
    // --config beats OPENELM_CONFIG.
    let error = messages(load(&typed(&["--config", "missing.toml"]), &variables(&set)));
    assert!(error[0].starts_with("--config: \"missing.toml\": cannot read the configuration file: "), "{error:?}");
}

#[test]
fn all_mistakes_are_reported_together() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("s.toml");
    std::fs::write(&path, "# comment\nmax-num-sequences = 3\nblock-size = 33\nthreads = true\n[server]\nport = 1\n").expect("written");
    let path = path.display().to_string();
    let set = variables(&[("OPENELM_DTYPE", "bfloat61"), ("OPENELM_PROT", "1"), ("OPENELM_API_KEY", ""), ("OTHER", "x")]);
    let found = messages(load(&typed(&["--config", &path, "--port", "65536", "--model", "apple/OpenELM-270M"]), &set));
    let expected = [
        format!("{path}:2: max-num-sequences: no such key; did you mean `max-num-seqs`?"),
        format!("{path}:4: threads: expected a string or a number, found boolean"),
        format!("{path}:5: server: no such key; settings stand at the top of the file, not in tables"),
        "OPENELM_PROT: no such variable; did you mean `OPENELM_PORT`?".to_owned(),
        "--port: \"65536\": expected a whole number from 0 to 65535".to_owned(),
        "OPENELM_API_KEY: an empty key would let everyone in; give one, or do not set it at all".to_owned(),
        "OPENELM_DTYPE: \"bfloat61\": expected one of auto, float32, bfloat16, float16; did you mean `bfloat16`?".to_owned(),
        format!("{path}:3: block-size: \"33\": expected a multiple of 32 from 32 to 4096"),
        "--model: \"apple/OpenELM-270M\": no such directory; to fetch it: hf download apple/OpenELM-270M --local-dir DIR, then --model DIR"
            .to_owned(),
    ];
    assert_eq!(found, expected);
}

#[test]
fn broken_toml_is_located_and_the_other_layers_are_still_checked() {
    let mut layers = Layers::default();
    file::parse("server.toml", "port = 80\nhost = = 1\n", &mut layers);
    environment::read(&variables(&[("OPENELM_PORT", "x")]), &mut layers);
    let found = messages(resolve::resolve(layers));
    assert!(found[0].starts_with("server.toml:2: not valid TOML: "), "{found:?}");
    assert_eq!(found.last().map(String::as_str), Some("OPENELM_PORT: \"x\": expected a whole number from 0 to 65535"));
    assert!(messages(by_file("port = 1\nport = 2"))[0].starts_with("server.toml:2"));
    assert_eq!(
        messages(by_file("max-num-seqs = 1\nmax_num_seqs = 2")),
        ["server.toml:2: max_num_seqs: `max-num-seqs` stands in the file twice"]
    );
}

#[test]
fn secrets_are_never_shown() {
    let resolved = by_flags(&["--api-key", "hunter2,hunter3", "--api-key", "hunter4"]).expect("valid");
    let keys: Vec<&str> = resolved.config.api_keys.iter().map(Secret::expose).collect();
    assert_eq!(keys, ["hunter2", "hunter3", "hunter4"]);
    let error = by_variables(&[("OPENELM_API_KEY", "hunter2,with space")]).expect_err("a key with a space");
    for text in [resolved.to_toml(), format!("{:?}", resolved.config), error.to_string(), format!("{:?}", error.mistakes)] {
        assert!(!text.contains("hunter") && !text.contains("with space"), "{text}");
    }
    assert!(resolved.to_toml().contains("# api-key: 3 given, not shown # --api-key"));
}

#[test]
fn what_check_config_prints_is_valid_input_with_the_same_meaning() {
    let mut arguments: Vec<String> = Vec::new();
    for key in KEYS.iter().filter(|key| !key.is_secret() && !matches!(key.kind, Kind::Switch(_))) {
        arguments.extend([format!("--{}", key.name), other(key).to_owned()]);
    }
    arguments.push("--no-enable-prefix-caching".to_owned());
    let resolved = by_flags(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).expect("valid");
    let again = by_file(&resolved.to_toml()).unwrap_or_else(|error| panic!("{error}\n{}", resolved.to_toml()));
    assert_eq!(again.config, resolved.config);
    let plain = by_flags(&[]).expect("valid");
    assert_eq!(by_file(&plain.to_toml()).expect("valid").config, plain.config);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("a \"quoted\"\\name");
    std::fs::write(&path, "").expect("written");
    let quoted = by_flags(&["--chat-template", &path.display().to_string()]).expect("valid");
    assert_eq!(by_file(&quoted.to_toml()).expect("valid").config, quoted.config);
}

#[test]
fn the_last_of_a_switch_and_its_opposite_wins() {
    assert!(by_flags(&["--no-enable-prefix-caching", "--enable-prefix-caching"]).expect("valid").config.enable_prefix_caching);
    assert!(!by_flags(&["--enable-prefix-caching", "--no-enable-prefix-caching"]).expect("valid").config.enable_prefix_caching);
    assert!(by_file("enable-prefix-caching = \"off\"").is_ok_and(|resolved| !resolved.config.enable_prefix_caching));
}

#[test]
fn the_model_may_be_an_argument_without_a_flag() {
    let error = messages(by_flags(&["missing"]));
    assert_eq!(error, ["MODEL: \"missing\": no such directory"]);
    assert!(by_flags(&["embedded", "--model", "embedded"]).is_ok());
    assert_eq!(messages(by_flags(&["embedded", "--model", "x"]))[0], "MODEL: \"embedded\": --model names another one: \"x\"");
}

#[test]
fn a_model_directory_gives_its_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let plain = directory.path().join("my-model");
    let hub = directory.path().join("models--apple--OpenELM-270M/snapshots/0123abcd");
    for path in [&plain, &hub] {
        std::fs::create_dir_all(path).expect("created");
        let path_text = path.display().to_string();
        assert!(messages(by_flags(&["--model", &path_text]))[0].contains("no config.json"));
        std::fs::write(path.join("config.json"), "{}").expect("written");
    }
    let name = |path: &PathBuf| by_flags(&["--model", &path.display().to_string()]).expect("valid").config.served_model_names;
    assert_eq!(name(&plain), ["my-model"]);
    assert_eq!(name(&plain.join(".")), ["my-model"]);
    assert_eq!(name(&hub), ["apple/OpenELM-270M"]);
    assert!(messages(by_flags(&["--model", &plain.join("config.json").display().to_string()]))[0].contains("this is a file"));
}

#[test]
fn a_gguf_file_is_a_model_by_its_ending_or_alone_in_its_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| directory.path().join(name);
    let model = |path: &PathBuf| by_flags(&["--model", &path.display().to_string()]);
    assert!(messages(model(&file("Tiny-Q8_0.gguf")))[0].contains("no such file"));
    std::fs::write(file("Tiny-Q8_0.gguf"), "").expect("written");
    let config = model(&file("Tiny-Q8_0.gguf")).expect("valid").config;
    assert_eq!((config.model, config.served_model_names), (ModelSource::File(file("Tiny-Q8_0.gguf")), vec!["Tiny-Q8_0".to_owned()]));
    let directory_itself = directory.path().to_path_buf();
    assert_eq!(model(&directory_itself).expect("valid").config.model, ModelSource::Directory(directory_itself.clone()));
    std::fs::write(file("Other.GGUF"), "").expect("written");
    assert!(messages(model(&directory_itself))[0].contains("2 GGUF files; name one"));
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    let root = env!("CARGO_MANIFEST_DIR");
    assert_eq!(messages(by_flags(&["--skip-tokenizer-init", "--tokenizer", root, "--chat-template", "plain"])).len(), 2);
    assert!(messages(by_flags(&["--tokenizer", "missing"]))[0].contains("no such file or directory"));
    assert!(messages(by_flags(&["--generation-config", "missing"]))[0].contains("`auto` or `vllm`"));
}

#[test]
fn a_liveness_timeout_that_an_idle_engine_would_miss_is_refused() {
    assert_eq!(defaults().liveness_timeout, Duration::from_secs(60));
    assert!(messages(by_flags(&["--liveness-timeout", "900ms"]))[0].contains("expected a time from 1s to "));
    assert_eq!(by_flags(&["--liveness-timeout", "1"]).expect("valid").config.liveness_timeout, Duration::from_secs(1));
}

#[test]
fn a_chat_template_that_is_neither_built_in_nor_there_is_refused_with_the_other_mistakes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let folder = directory.path().display().to_string();
    let found = messages(by_flags(&["--chat-template", "zephir", "--port", "x"]));
    assert_eq!(found[0], "--port: \"x\": expected a whole number from 0 to 65535");
    let expected = "--chat-template: \"zephir\": neither a file nor a built-in template (plain, zephyr); did you mean `zephyr`?";
    assert_eq!(found[1..], [expected]);
    assert!(messages(by_flags(&["--chat-template", &folder]))[0].ends_with("this is a directory; expected a Jinja file"));
    let file = directory.path().join("mine.jinja");
    std::fs::write(&file, "").expect("written");
    for good in ["plain", "zephyr", "auto", &file.display().to_string()] {
        assert!(by_flags(&["--chat-template", good]).is_ok(), "{good}");
    }
}

#[test]
fn a_context_longer_than_the_token_queue_is_accepted() {
    // An empty queue takes any one request.
    assert!(by_flags(&["--max-model-len", "2048", "--max-num-queued-tokens", "1024"]).is_ok());
}

#[test]
fn api_keys_are_split_at_commas_but_in_an_array_and_the_help_says_so() {
    let keys = |resolved: Result<Resolved, ConfigError>| {
        let keys = resolved.expect("valid").config.api_keys;
        keys.iter().map(|key| key.expose().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(by_variables(&[("OPENELM_API_KEY", "a,b")])), ["a", "b"]);
    assert_eq!(keys(by_flags(&["--api-key", "a,b"])), ["a", "b"]);
    assert_eq!(keys(by_file("api-key = \"a,b\"")), ["a", "b"]);
    assert_eq!(keys(by_file("api-key = [\"a,b\"]")), ["a,b"]);
    let help = KEYS.iter().find(|key| key.name == "api-key").map_or("", |key| key.help);
    assert!(help.contains("separated by commas") && help.contains("array of the file"), "{help}");
}

#[test]
fn the_help_says_that_the_queue_counts_sequences() {
    let help = KEYS.iter().find(|key| key.name == "max-num-queued-reqs").map_or("", |key| key.help);
    assert!(help.contains("sequences") && help.contains("n times its prompts"), "{help}");
}

#[test]
fn empty_variables_are_unset_but_an_empty_api_key_is_a_mistake() {
    assert_eq!(
        by_variables(&[("OPENELM_PORT", ""), ("OPENELM_CONFIG", ""), ("OPENELM_SERVED_MODEL_NAME", "")]).expect("valid").config,
        defaults()
    );
    assert_eq!(messages(by_variables(&[("OPENELM_API_KEY", "a,,b")])).len(), 1);
    assert_eq!(messages(by_file("api-key = \"\"")).len(), 1);
    assert!(by_file("api-key = []").is_ok());
}

#[test]
fn variables_that_kubernetes_makes_for_a_service_are_not_ours() {
    let links = [
        ("OPENELM_SERVICE_HOST", "10.0.0.1"),
        ("OPENELM_SERVICE_PORT", "8000"),
        ("OPENELM_SERVICE_PORT_HTTP", "8000"),
        ("OPENELM_PORT", "tcp://10.0.0.1:8000"),
        ("OPENELM_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("OPENELM_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("OPENELM_SERVER_PORT", "tcp://10.0.0.1:8000"),
        ("OPENELM_SERVER_PORT_8000_TCP_PROTO", "tcp"),
    ];
    assert_eq!(by_variables(&links).expect("valid").config, defaults());
    assert!(by_variables(&[("OPENELM_SERVER_PORT", "8000")]).is_err());
    assert!(by_variables(&[("OPENELM_REPORT_8000_X", "8000")]).is_err());
}

#[test]
fn lists_lose_repetitions_and_keep_their_order() {
    let config = by_flags(&["--served-model-name", "b, a", "--served-model-name", "b"]).expect("valid").config;
    assert_eq!(config.served_model_names, ["b", "a"]);
    assert_eq!(by_file("served-model-name = [\"b\", \"a\"]").expect("valid").config.served_model_names, ["b", "a"]);
    assert!(by_file("served-model-name = [1]").is_err());
}

#[test]
fn values_in_many_spellings() {
    let bytes = |text| parse::bytes(text, &(1..=1 << 46));
    let cases =
        [("1", 1), ("512MiB", 512 << 20), ("2GB", 2_000_000_000), ("1.5GiB", 3 << 29), ("4 mib", 4 << 20), ("2k", 2000), ("2K", 2048)];
    assert!(cases.iter().all(|(text, value)| bytes(text) == Ok(*value)));
    for text in ["", "x", "1XB", "-1", "1e3", "0", "99999999999T", "1.2.3", "NaN"] {
        assert!(bytes(text).is_err(), "{text}");
    }
    let cases = [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("0.5", 500), ("2m", 120_000), ("1h", 3_600_000)];
    assert!(cases.iter().all(|(text, value)| parse::any_duration(text) == Ok(Duration::from_millis(*value))));
    for text in ["", "s", "-1s", "1d", "999999999h", "0.0001ms", "0"] {
        assert!(parse::positive_duration(text).is_err(), "{text}");
    }
    assert_eq!((parse::host("[::1]"), parse::host("localhost")), (Ok("::1".to_owned()), Ok("localhost".to_owned())));
    assert!(["", "a b", "host:80", "[::1]:80", "http://x"].iter().all(|text| parse::host(text).is_err()));
    assert_eq!(by_file("sse-keep-alive = 0.5").expect("valid").config.sse_keep_alive, Duration::from_millis(500));
    assert_eq!(by_flags(&["--seed", "18446744073709551615"]).expect("valid").config.seed, Some(u64::MAX));
    assert_eq!(
        messages(by_flags(&["--seed", "-1"]))[0],
        "--seed: \"-1\": expected a whole number from 0 to 18446744073709551615, or `random`"
    );
}

#[test]
fn the_names_shown_are_the_resolved_ones() {
    let shown = defaults().settings().into_iter().find(|(key, _)| key.name == "served-model-name").map(|(_, shown)| shown);
    assert_eq!(shown, Some(Shown::Many(vec!["openelm-demo".to_owned()])));
}

proptest! {
    #[test]
    fn bytes_shown_parse_to_themselves(bytes in 1u64..1 << 45) {
        prop_assert_eq!(parse::bytes(&parse::show_bytes(bytes), &(0..=u64::MAX)), Ok(bytes));
    }

    #[test]
    fn durations_shown_parse_to_themselves(milliseconds in 0u64..600_000_000) {
        let duration = Duration::from_millis(milliseconds);
        prop_assert_eq!(parse::any_duration(&parse::show(duration)), Ok(duration));
    }

    #[test]
    fn any_text_of_a_file_is_settings_or_mistakes(text in "([a-z_-]{1,12} ?= ?[0-9a-z\"\\[\\]., ]{0,12}\n?){0,4}|\\PC{0,64}") {
        let _ = by_file(&text);
    }

    #[test]
    fn any_text_of_a_variable_is_a_value_or_a_mistake(index in 0..KEYS.len(), text in "\\PC{0,32}|[0-9]{1,20}[a-zA-Z.]{0,3}") {
        let _ = by_variables(&[(&KEYS[index].variable(), &text)]);
    }
}

#[test]
fn devices_have_a_word_and_cuda_a_number() {
    let device = |text: &str| by_flags(&["--device", text]).map(|resolved| resolved.config.device.to_string());
    for (text, shown) in
        [("auto", "auto"), ("cpu", "cpu"), ("metal", "metal"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:7", "cuda:7")]
    {
        assert_eq!(device(text).unwrap(), shown);
    }
    for text in ["", "gpu", "CUDA", "cpu:0", "auto:1", "metal:0", "cuda:", "cuda:-1", "cuda:256", "cuda:0:1", "cuda:x"] {
        assert!(device(text).is_err(), "{text}");
    }
    let share = |text: &str| by_flags(&["--gpu-memory-utilization", text]).map(|resolved| resolved.config.gpu_memory_utilization);
    assert_eq!([share("1").unwrap(), share("0.5").unwrap()], [1.0, 0.5]);
    assert!(["0", "1.1", "NaN", "inf", "-0.5", "90%", ""].iter().all(|text| share(text).is_err()));
}
