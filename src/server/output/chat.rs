//! Answers of `/v1/chat/completions`.

use super::calls::CallPiece;
use super::choice::{Piece, TokenEntry};
use super::collect::Collected;
use super::driver::Output;
use super::shape::{Envelope, Shape, finite};
use crate::api::chat::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatDelta, ChatLogprobs, ChatResponse, ChatTokenLogprob, Role, TopLogprob,
};
use crate::api::common::{FinishReason, ObjectKind, Usage};
use crate::api::tools::{CallKind, FunctionCall, FunctionDelta, ToolCall, ToolCallDelta};
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
            message: message(choice.text, choice.calls),
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
            let delta = ChatDelta { role: Some(Role::Assistant), content: Some(String::new()), tool_calls: None };
            let first = ChatChunkChoice { index, delta, logprobs: None, finish_reason: None, token_ids: None };
            chunks.push(ChatChunk { prompt_token_ids, ..self.chunk_of(vec![first], usage) });
        }
        if let Some(progress) = output.progress.prefill {
            let choice = ChatChunkChoice { index, delta: ChatDelta::default(), logprobs: None, finish_reason: None, token_ids: None };
            chunks.push(ChatChunk { prompt_progress: Some(progress), ..self.chunk_of(vec![choice], usage) });
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

/// The message of a whole answer.
fn message(text: String, calls: Vec<(String, String)>) -> AssistantMessage {
    let call = |(name, arguments)| ToolCall { id: call_id(), kind: CallKind::Function, function: FunctionCall { name, arguments } };
    let calls: Vec<ToolCall> = calls.into_iter().map(call).collect();
    let content = (!text.is_empty() || calls.is_empty()).then_some(text);
    AssistantMessage { role: Role::Assistant, content, refusal: None, tool_calls: (!calls.is_empty()).then_some(calls) }
}

/// The same in a stream.
fn deltas(pieces: Vec<CallPiece>) -> Vec<ToolCallDelta> {
    let delta = |piece| match piece {
        CallPiece::Begin { index, name } => ToolCallDelta {
            index,
            id: Some(call_id()),
            kind: Some(CallKind::Function),
            function: FunctionDelta { name: Some(name), arguments: String::new() },
        },
        CallPiece::Arguments { index, text } => {
            ToolCallDelta { index, function: FunctionDelta { name: None, arguments: text }, ..ToolCallDelta::default() }
        }
    };
    pieces.into_iter().map(delta).collect()
}

fn call_id() -> String {
    format!("call_{}", uuid::Uuid::new_v4().simple())
}

impl ChatShape {
    fn piece(&self, index: u32, piece: Piece, usage: Option<Option<Usage>>) -> ChatChunk {
        let calls = (!piece.calls.is_empty()).then(|| deltas(piece.calls));
        let choice = ChatChunkChoice {
            index,
            delta: ChatDelta { role: None, content: (!piece.text.is_empty() || calls.is_none()).then_some(piece.text), tool_calls: calls },
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
            prompt_progress: None,
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
