//! Sampling parameters and stop criteria, resolved: defaults applied, ranges checked, the seed drawn.

use super::{TokenId, TokenMask};
use std::sync::Arc;

/// How one token is chosen from a row of logits. All ranges were checked when the request was parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 = greedy; else the logits are divided by it. Range `0..=2`.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probability reaches this. Range `0..=1`; 0 keeps the most likely token alone.
    pub top_p: f32,
    /// Keep the `k` most likely tokens; 0 = all.
    pub top_k: u32,
    /// Keep tokens at least `min_p` times as likely as the most likely one. Range `0..=1`; 0 = off.
    pub min_p: f32,
    /// Subtracted once from the logit of every token already generated. Range `-2..=2`.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a generated token once per occurrence. Range `-2..=2`.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the output. Above 0; 1 = off.
    pub repetition_penalty: f32,
    /// Added to the logits, one entry per token id, ascending by id. Values in `-100..=100`.
    pub logit_bias: Arc<[(TokenId, f32)]>,
    /// Only these tokens may be chosen; `None` = all.
    pub allowed_tokens: Option<Arc<TokenMask>>,
    /// Runs of tokens, none empty, of which the output must not end with any: the last token of one is masked after the others.
    pub bad_words: Arc<[Box<[TokenId]>]>,
    /// Seed of the request; with (prompt index, choice index, position) it determines every random number.
    pub seed: u64,
}

impl SamplingParams {
    /// Whether the next token depends on those generated before in another way than through the model.
    pub fn reads_output(&self) -> bool {
        let is_penalized = self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0;
        is_penalized || self.bad_words.iter().any(|word| word.len() > 1)
    }

    /// Greedy decoding without penalties: the neutral value that tests and defaults start from.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Arc::from([]),
            allowed_tokens: None,
            bad_words: Arc::from([]),
            seed: 0,
        }
    }
}

/// When a sequence ends. Stop *strings* are not here: they are found in text, by the front end, which then drops the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StopCriteria {
    /// Most tokens to generate; prompt + `max_tokens` fits the context. 0 only for scoring a prompt.
    pub max_tokens: u32,
    /// No end-of-sequence or stop token before this many were generated: they are masked in the logits.
    pub min_tokens: u32,
    /// Any of these ends the sequence with [`super::FinishReason::Stop`]; empty when `ignore_eos` was asked.
    pub eos_token_ids: Arc<[TokenId]>,
    /// Further tokens that end the sequence.
    pub stop_token_ids: Arc<[TokenId]>,
}

impl StopCriteria {
    /// Ends after `max_tokens` and for no other reason.
    pub fn length(max_tokens: u32) -> Self {
        Self { max_tokens, min_tokens: 0, eos_token_ids: Arc::from([]), stop_token_ids: Arc::from([]) }
    }

    /// Whether `token` ends the sequence when it is generated as number `generated` (1-based).
    pub fn is_stop_token(&self, token: TokenId, generated: u32) -> bool {
        generated > self.min_tokens && (self.eos_token_ids.contains(&token) || self.stop_token_ids.contains(&token))
    }
}
