//! What the engine sends back for one sequence.

use super::TokenId;
use std::time::Duration;

/// One message on a sequence's channel. Exactly one of [`Self::Finished`] and [`Self::Failed`] comes, and comes last.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerationEvent {
    /// The sequence is computed for the first time; comes once and before all others, unless it ends without being computed.
    Scheduled {
        /// Tokens of the prompt that the prefix cache held.
        cached_tokens: u32,
        /// Time since it was submitted.
        queue_time: Duration,
    },
    /// So many tokens of the prompt are computed, and more are to come. Only when it was asked; so many at most that it shows progress.
    Prefill {
        /// Leading tokens that are computed, those of the prefix cache included.
        computed: u32,
    },
    /// Log-probabilities of prompt tokens, in order over all such events: entry 0 of the first event belongs to prompt token 0 and
    /// is `None` (nothing predicts it). Only when `prompt_logprobs` was asked. All of them come before the first `Token`.
    PromptLogprobs(Vec<Option<TokenLogprobs>>),
    /// One generated token. An end-of-sequence or stop token is sent too, directly before `Finished`.
    Token {
        /// Its id.
        token: TokenId,
        /// Present exactly when `logprobs` was asked.
        logprobs: Option<TokenLogprobs>,
    },
    /// The sequence ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Tokens read and written.
        usage: Usage,
    },
    /// The sequence cannot be finished.
    Failed(GenerationFailure),
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end-of-sequence or stop token, or a text whose form is complete.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
}

/// Tokens of one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, how many the prefix cache held when the sequence was first scheduled.
    pub cached_tokens: u32,
    /// Tokens generated, an end-of-sequence token included.
    pub completion_tokens: u32,
}

/// A log-probability from the unmodified distribution: log-softmax of the logits before temperature, penalties and bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Log-probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token that stands at this position.
    pub chosen: TokenLogprob,
    /// 1-based rank of the chosen token (ties count the lower id first).
    pub rank: u32,
    /// The most likely tokens, best first (ties by lower id), as many as were asked for.
    pub top: Vec<TokenLogprob>,
}

/// A failure that ends one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationFailure {
    /// The class, which decides the HTTP status.
    pub kind: FailureKind,
    /// What happened, for the log; the client gets a general text.
    pub detail: String,
}

/// Classes of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The model computed NaN or infinite logits for this sequence.
    NonFiniteLogits,
    /// No token may be chosen: what the request forbids leaves none.
    NothingAllowed,
    /// The form that the text must have cannot be followed any further.
    ConstraintFailed,
    /// The step that held this sequence failed or panicked.
    StepFailed,
    /// The deadline passed.
    DeadlineExceeded,
    /// The server is shutting down and the time to finish is over.
    ShuttingDown,
    /// The engine is gone.
    EngineDead,
}
