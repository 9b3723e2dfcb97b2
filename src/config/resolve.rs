//! Layers of text become a [`Config`]; every mistake is kept and reported with the others.

use super::environment::{CONFIG_VARIABLE, Environment};
use super::keys::{self, Key, VARIABLE_PREFIX};
use super::layers::{Layers, Origin};
use super::mistake::{ConfigError, hint};
use super::parse::{self, Problem};
use super::{BUILTIN_TEMPLATES, Config, Flags, GenerationConfigSource, ModelSource, environment, file};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A configuration, and where each setting came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The values.
    pub config: Config,
    /// Origin of each setting, by its name.
    pub(super) origins: BTreeMap<&'static str, Origin>,
}

/// Reads flags, variables and file, in this order of precedence, over the defaults.
///
/// # Errors
/// [`ConfigError`] with every mistake found in any layer.
pub fn load(flags: &Flags, environment: &dyn Environment) -> Result<Resolved, ConfigError> {
    let variables = environment.variables(VARIABLE_PREFIX);
    let mut layers = Layers::default();
    if let Some((path, origin)) = config_file(flags, &variables) {
        file::read(&path, origin, &mut layers);
    }
    environment::read(&variables, &mut layers);
    flags.read(&mut layers);
    resolve(layers)
}

/// The configuration file and what named it.
fn config_file(flags: &Flags, variables: &BTreeMap<String, String>) -> Option<(PathBuf, Origin)> {
    if let Some(path) = &flags.config {
        return Some((path.clone(), Origin::Flag("--config".to_owned())));
    }
    let path = variables.get(CONFIG_VARIABLE).filter(|path| !path.is_empty())?;
    Some((PathBuf::from(path), Origin::Variable(CONFIG_VARIABLE.to_owned())))
}

/// Parses the winning text of every setting.
pub(super) fn resolve(layers: Layers) -> Result<Resolved, ConfigError> {
    let mut read = Reader { layers, origins: BTreeMap::new() };
    let mut config = read.config();
    read.check_paths(&config);
    read.check_combinations(&config);
    if config.served_model_names.is_empty() {
        config.served_model_names.push(default_name(&config.model));
    }
    let Reader { layers, origins } = read;
    if layers.mistakes.is_empty() { Ok(Resolved { config, origins }) } else { Err(ConfigError { mistakes: layers.mistakes }) }
}

/// Most of anything that is counted; far above what a machine holds, and far below what overflows when multiplied.
const MOST: usize = 1 << 24;
/// Most bytes of anything.
const MOST_BYTES: u64 = 1 << 46;
/// Longest body the server would ever buffer.
const MOST_BODY_BYTES: u64 = 1 << 30;

/// Reads settings from the layers, noting mistakes.
struct Reader {
    layers: Layers,
    origins: BTreeMap<&'static str, Origin>,
}

