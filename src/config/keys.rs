//! The table of settings: the one definition of every flag, variable and key of the configuration file.

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in kebab-case: the flag is `--name`, the variable `OPENELM_NAME`, the key of the file `name` (underscores work too).
    pub name: &'static str,
    /// Heading under which the help and the example file list it.
    pub group: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// The default as text, parsed like any other; for a list the empty text is the empty list.
    pub default: &'static str,
    /// What it does, as one sentence or two without the last full stop.
    pub help: &'static str,
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One value; the text names it in the help.
    One(&'static str),
    /// `true` or `false`; the flag `--name` turns it on, and the one named here turns it off.
    Switch(&'static str),
    /// Several values: the flag may be repeated, the text is separated by commas, the file has an array.
    Many(&'static str),
    /// Several values that are never shown.
    Secrets(&'static str),
}

impl Key {
    /// The variable that carries this setting.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Whether values must not be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secrets(_))
    }

    /// Whether it holds several values.
    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Many(_) | Kind::Secrets(_))
    }
}

/// What every variable begins with.
pub(super) const VARIABLE_PREFIX: &str = "OPENELM_";

/// Defines the constants and the list of them together, so that none can be left out.
macro_rules! keys {
    ($($id:ident: $group:ident $name:literal $kind:expr, $default:literal, $help:literal;)*) => {
        $(pub(super) const $id: Key = Key { name: $name, group: $group, kind: $kind, default: $default, help: $help };)*
        /// Every setting, in the order of help and example file.
        pub const KEYS: &[Key] = &[$($id),*];
    };
}

use Kind::{Many, One, Secrets, Switch};

const MODEL_GROUP: &str = "Model";
const SERVER_GROUP: &str = "Server";
const COMPUTE_GROUP: &str = "Computation";
const SCHEDULING_GROUP: &str = "Scheduling";
const CACHE_GROUP: &str = "KV cache";
const LOG_GROUP: &str = "Log";

