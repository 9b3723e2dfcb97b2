//! One choice against plain decoding and cutting.

use super::choice::{Choice, Piece};
use crate::api::common::FinishReason;
use crate::generation::{self, StopCriteria, TokenId, Usage};
use crate::server::parse::{OutputPlan, PromptPlan};
use crate::tokenizer::{StopStrings, Tokenizer};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};

static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::from_bytes(include_bytes!("../../../models/demo/tokenizer.json"), None).unwrap()));

fn choice(stop_strings: &[String], prompt: &[TokenId]) -> Choice {
    let prompt = PromptPlan { tokens: prompt.into(), text: None, stop: StopCriteria::length(1000) };
    let plan = OutputPlan {
        model: String::new(),
        n: 1,
        best_of: 1,
        prompts: Vec::new(),
        stop_strings: Arc::new(StopStrings::new(stop_strings.to_vec())),
        logprobs: None,
        calls: None,
        echo: false,
        prompt_logprobs: None,
        include_stop: false,
        skip_special_tokens: true,
        tokens_as_ids: false,
        return_token_ids: false,
        stream: None,
    };
    Choice::new(&plan, &prompt, Some(&TOKENIZER))
}

/// The text, how it ended, and how many tokens it took.
fn run(stop_strings: &[String], prompt: &[TokenId], tokens: &[TokenId]) -> (String, FinishReason, u32) {
    let mut choice = choice(stop_strings, prompt);
    let mut text = String::new();
    let mut add = |piece: Option<Piece>| text.push_str(&piece.unwrap_or_default().text);
    for &token in tokens {
        let progress = choice.token(token, None);
        add(progress.piece);
        if let Some(finish) = progress.finish {
            return (text, finish, choice.usage().completion_tokens);
        }
    }
    let completion_tokens = u32::try_from(tokens.len()).unwrap();
    let progress = choice.finished(generation::FinishReason::Length, Usage { completion_tokens, ..Usage::default() });
    add(progress.piece);
    (text, progress.finish.unwrap(), choice.usage().completion_tokens)
}

proptest! {
    #[test]
    fn pieces_are_the_decoded_text_cut_at_the_first_stop_string(
        tokens in proptest::collection::vec(0u32..3072, 1..60),
        stops in proptest::collection::vec("[a-e \n]{1,3}", 0..4),
    ) {
        let decoded = TOKENIZER.decode(&tokens, true);
        // The stop string that is complete first; of those complete at once, the longest.
        let ends = stops.iter().filter_map(|s| decoded.find(s.as_str()).map(|at| (at + s.len(), at)));
        let cut = ends.min().map(|(_, at)| at);
        let (text, finish, _) = run(&stops, &[], &tokens);
        prop_assert_eq!(&text, &decoded[..cut.unwrap_or(decoded.len())]);
        prop_assert_eq!(finish, if cut.is_some() { FinishReason::Stop } else { FinishReason::Length });
    }
}

#[test]
fn usage_counts_up_to_the_token_that_completed_the_stop() {
    let tokens = TOKENIZER.encode("one two three", false).unwrap();
    let (_, finish, used) = run(&["two".to_owned()], &[], &tokens);
    let expected = (1..=tokens.len()).find(|&n| TOKENIZER.decode(&tokens[..n], true).contains("two")).unwrap();
    assert_eq!((finish, used as usize), (FinishReason::Stop, expected));
    assert!(expected < tokens.len());
}

#[test]
fn a_stop_string_counts_only_behind_min_tokens() {
    let tokens: Vec<TokenId> = TOKENIZER.encode("the end the end the end", false).unwrap();
    let run = |min_tokens| {
        let mut choice = choice(&["end".to_owned()], &[]);
        choice.require(min_tokens);
        let position = tokens.iter().position(|&token| choice.token(token, None).finish.is_some());
        position.map(|at| at + 1)
    };
    let first = run(0).unwrap();
    let second = run(u32::try_from(first).unwrap()).unwrap();
    assert!(second > first, "{first} {second}");
    assert_eq!(run(u32::try_from(tokens.len()).unwrap()), None);
}
