//! What a run found: the schema of `--output-json`.
//!
//! Names end in their unit; shares are of 1. A key is never renamed or given another meaning without a new number in `schema`; keys may be
//! added. What was not measured is an empty list or `null`.

use super::statistics::Summary;
use serde::{Deserialize, Serialize};

/// The number of this schema.
pub const SCHEMA: u32 = 1;

/// Everything of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of openelm-server that measured.
    pub version: String,
    /// When the run began, as in HTTP: `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub date: String,
    /// The same in seconds since 1970.
    pub unix_time_s: u64,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured; `null` where the server of `--url` or the limits alone were.
    pub model: Option<Model>,
    /// The server of `--url`.
    pub url: Option<String>,
    /// Rounds of every measurement.
    pub rounds: usize,
    /// Least time of a round of prefill or decode, which repeats its prompt or its steps until then; 0: once.
    #[serde(default)]
    pub min_round_ms: u64,
    /// How decode chose its tokens.
    #[serde(default)]
    pub sampling: Sampling,
    /// The machine's own limits in the same run; `null` for a model on a GPU, to which they are no limits.
    pub limits: Option<Limits>,
    /// One entry per prompt length.
    pub prefill: Vec<Prefill>,
    /// One entry per context and number of sequences.
    pub decode: Vec<Decode>,
    /// One entry per number of clients.
    pub http: Vec<Http>,
}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0: the likeliest token.
    pub temperature: f32,
    /// Top-p; of no effect at temperature 0.
    pub top_p: f32,
    /// Alternatives listed with each token's log-probability; `null`: no log-probabilities.
    pub logprobs: Option<u8>,
}

impl std::fmt::Display for Sampling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.temperature == 0.0 {
            f.write_str("greedy")?;
        } else {
            write!(f, "temperature {}, top-p {}", self.temperature, self.top_p)?;
        }
        self.logprobs.map_or(Ok(()), |count| write!(f, ", log-probabilities with {count} alternatives"))
    }
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the CPU as the system names it; `unknown CPU` where it does not.
    pub cpu: String,
    /// Physical cores this process may use.
    pub cores: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Memory this process may use.
    pub memory_bytes: u64,
}

/// The model and how it is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its first name for clients.
    pub name: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of the weights in memory.
    pub weight_bytes: u64,
    /// Bytes of weights that a step of decode reads: the matrices of all layers and the head.
    pub weight_bytes_per_step: u64,
    /// Operations of the matrices for one token with logits: two per parameter. Attention is not counted.
    pub flops_per_token: f64,
    /// Type of the weights.
    pub dtype: String,
    /// Type of the KV cache.
    pub kv_cache_dtype: String,
    /// Bytes of keys and values of a token.
    pub kv_bytes_per_token: u64,
    /// Backend, instruction set and threads, as in the log.
    pub kernels: String,
    /// The limit that `share_of_peak` is of; `null` on a GPU, whose limits are not measured.
    pub instruction: Option<Instruction>,
    /// Longest prompt and output together.
    pub max_model_len: usize,
}

/// What multiplies and adds in the matrix kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instruction {
    /// f32 fused multiply-add.
    F32Fma,
    /// `vdpbf16ps`.
    Bf16Dot,
    /// Products of bytes: `vpdpbusd`, `smmla` or `sdot` on ARM, or `vpmaddubsw` and `vpmaddwd` where an x86 CPU lacks it.
    Int8Dot,
}

/// The machine's limits over all rounds of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the buffer that was read.
    pub buffer_bytes: u64,
    /// Reading memory, 10^9 bytes a second.
    pub read_gb_per_s: Summary,
    /// f32 fused multiply-adds, 10^9 operations a second.
    pub f32_fma_gflops: Summary,
    /// `vdpbf16ps`, 10^9 operations a second; `null` where the CPU lacks it.
    pub bf16_dot_gflops: Option<Summary>,
    /// Products of bytes by the fastest of [`Instruction::Int8Dot`], 10^9 operations a second; `null` where the CPU has none.
    pub int8_dot_gops: Option<Summary>,
}

/// One sequence whose prompt is computed, with logits of its last token alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prefill {
    /// Length of the prompt.
    pub prompt_tokens: usize,
    /// Most tokens of a step; a longer prompt takes several.
    pub step_tokens: usize,
    /// Tokens of the prompt a second.
    pub tokens_per_s: Summary,
    /// Operations of the matrices a second (two per parameter and row, the head for one row), 10^9.
    pub gflops: Summary,
    /// The same over the peak of the instruction, each round over the limit just before it; `null` on a GPU.
    pub share_of_peak: Option<Summary>,
    /// Where the time of the steps went.
    #[serde(default)]
    pub profile: Vec<OpShare>,
}

/// An operation's share of the time of all measured steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpShare {
    /// What was computed.
    pub operation: String,
    /// Of 1; all operations of a measurement add up to it.
    pub share: f64,
}

/// Sequences that each get one token a step, greedily.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decode {
    /// Sequences of a step.
    pub sequences: usize,
    /// Tokens that each has in the KV cache when the steps begin.
    pub context_tokens: usize,
    /// Steps that follow each other from `context_tokens` on; a round has them once at least, see `min_round_ms`.
    pub steps: usize,
    /// Tokens of all sequences a second.
    pub tokens_per_s: Summary,
    /// Time of a step, sampling included.
    pub step_ms: Summary,
    /// Weights, keys and values that the step must read, over what memory gives in its time. Above 1 where a cache holds the weights; `null` on a GPU.
    pub share_of_read: Option<Summary>,
    /// Operations of the matrices over the peak of the instruction; `null` on a GPU.
    pub share_of_peak: Option<Summary>,
    /// Where the time of the steps went.
    #[serde(default)]
    pub profile: Vec<OpShare>,
}

/// A closed loop: each client sends its next request when the last one has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// Clients at the same time.
    pub clients: usize,
    /// Tokens of each prompt; about, where `--prompt-text` was given.
    pub prompt_tokens: usize,
    /// Tokens asked for.
    pub output_tokens: usize,
    /// Requests of a round.
    pub requests_per_round: usize,
    /// Requests of all rounds that failed.
    pub errors: usize,
    /// What was measured on the others; `null` where there are none.
    pub figures: Option<HttpFigures>,
}

/// Figures of requests that succeeded: each a percentile or rate of one round, summed up over rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpFigures {
    /// Output tokens of all clients a second.
    pub output_tokens_per_s: Summary,
    /// Time from connecting to the first token, median of the requests.
    pub ttft_p50_ms: Summary,
    /// The same, 99th percentile; of fewer than a hundred requests, about the longest.
    pub ttft_p99_ms: Summary,
    /// Time between two events of a stream that carry text, median; a server that sends every token at once has an event a token.
    pub inter_token_p50_ms: Option<Summary>,
    /// The same, 99th percentile.
    pub inter_token_p99_ms: Option<Summary>,
    /// Operations of the matrices for prompts and outputs over the peak of the instruction; `null` for the server of `--url`.
    pub share_of_peak: Option<Summary>,
}

impl Report {
    /// Requests that failed.
    pub(super) fn errors(&self) -> usize {
        self.http.iter().map(|level| level.errors).sum()
    }
}
