//! SentencePiece's BPE: pieces with scores, spaces as `▁`, unknown characters as bytes.
//!
//! SentencePiece joins the two neighbours whose union has the best score. A BPE model joins those that stand first in its list of merges.
//! So a pair is a merge where its union is a piece, and the merges stand in the order of that piece's score: the rule by which the Hugging
//! Face library converts such models.

use super::vocabulary::{TokenKind, Vocabulary};
use super::{assemble, bpe};
use crate::model::gguf::GgufError;
use crate::model::gguf::file::Gguf;
use crate::model::gguf::value::Value;
use serde_json::json;

const SCORES: &str = "tokenizer.ggml.scores";

/// How SentencePiece writes a space.
const SPACE: &str = "▁";

/// Longest piece. Trained vocabularies stay far below.
const MOST_PIECE_BYTES: usize = 512;

/// Bytes of all merges for each byte of all pieces; 3 in Llama's vocabulary. Chains of pieces that hold each other would need far more.
const MOST_MERGES: usize = 64;

/// `tokenizer.json`.
pub(super) fn tokenizer(gguf: &Gguf<'_>, vocabulary: &Vocabulary<'_>) -> Result<serde_json::Value, GgufError> {
    let merges = merges(vocabulary, &scores(gguf, vocabulary.len())?)?;
    let adds_space = gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let prepend = adds_space.then(|| json!({ "type": "Prepend", "prepend": SPACE }));
    let strip = adds_space.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let decoders = [replace(SPACE, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    let parts = json!({
        "normalizer": { "type": "Sequence", "normalizers": prepend.into_iter().chain([replace(" ", SPACE)]).collect::<Vec<_>>() },
        "decoder": { "type": "Sequence", "decoders": decoders.into_iter().chain(strip).collect::<Vec<_>>() },
    });
    let unknown = vocabulary.unknown(gguf)?.map(|id| vocabulary.tokens[id as usize]);
    let options = json!({ "unk_token": unknown, "fuse_unk": true, "byte_fallback": true });
    Ok(assemble(vocabulary, parts, bpe(vocabulary, merges, options)))
}

fn scores(gguf: &Gguf<'_>, count: usize) -> Result<Vec<f64>, GgufError> {
    let wrong = || gguf.wrong(SCORES, format!("an array of {count} numbers, one for each token"));
    let array = gguf.array(SCORES)?.filter(|array| array.len() == count).ok_or_else(wrong)?;
    array.iter().map(|value: Value<'_>| value.as_f64().filter(|score| !score.is_nan())).collect::<Option<_>>().ok_or_else(wrong)
}

/// A union of two pieces.
struct Merge {
    score: f64,
    piece: u32,
    left: u32,
    right: u32,
}

/// The merges in the order in which they are tried.
fn merges(vocabulary: &Vocabulary<'_>, scores: &[f64]) -> Result<Vec<serde_json::Value>, GgufError> {
    let most: usize = vocabulary.tokens.iter().map(|token| token.len() * MOST_MERGES).sum();
    let (mut merges, mut bytes) = (Vec::new(), 0);
    // Control tokens are never made of text, and bytes stand for what is no piece.
    let joins = |id: u32| matches!(vocabulary.kinds[id as usize], TokenKind::Normal | TokenKind::UserDefined);
    let part = |text: &str| vocabulary.ids.get(text).copied().filter(|&id| joins(id));
    for (token, piece) in vocabulary.tokens.iter().zip(0_u32..).filter(|(_, id)| joins(*id)) {
        if token.len() > MOST_PIECE_BYTES {
            let found = format!("{} bytes long", token.len());
            return Err(GgufError::Key {
                key: format!("tokenizer.ggml.tokens[{piece}]"),
                found,
                wanted: format!("at most {MOST_PIECE_BYTES}"),
            });
        }
        for (middle, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(middle);
            if let (Some(left), Some(right)) = (part(left), part(right)) {
                bytes += token.len();
                merges.push(Merge { score: scores[piece as usize], piece, left, right });
            }
        }
        if bytes > most {
            return Err(GgufError::Merges { most });
        }
    }
    merges.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then((a.piece, a.left, a.right).cmp(&(b.piece, b.left, b.right))));
    let text = |id: u32| vocabulary.tokens[id as usize];
    Ok(merges.into_iter().map(|merge| json!([text(merge.left), text(merge.right)])).collect())
}
