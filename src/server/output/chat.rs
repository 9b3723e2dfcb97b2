//! Answers of `/v1/chat/completions`.

use super::choice::{Piece, TokenEntry};
use super::collect::Collected;
use super::driver::Output;
use super::shape::{Envelope, Shape, finite};
use crate::api::chat::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatResponse, ChatTokenLogprob, Role, TopLogprob,
};
use crate::api::common::{FinishReason, ObjectKind, Usage};
use crate::generation::TokenLogprobs;
use std::collections::HashSet;

/// Encodes answers of `/v1/chat/completions`.
#[derive(Debug)]
pub struct ChatShape {
    envelope: Envelope,
    begun: HashSet<u32>,
}

impl Shape for ChatShape {
    type Whole = ChatResponse;
    type Chunk = ChatChunk;

    fn new(envelope: Envelope) -> Self {
        Self { envelope, begun: HashSet::new() }
    }

    fn whole(&self, choices: Vec<Collected>, usage: Usage) -> ChatResponse {
        let envelope = &self.envelope;
        let prompt_logprobs = choices.first().and_then(|choice| envelope.prompt_logprobs(&choice.prompt_scores));
        let choices = (0u32..).zip(choices).map(|(index, choice)| ChatChoice {
            index,
            message: AssistantMessage { role: Role::Assistant, content: choice.text, refusal: None },
            logprobs: self.logprobs(&choice.logprobs),
            finish_reason: choice.finish,
            token_ids: envelope.token_ids(choice.tokens),
        });
        ChatResponse {
            id: envelope.id.clone(),
            object: ObjectKind::ChatCompletion,
            created: envelope.created,
            model: envelope.plan.model.clone(),
            system_fingerprint: envelope.system_fingerprint.clone(),
            choices: choices.collect(),
            usage,
            prompt_token_ids: envelope.prompt_token_ids(0),
            prompt_logprobs,
        }
    }

    fn chunks(&mut self, output: Output, so_far: Option<Usage>) -> Vec<ChatChunk> {
        let usage = self.envelope.chunk_usage(so_far);
        let index = output.choice;
        let mut chunks = Vec::with_capacity(3);
        if !self.begun.contains(&index) {
            let prompt_token_ids = if self.begun.is_empty() { self.envelope.prompt_token_ids(index) } else { None };
            self.begun.insert(index);
            let delta = ChatDelta { role: Some(Role::Assistant), content: Some(String::new()) };
            let first = ChatChunkChoice { index, delta, logprobs: None, finish_reason: None, token_ids: None };
            chunks.push(ChatChunk { prompt_token_ids, ..self.chunk_of(vec![first], usage) });
        }
        if let Some(piece) = output.progress.piece {
            chunks.push(self.piece(index, piece, usage));
        }
        if let Some(reason) = output.progress.finish {
            chunks.push(self.end(index, reason, usage));
        }
        chunks
    }

    fn usage_chunk(&self, usage: Usage) -> ChatChunk {
        self.chunk_of(Vec::new(), Some(Some(usage)))
    }
}

impl ChatShape {
    fn piece(&self, index: u32, piece: Piece, usage: Option<Option<Usage>>) -> ChatChunk {
        let choice = ChatChunkChoice {
            index,
            delta: ChatDelta { role: None, content: Some(piece.text) },
            logprobs: if piece.logprobs.is_empty() { None } else { self.logprobs(&piece.logprobs) },
            finish_reason: None,
            token_ids: self.envelope.token_ids(piece.tokens),
        };
        self.chunk_of(vec![choice], usage)
    }

    fn end(&self, index: u32, reason: FinishReason, usage: Option<Option<Usage>>) -> ChatChunk {
        let delta = ChatDelta::default();
        let choice = ChatChunkChoice { index, delta, logprobs: None, finish_reason: Some(reason), token_ids: None };
        self.chunk_of(vec![choice], usage)
    }

    fn chunk_of(&self, choices: Vec<ChatChunkChoice>, usage: Option<Option<Usage>>) -> ChatChunk {
        let envelope = &self.envelope;
        ChatChunk {
            id: envelope.id.clone(),
            object: ObjectKind::ChatCompletionChunk,
            created: envelope.created,
            model: envelope.plan.model.clone(),
            system_fingerprint: envelope.system_fingerprint.clone(),
            choices,
            usage,
            prompt_token_ids: None,
        }
    }

    fn logprobs(&self, entries: &[TokenEntry]) -> Option<ChatLogprobs> {
        self.envelope.plan.logprobs?;
        let content = entries.iter().filter_map(|entry| entry.logprobs.as_ref()).map(|logprobs| self.token_logprob(logprobs));
        Some(ChatLogprobs { content: content.collect(), refusal: None })
    }

    fn token_logprob(&self, logprobs: &TokenLogprobs) -> ChatTokenLogprob {
        let text = &self.envelope.token_text;
        let top = logprobs.top.iter().map(|top| TopLogprob {
            token: text.lossy(top.token),
            logprob: finite(top.logprob),
            bytes: text.bytes(top.token),
        });
        ChatTokenLogprob {
            token: text.lossy(logprobs.chosen.token),
            logprob: finite(logprobs.chosen.logprob),
            bytes: text.bytes(logprobs.chosen.token),
            top_logprobs: top.collect(),
        }
    }
}
