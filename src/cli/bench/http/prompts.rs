//! Prompts that differ from their first token on, so that no server has seen one before.

use crate::cli::bench::options::Options;
use crate::cli::bench::sequences::token;
use anyhow::{Context as _, bail};
use serde::Serialize;

/// One prompt as the API takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Prompt {
    /// Token ids.
    Ids(Vec<u32>),
    /// Text.
    Text(String),
}

/// Makes prompts by number.
#[derive(Clone, Debug)]
pub(super) struct Prompts {
    tokens: usize,
    vocabulary: usize,
    /// Words of the text, if prompts are text.
    words: Option<Vec<String>>,
    next: u64,
}

impl Prompts {
    /// Prompts of `--http-prompt-tokens`, of ids below `vocabulary` or words of `--prompt-text`.
    pub(super) fn new(options: &Options, vocabulary: usize) -> anyhow::Result<Self> {
        let read = |path: &std::path::PathBuf| -> anyhow::Result<Vec<String>> {
            let name = format!("--prompt-text {}", path.display());
            let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            if words.is_empty() {
                bail!("{name}: expected words");
            }
            Ok(words)
        };
        let words = options.prompt_text.as_ref().map(read).transpose()?;
        Ok(Self { tokens: options.http_prompt_tokens, vocabulary, words, next: 0 })
    }

    /// The next prompt.
    pub(super) fn next(&mut self) -> Prompt {
        // Other texts than those of prefill and decode.
        let number = self.next | 1 << 31;
        self.next += 1;
        let place = |position: usize, of: usize| token(number, position as u64, of);
        match &self.words {
            None => Prompt::Ids((0..self.tokens).map(|position| place(position, self.vocabulary)).collect()),
            Some(words) => {
                let count = (self.tokens * 3 / 4).max(1);
                let chosen: Vec<&str> = (0..count).map(|position| words[place(position, words.len()) as usize].as_str()).collect();
                Prompt::Text(chosen.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_and_have_their_length() {
        let mut ids = Prompts { tokens: 8, vocabulary: 100, words: None, next: 0 };
        let (first, second) = (ids.next(), ids.next());
        assert_ne!(first, second);
        assert!(matches!(&first, Prompt::Ids(ids) if ids.len() == 8 && ids.iter().all(|id| *id < 100)));
        let words = Some(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]);
        let mut text = Prompts { tokens: 80, vocabulary: 0, words, next: 0 };
        let (first, second) = (text.next(), text.next());
        assert_ne!(first, second);
        assert!(matches!(&first, Prompt::Text(text) if text.split(' ').count() == 60));
    }
}