impl Reader {
    fn config(&mut self) -> Config {
        let count = |text: &str| parse::number(text, &(1..=MOST));
        let auto_count = |text: &str| parse::unless("auto", text, count);
        Config {
            model: self.one(&keys::MODEL, parse::model),
            tokenizer: self.one(&keys::TOKENIZER, |text| parse::unless("auto", text, parse::path)),
            weight_cache: self.one(&keys::WEIGHT_CACHE, parse::weight_cache),
            served_model_names: self.many(&keys::SERVED_MODEL_NAME, parse::text),
            skip_tokenizer_init: self.one(&keys::SKIP_TOKENIZER_INIT, parse::switch),
            chat_template: self.one(&keys::CHAT_TEMPLATE, |text| parse::unless("auto", text, parse::text)),
            generation_config: self.one(&keys::GENERATION_CONFIG, parse::generation_config),
            seed: self.one(&keys::SEED, |text| parse::unless("random", text, |text| parse::number(text, &(0..=u64::MAX)))),
            host: self.one(&keys::HOST, parse::host),
            port: self.one(&keys::PORT, |text| parse::number(text, &(0..=u16::MAX))),
            api_keys: self.many(&keys::API_KEY, parse::secret),
            cors_allowed_origins: self.many(&keys::CORS_ALLOWED_ORIGIN, parse::origin),
            max_body_bytes: self.one(&keys::MAX_BODY_BYTES, |text| parse::bytes(text, &(1024..=MOST_BODY_BYTES))),
            header_timeout: self.one(&keys::HEADER_TIMEOUT, parse::positive_duration),
            write_timeout: self.one(&keys::WRITE_TIMEOUT, parse::positive_duration),
            sse_keep_alive: self.one(&keys::SSE_KEEP_ALIVE, parse::positive_duration),
            liveness_timeout: self.one(&keys::LIVENESS_TIMEOUT, parse::liveness_timeout),
            max_choices: self.one(&keys::MAX_CHOICES, count),
            shutdown_timeout: self.one(&keys::SHUTDOWN_TIMEOUT, parse::any_duration),
            device: self.one(&keys::DEVICE, parse::device),
            dtype: self.one(&keys::DTYPE, parse::choice),
            quantization: self.one(&keys::QUANTIZATION, parse::choice),
            kv_cache_dtype: self.one(&keys::KV_CACHE_DTYPE, parse::choice),
            threads: self.one(&keys::THREADS, |text| parse::unless("auto", text, |text| parse::number(text, &(1..=1024)))),
            cpu_kernels: self.one(&keys::CPU_KERNELS, parse::choice),
            batch_invariant: self.one(&keys::BATCH_INVARIANT, parse::switch),
            max_model_len: self.one(&keys::MAX_MODEL_LEN, auto_count),
            max_num_seqs: self.one(&keys::MAX_NUM_SEQS, count),
            max_num_batched_tokens: self.one(&keys::MAX_NUM_BATCHED_TOKENS, count),
            async_scheduling: self.one(&keys::ASYNC_SCHEDULING, parse::switch),
            max_num_queued_reqs: self.one(&keys::MAX_NUM_QUEUED_REQS, count),
            max_num_queued_tokens: self.one(&keys::MAX_NUM_QUEUED_TOKENS, count),
            block_size: self.one(&keys::BLOCK_SIZE, block_size),
            enable_prefix_caching: self.one(&keys::ENABLE_PREFIX_CACHING, parse::switch),
            gpu_memory_utilization: self.one(&keys::GPU_MEMORY_UTILIZATION, parse::share),
            kv_cache_memory_bytes: self
                .one(&keys::KV_CACHE_MEMORY_BYTES, |text| parse::unless("auto", text, |text| parse::bytes(text, &(1 << 20..=MOST_BYTES)))),
            log_level: self.one(&keys::LOG_LEVEL, parse::choice),
            log_format: self.one(&keys::LOG_FORMAT, parse::choice),
        }
    }

    /// The value of a setting that has exactly one.
    fn one<T>(&mut self, key: &'static Key, parse: impl Fn(&str) -> Result<T, Problem>) -> T {
        let setting = self.layers.get(key);
        let text = setting.values.last().map_or("", String::as_str);
        let value = parse(text);
        self.origins.insert(key.name, setting.origin.clone());
        value.unwrap_or_else(|problem| {
            self.layers.mistake(setting.origin, Some(text.to_owned()), problem);
            parse(key.default).expect("every default of the table is valid; a test resolves them all")
        })
    }

    /// The values of a list, without repetitions.
    fn many<T: PartialEq>(&mut self, key: &'static Key, parse: impl Fn(&str) -> Result<T, Problem>) -> Vec<T> {
        let setting = self.layers.get(key);
        self.origins.insert(key.name, setting.origin.clone());
        let mut values = Vec::new();
        for text in &setting.values {
            match parse(text) {
                Ok(value) if values.contains(&value) => {}
                Ok(value) => values.push(value),
                Err(problem) => {
                    let shown = (!key.is_secret()).then(|| text.clone());
                    self.layers.mistake(setting.origin.clone(), shown, problem);
                }
            }
        }
        values
    }

    /// Notes a mistake in the value of `key`, wherever it came from.
    fn refuse(&mut self, key: &'static Key, problem: String) {
        let setting = self.layers.get(key);
        self.layers.mistake(setting.origin, setting.values.last().cloned(), problem);
    }