keys! {
    MODEL: MODEL_GROUP "model" One("DIR|FILE"), "embedded",
        "Directory of a Hugging Face checkpoint of OpenELM, or a GGUF file; `embedded` is the demo model inside the binary";
    TOKENIZER: MODEL_GROUP "tokenizer" One("PATH"), "auto",
        "tokenizer.json, or the directory that holds it; `auto` takes the model's own";
    WEIGHT_CACHE: MODEL_GROUP "weight-cache" One("auto|off|DIR"), "auto",
        "Directory that keeps weights as the CPU reads them, so that later starts read a file and arrange nothing; `auto` is openelm-server in \
         $XDG_CACHE_HOME or ~/.cache, `off` keeps nothing. It holds at most 8 GiB, and nothing of the demo model";
    SERVED_MODEL_NAME: MODEL_GROUP "served-model-name" Many("NAME"), "",
        "Names by which clients may ask for the model; the first stands in answers. Without one: the name of the model's directory or file, or `openelm-demo`";
    SKIP_TOKENIZER_INIT: MODEL_GROUP "skip-tokenizer-init" Switch("no-skip-tokenizer-init"), "false",
        "Serve without a tokenizer: prompts are token ids, answers carry token ids";
    CHAT_TEMPLATE: MODEL_GROUP "chat-template" One("FILE|NAME"), "auto",
        "Jinja file, or a built-in template (`plain`, `zephyr`); `auto` takes the model's own, else `plain`";
    GENERATION_CONFIG: MODEL_GROUP "generation-config" One("auto|vllm|PATH"), "auto",
        "Sampling defaults: `auto` takes the model's generation_config.json, `vllm` neutral ones, else a file or a directory";
    SEED: MODEL_GROUP "seed" One("N"), "random",
        "Seed of requests that bring none; `random` draws one for each";

    HOST: SERVER_GROUP "host" One("ADDRESS"), "127.0.0.1",
        "Address to listen on; 0.0.0.0 or :: for all";
    PORT: SERVER_GROUP "port" One("PORT"), "8000",
        "Port to listen on; 0 lets the system choose one";
    API_KEY: SERVER_GROUP "api-key" Secrets("KEY"), "",
        "Keys of which a request must bring one, separated by commas; a key that holds a comma goes into an array of the file. \
         Other users of the machine can read flags: prefer the variable or the file";
    CORS_ALLOWED_ORIGIN: SERVER_GROUP "cors-allowed-origin" Many("ORIGIN"), "",
        "Origins whose pages may read answers, such as https://example.com, separated by commas; * for all";
    MAX_BODY_BYTES: SERVER_GROUP "max-body-bytes" One("BYTES"), "4MiB",
        "Longest request body, also after decompression";
    HEADER_TIMEOUT: SERVER_GROUP "header-timeout" One("TIME"), "10s",
        "How long a client may take to send the head of a request";
    WRITE_TIMEOUT: SERVER_GROUP "write-timeout" One("TIME"), "30s",
        "How long a client may read nothing before it is cut off";
    SSE_KEEP_ALIVE: SERVER_GROUP "sse-keep-alive" One("TIME"), "15s",
        "Silence after which a stream gets a comment, so that proxies keep it open";
    LIVENESS_TIMEOUT: SERVER_GROUP "liveness-timeout" One("TIME"), "60s",
        "How long a step may take before /livez fails, at least 1s";
    MAX_CHOICES: SERVER_GROUP "max-choices" One("N"), "128",
        "Most choices of one request: n times the number of prompts";
    SHUTDOWN_TIMEOUT: SERVER_GROUP "shutdown-timeout" One("TIME"), "30s",
        "How long running requests may take to finish after SIGTERM or SIGINT";

    DEVICE: COMPUTE_GROUP "device" One("DEVICE"), "auto",
        "What computes: auto, cpu, cuda, cuda:N or metal; `auto` takes a GPU where this build and the machine have one, else the CPU";
    DTYPE: COMPUTE_GROUP "dtype" One("TYPE"), "auto",
        "Type of the weights: auto, float32, bfloat16 or float16; `auto` keeps 16-bit checkpoints and lowers float32 ones to bfloat16";
    QUANTIZATION: COMPUTE_GROUP "quantization" One("TYPE"), "none",
        "Blocks that weights are quantised to at load: none, q8_0 (8.5 bits a weight) or q4_0 (4.5 bits); what a file has in Q8_0, Q4_0 or Q4_1 stays as it is";
    KV_CACHE_DTYPE: COMPUTE_GROUP "kv-cache-dtype" One("TYPE"), "auto",
        "Type of the KV cache: auto, float32, bfloat16, float16 or int8 (with a scale for every token and head); `auto` follows dtype";
    THREADS: COMPUTE_GROUP "threads" One("N"), "auto",
        "Threads that compute; `auto` is one per physical core within the CPU quota";
    CPU_KERNELS: COMPUTE_GROUP "cpu-kernels" One("KERNELS"), "auto",
        "Kernels of the CPU: auto, portable (the same bits on every CPU) or avx512-bf16 (bf16 products by vdpbf16ps); `auto` takes the \
         faster by the CPU's vendor and family";

    BATCH_INVARIANT: COMPUTE_GROUP "batch-invariant" Switch("no-batch-invariant"), "false",
        "On a GPU compute products in one shape, so that an answer does not depend on what else is computed; the CPU always answers so";

    MAX_MODEL_LEN: SCHEDULING_GROUP "max-model-len" One("TOKENS"), "auto",
        "Longest prompt and output together; `auto` is the model's context";
    MAX_NUM_SEQS: SCHEDULING_GROUP "max-num-seqs" One("N"), "64",
        "Most sequences in one step";
    MAX_NUM_BATCHED_TOKENS: SCHEDULING_GROUP "max-num-batched-tokens" One("TOKENS"), "512",
        "Most tokens in one step; the engine takes fewer where a step would take too long";
    ASYNC_SCHEDULING: SCHEDULING_GROUP "async-scheduling" Switch("no-async-scheduling"), "true",
        "On a GPU plan and send the next step while one is computed, where it is known but for its tokens";
    MAX_NUM_QUEUED_REQS: SCHEDULING_GROUP "max-num-queued-reqs" One("N"), "256",
        "Most sequences that wait: a request counts n times its prompts. Further ones are answered 503, but an empty queue takes any request";
    MAX_NUM_QUEUED_TOKENS: SCHEDULING_GROUP "max-num-queued-tokens" One("TOKENS"), "262144",
        "Most prompt tokens that wait, each prompt n times. Further ones are answered 503, but an empty queue takes any request";

    BLOCK_SIZE: CACHE_GROUP "block-size" One("TOKENS"), "32",
        "Tokens in a block of the KV cache, a multiple of 32";
    ENABLE_PREFIX_CACHING: CACHE_GROUP "enable-prefix-caching" Switch("no-enable-prefix-caching"), "true",
        "Keep the KV cache of prompts and reuse it where another begins the same";
    GPU_MEMORY_UTILIZATION: CACHE_GROUP "gpu-memory-utilization" One("SHARE"), "0.9",
        "Share of a GPU's free memory that weights, activations and KV cache may take together";
    KV_CACHE_MEMORY_BYTES: CACHE_GROUP "kv-cache-memory-bytes" One("BYTES"), "auto",
        "Memory of the KV cache; `auto` sizes it by the memory there is, within the container's limit";

    LOG_LEVEL: LOG_GROUP "log-level" One("LEVEL"), "info",
        "Least severe lines to log: error, warn, info, debug or trace";
    LOG_FORMAT: LOG_GROUP "log-format" One("FORMAT"), "text",
        "Form of the log: text or json; it goes to standard error";
}
