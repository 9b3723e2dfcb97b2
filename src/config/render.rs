//! A configuration as TOML: what `--check-config` prints.

use super::keys::{self, Key, Kind};
use super::parse::{show, show_bytes};
use super::{Config, Origin, Resolved};
use std::fmt::{Display, Write as _};

/// The value of a setting, as text that resolves to it again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    One(String),
    Many(Vec<String>),
    /// Only how many there are.
    Hidden(usize),
}

fn one(value: impl Display) -> Shown {
    Shown::One(value.to_string())
}

fn or(word: &str, value: Option<impl Display>) -> Shown {
    value.map_or_else(|| one(word), one)
}

impl Config {
    /// Every setting with its value, in the order of the table.
    pub(super) fn settings(&self) -> Vec<(Key, Shown)> {
        let tokenizer = self.tokenizer.as_ref().map(|path| path.display());
        vec![
            (keys::MODEL, one(&self.model)),
            (keys::TOKENIZER, or("auto", tokenizer)),
            (keys::WEIGHT_CACHE, one(&self.weight_cache)),
            (keys::SERVED_MODEL_NAME, Shown::Many(self.served_model_names.clone())),
            (keys::SKIP_TOKENIZER_INIT, one(self.skip_tokenizer_init)),
            (keys::CHAT_TEMPLATE, or("auto", self.chat_template.as_ref())),
            (keys::GENERATION_CONFIG, one(&self.generation_config)),
            (keys::SEED, or("random", self.seed)),
            (keys::HOST, one(&self.host)),
            (keys::PORT, one(self.port)),
            (keys::API_KEY, Shown::Hidden(self.api_keys.len())),
            (keys::CORS_ALLOWED_ORIGIN, Shown::Many(self.cors_allowed_origins.clone())),
            (keys::MAX_BODY_BYTES, one(show_bytes(self.max_body_bytes))),
            (keys::HEADER_TIMEOUT, one(show(self.header_timeout))),
            (keys::WRITE_TIMEOUT, one(show(self.write_timeout))),
            (keys::SSE_KEEP_ALIVE, one(show(self.sse_keep_alive))),
            (keys::LIVENESS_TIMEOUT, one(show(self.liveness_timeout))),
            (keys::MAX_CHOICES, one(self.max_choices)),
            (keys::SHUTDOWN_TIMEOUT, one(show(self.shutdown_timeout))),
            (keys::DEVICE, one(self.device)),
            (keys::DTYPE, one(self.dtype)),
            (keys::QUANTIZATION, one(self.quantization)),
            (keys::KV_CACHE_DTYPE, one(self.kv_cache_dtype)),
            (keys::THREADS, or("auto", self.threads)),
            (keys::CPU_KERNELS, one(self.cpu_kernels)),
            (keys::BATCH_INVARIANT, one(self.batch_invariant)),
            (keys::MAX_MODEL_LEN, or("auto", self.max_model_len)),
            (keys::MAX_NUM_SEQS, one(self.max_num_seqs)),
            (keys::MAX_NUM_BATCHED_TOKENS, one(self.max_num_batched_tokens)),
            (keys::ASYNC_SCHEDULING, one(self.async_scheduling)),
            (keys::MAX_NUM_QUEUED_REQS, one(self.max_num_queued_reqs)),
            (keys::MAX_NUM_QUEUED_TOKENS, one(self.max_num_queued_tokens)),
            (keys::BLOCK_SIZE, one(self.block_size)),
            (keys::ENABLE_PREFIX_CACHING, one(self.enable_prefix_caching)),
            (keys::GPU_MEMORY_UTILIZATION, one(self.gpu_memory_utilization)),
            (keys::KV_CACHE_MEMORY_BYTES, or("auto", self.kv_cache_memory_bytes.map(show_bytes))),
            (keys::LOG_LEVEL, one(self.log_level)),
            (keys::LOG_FORMAT, one(self.log_format)),
        ]
    }
}

impl Resolved {
    /// The configuration as a TOML file, each line with its origin. Keys of the API are counted, not shown.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for (key, shown) in self.config.settings() {
            let origin = self.origins.get(key.name).unwrap_or(&Origin::Default);
            // Writing to a String cannot fail.
            let _ = match shown {
                Shown::Hidden(0) => writeln!(out, "{} = [] # {origin}", key.name),
                Shown::Hidden(count) => writeln!(out, "# {}: {count} given, not shown # {origin}", key.name),
                Shown::One(text) => writeln!(out, "{} = {} # {origin}", key.name, value(&key, &[text])),
                Shown::Many(texts) => writeln!(out, "{} = {} # {origin}", key.name, value(&key, &texts)),
            };
        }
        out
    }
}

/// The texts of a setting as a TOML value.
pub(super) fn value(key: &Key, texts: &[String]) -> String {
    let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
    match (key.kind, texts) {
        (Kind::Many(_) | Kind::Secrets(_), _) => format!("[{}]", texts.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        (Kind::Switch(_), [text]) => text.clone(),
        (_, [text]) if text.parse::<i64>().is_ok() => text.clone(),
        (_, texts) => quoted(&texts.join(",")),
    }
}