    fn check_paths(&mut self, config: &Config) {
        let problem = match &config.model {
            ModelSource::Embedded => None,
            ModelSource::Directory(path) => model_problem(path),
            ModelSource::File(path) => (!path.exists()).then(|| "no such file".to_owned()),
        };
        if let Some(problem) = problem {
            self.refuse(&keys::MODEL, problem);
        }
        if config.tokenizer.as_ref().is_some_and(|path| !path.exists()) {
            self.refuse(&keys::TOKENIZER, "no such file or directory".to_owned());
        }
        if let Some(template) = &config.chat_template
            && let Some(problem) = template_problem(template)
        {
            self.refuse(&keys::CHAT_TEMPLATE, problem);
        }
        if let GenerationConfigSource::Path(path) = &config.generation_config
            && !path.exists()
        {
            self.refuse(&keys::GENERATION_CONFIG, "no such file or directory; expected a path, `auto` or `vllm`".to_owned());
        }
    }

    fn check_combinations(&mut self, config: &Config) {
        if config.skip_tokenizer_init && config.tokenizer.is_some() {
            self.refuse(&keys::TOKENIZER, "cannot be used together with skip-tokenizer-init".to_owned());
        }
        if config.skip_tokenizer_init && config.chat_template.is_some() {
            self.refuse(&keys::CHAT_TEMPLATE, "cannot be used together with skip-tokenizer-init: chat is text".to_owned());
        }
    }
}

/// The block size: kernels take keys and values 32 tokens at a time.
fn block_size(text: &str) -> Result<usize, Problem> {
    let value = parse::number(text, &(32..=4096)).ok().filter(|size| size % 32 == 0);
    value.ok_or_else(|| "expected a multiple of 32 from 32 to 4096".to_owned())
}

/// What is wrong with the directory of a model, as far as its name tells.
fn model_problem(path: &Path) -> Option<String> {
    if path.join("config.json").is_file() {
        return None;
    }
    if path.is_dir() {
        return match gguf_files(path) {
            1 => None,
            0 => Some("this directory has no config.json; expected the directory of a Hugging Face checkpoint, or a GGUF file".to_owned()),
            count => Some(format!("this directory has no config.json and {count} GGUF files; name one of them")),
        };
    }
    if path.exists() {
        return Some("this is a file; expected the directory of a Hugging Face checkpoint, or a file with the ending .gguf".to_owned());
    }
    let name = path.display().to_string();
    let is_hub_id = !name.starts_with(['.', '/']) && name.matches('/').count() == 1;
    let advice = if is_hub_id { format!("; to fetch it: hf download {name} --local-dir DIR, then --model DIR") } else { String::new() };
    Some(format!("no such directory{advice}"))
}

/// How many GGUF files a directory holds.
fn gguf_files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| parse::is_gguf(&entry.path())).count()
}

/// What is wrong with a chat template, as far as its name tells. A pipe is as good as a file.
fn template_problem(template: &str) -> Option<String> {
    if BUILTIN_TEMPLATES.contains(&template) {
        return None;
    }
    let path = Path::new(template);
    if path.is_dir() {
        return Some("this is a directory; expected a Jinja file".to_owned());
    }
    let meant = hint(template, BUILTIN_TEMPLATES.iter().copied());
    (!path.exists()).then(|| format!("neither a file nor a built-in template ({}){meant}", BUILTIN_TEMPLATES.join(", ")))
}

/// The name clients see when none was given.
fn default_name(model: &ModelSource) -> String {
    const EMBEDDED: &str = "openelm-demo";
    let path = match model {
        ModelSource::Embedded => return EMBEDDED.to_owned(),
        ModelSource::File(path) => return path.file_stem().map_or("openelm".to_owned(), |stem| stem.to_string_lossy().into_owned()),
        ModelSource::Directory(path) => path,
    };
    // `.` and links have the name of what they lead to.
    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    match parts.as_slice() {
        // The hub's cache: models--OWNER--NAME/snapshots/COMMIT.
        [.., repository, "snapshots", _] if repository.starts_with("models--") => repository["models--".len()..].replace("--", "/"),
        [.., name] if *name != "/" => (*name).to_owned(),
        _ => "openelm".to_owned(),
    }
}
