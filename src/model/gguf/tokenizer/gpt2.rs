//! Byte-level BPE: every byte a printable character, merges in a list, and a rule that cuts a text into words first.

use super::vocabulary::Vocabulary;
use super::{REMEDY, assemble, bpe};
use crate::model::gguf::GgufError;
use crate::model::gguf::error::show;
use crate::model::gguf::file::Gguf;
use serde_json::{Value, json};

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// How a text is cut into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// GPT-2's rule.
    Gpt2,
    /// Every digit by itself, then GPT-2's rule.
    SmolLm,
    /// Llama 3's rule: at most three digits together.
    Llama3,
    /// Qwen2's rule: as Llama 3's with single digits, after normalisation.
    Qwen2,
}

impl Split {
    /// The rule that the file names; files from before there was such a key have GPT-2's.
    pub(super) fn read(gguf: &Gguf<'_>) -> Result<Self, GgufError> {
        match gguf.text(PRE)? {
            None | Some("default" | "gpt-2") => Ok(Self::Gpt2),
            Some("smollm") => Ok(Self::SmolLm),
            Some("llama-bpe" | "llama3" | "llama-v3") => Ok(Self::Llama3),
            Some("qwen2") => Ok(Self::Qwen2),
            Some(_) => Err(gguf.wrong(PRE, format!("default, gpt-2, smollm, llama-bpe, llama3 or qwen2 {REMEDY}"))),
        }
    }

    /// The rule of a `tokenizer.json`, where it is one of these.
    pub(super) fn of(pre_tokenizer: &Value) -> Option<Self> {
        [Self::Gpt2, Self::SmolLm, Self::Llama3, Self::Qwen2].into_iter().find(|split| split.pre_tokenizer() == *pre_tokenizer)
    }

    /// The name that files have for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::SmolLm => "smollm",
            Self::Llama3 => "llama-bpe",
            Self::Qwen2 => "qwen2",
        }
    }

    /// Whether a prompt begins with the token for that, where the file does not say.
    pub(super) fn adds_bos(self) -> bool {
        self == Self::Llama3
    }

    fn pre_tokenizer(self) -> Value {
        let bytes =
            |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
        let words = |digits: &str| {
            let letters = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+";
            let rest = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
            let pattern = format!("{letters}|{digits}|{rest}");
            json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
        };
        let first = match self {
            Self::Gpt2 => return bytes(true),
            Self::SmolLm => json!({ "type": "Digits", "individual_digits": true }),
            Self::Llama3 => words(r"\p{N}{1,3}"),
            Self::Qwen2 => words(r"\p{N}"),
        };
        json!({ "type": "Sequence", "pretokenizers": [first, bytes(self == Self::SmolLm)] })
    }
}

/// `tokenizer.json`.
pub(super) fn tokenizer(gguf: &Gguf<'_>, vocabulary: &Vocabulary<'_>, split: Split) -> Result<Value, GgufError> {
    let parts = json!({
        "normalizer": (split == Split::Qwen2).then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": split.pre_tokenizer(),
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
    });
    // Llama 3 takes a word that is a token whole, also where no merges lead to it.
    let options = json!({ "ignore_merges": split == Split::Llama3 });
    Ok(assemble(vocabulary, parts, bpe(vocabulary, merges(gguf, vocabulary)?, options)))
}

fn merges(gguf: &Gguf<'_>, vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, GgufError> {
    let lines = gguf.texts(MERGES)?.ok_or_else(|| gguf.wrong(MERGES, "an array of strings"))?;
    let merge = |(index, line): (usize, &&str)| {
        // A space that stands first is a token's own.
        let space = line.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let pair = space.map(|(at, _)| (&line[..at], &line[at + 1..]));
        let known = |(left, right): &(&str, &str)| {
            let both = vocabulary.ids.contains_key(left) && vocabulary.ids.contains_key(right);
            both && vocabulary.ids.contains_key(format!("{left}{right}").as_str())
        };
        pair.filter(known).map(|(left, right)| json!([left, right])).ok_or_else(|| GgufError::Key {
            key: format!("{MERGES}[{index}]"),
            found: format!("\"{}\"", show(line)),
            wanted: "two tokens with a space between them, which are a token together".into(),
        })
    };
    lines.iter().enumerate().map(merge).collect()
}
