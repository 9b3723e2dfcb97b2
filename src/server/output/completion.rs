//! Answers of `/v1/completions`.

use super::choice::{Piece, TokenEntry};
use super::collect::Collected;
use super::driver::Output;
use super::shape::{Envelope, Shape, finite};
use super::token_text::TokenText;
use crate::api::common::{FinishReason, ObjectKind, Usage};
use crate::api::completion::{CompletionChoice, CompletionChunk, CompletionChunkChoice, CompletionLogprobs, CompletionResponse};
use crate::generation::TokenLogprobs;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Encodes answers of `/v1/completions`.
#[derive(Debug)]
pub struct CompletionShape {
    envelope: Envelope,
    begun: HashSet<u32>,
}

impl Shape for CompletionShape {
    type Whole = CompletionResponse;
    type Chunk = CompletionChunk;

    fn new(envelope: Envelope) -> Self {
        Self { envelope, begun: HashSet::new() }
    }

    fn whole(&self, choices: Vec<Collected>, usage: Usage) -> CompletionResponse {
        let envelope = &self.envelope;
        let choices = (0u32..).zip(choices).map(|(index, choice)| CompletionChoice {
            text: choice.text,
            index,
            logprobs: self.logprobs(&choice.logprobs),
            finish_reason: Some(choice.finish),
            token_ids: envelope.token_ids(choice.tokens),
            prompt_token_ids: envelope.prompt_token_ids(index),
            prompt_logprobs: envelope.prompt_logprobs(&choice.prompt_scores),
        });
        CompletionResponse {
            id: envelope.id.clone(),
            object: ObjectKind::TextCompletion,
            created: envelope.created,
            model: envelope.plan.model.clone(),
            system_fingerprint: envelope.system_fingerprint.clone(),
            choices: choices.collect(),
            usage,
        }
    }

    fn chunks(&mut self, output: Output, so_far: Option<Usage>) -> Vec<CompletionChunk> {
        let mut chunks = Vec::with_capacity(2);
        if let Some(progress) = output.progress.prefill {
            let chunk = self.chunk(output.choice, Piece::default(), (None, so_far));
            chunks.push(CompletionChunk { prompt_progress: Some(progress), ..chunk });
        }
        if let Some(piece) = output.progress.piece {
            chunks.push(self.chunk(output.choice, piece, (None, so_far)));
        }
        if output.progress.finish.is_some() {
            chunks.push(self.chunk(output.choice, Piece::default(), (output.progress.finish, so_far)));
        }
        chunks
    }

    fn usage_chunk(&self, usage: Usage) -> CompletionChunk {
        self.chunk_of(Vec::new(), Some(Some(usage)))
    }
}

impl CompletionShape {
    fn chunk(&mut self, index: u32, piece: Piece, (finish_reason, so_far): (Option<FinishReason>, Option<Usage>)) -> CompletionChunk {
        let first = self.begun.insert(index);
        let choice = CompletionChunkChoice {
            text: piece.text,
            index,
            logprobs: if piece.logprobs.is_empty() { None } else { self.logprobs(&piece.logprobs) },
            finish_reason,
            token_ids: self.envelope.token_ids(piece.tokens),
            prompt_token_ids: if first { self.envelope.prompt_token_ids(index) } else { None },
        };
        self.chunk_of(vec![choice], self.envelope.chunk_usage(so_far))
    }

    fn chunk_of(&self, choices: Vec<CompletionChunkChoice>, usage: Option<Option<Usage>>) -> CompletionChunk {
        let envelope = &self.envelope;
        CompletionChunk {
            id: envelope.id.clone(),
            object: ObjectKind::TextCompletion,
            created: envelope.created,
            model: envelope.plan.model.clone(),
            system_fingerprint: envelope.system_fingerprint.clone(),
            choices,
            usage,
            prompt_progress: None,
        }
    }

    fn logprobs(&self, entries: &[TokenEntry]) -> Option<CompletionLogprobs> {
        self.envelope.plan.logprobs?;
        let text = &self.envelope.token_text;
        Some(CompletionLogprobs {
            tokens: entries.iter().map(|entry| text.unambiguous(entry.token)).collect(),
            token_logprobs: entries.iter().map(|entry| entry.logprobs.as_ref().map(|l| finite(l.chosen.logprob))).collect(),
            top_logprobs: entries.iter().map(|entry| entry.logprobs.as_ref().map(|l| top_logprobs(l, text))).collect(),
            text_offset: entries.iter().map(|entry| entry.offset).collect(),
        })
    }
}

/// The most likely tokens and the chosen one. Of tokens with the same text the most likely counts.
fn top_logprobs(logprobs: &TokenLogprobs, text: &TokenText) -> Map<String, Value> {
    let mut map = Map::new();
    for token in logprobs.top.iter().chain([&logprobs.chosen]) {
        map.entry(text.unambiguous(token.token)).or_insert_with(|| number(token.logprob));
    }
    map
}

/// The number that `token_logprobs` has for the same value: the shortest digits of an f32, so that both are equal when read.
fn number(logprob: f32) -> Value {
    serde_json::to_string(&finite(logprob)).ok().and_then(|digits| serde_json::from_str(&digits).ok()).unwrap_or(Value::Null)
}
