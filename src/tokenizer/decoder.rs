//! The bytes of every token, and the state machine that puts them together to text.
//!
//! tokenizer.json names a chain of decoders; each of the supported chains is one [`Assembly`] here. Work that looks at one token alone
//! (`Replace`) is done once for the whole vocabulary; what looks at neighbours is state:
//!
//! * `ByteFallback` decodes each maximal run of byte pieces as a whole: if all of it is UTF-8 it is that text, else every byte of it is
//!   one U+FFFD. So a run is held until a piece ends it, or until it cannot be UTF-8 any more; from then on each byte is known at once.
//! * `Fuse` and `Strip` drop leading spaces of the whole text.
//! * `ByteLevel` replaces each maximal ill-formed subpart by one U+FFFD; at most three bytes wait.
//!
//! **Architecture invariant:** the work per token is proportional to its own bytes; a held run is checked once and copied once.

use super::error::TokenizerError;
use crate::generation::TokenId;
use tokenizers::{Decoder as _, DecoderWrapper};

const REPLACEMENT: &str = "\u{FFFD}";

/// How token bytes become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Assembly {
    /// Concatenation, with byte pieces decoded by run, and up to `count` leading `content` characters dropped.
    Concatenate { content: char, count: usize },
    /// Concatenation where the first token loses every occurrence of this character.
    Metaspace { dropped_in_first: Option<char> },
    /// Tokens hold raw bytes.
    Bytes,
    /// No decoder: tokens are separated by one space.
    Spaced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Absent,
    Text,
    Byte,
}

/// One entry of the vocabulary.
struct Piece {
    kind: Kind,
    special: bool,
    bytes: Box<[u8]>,
}

/// The decoding side of a tokenizer: every token's bytes and how they are assembled.
pub(super) struct Decoder {
    pieces: Vec<Piece>,
    assembly: Assembly,
    /// Raw text of the tokens that a Metaspace decoder shortens at the beginning; empty otherwise.
    first: std::collections::HashMap<TokenId, String>,
}

/// A token as the decoder chain sees it.
pub(super) struct RawToken {
    /// Text in the vocabulary.
    pub(super) text: String,
    /// Whether decoding can skip it.
    pub(super) special: bool,
}

impl Decoder {
    /// Builds the table from the tokens by id (`None` where an id does not exist) and the chain of tokenizer.json.
    pub(super) fn new(tokens: Vec<Option<RawToken>>, chain: Option<&DecoderWrapper>) -> Result<Self, TokenizerError> {
        let plan = Plan::of(chain)?;
        let mut pieces = Vec::with_capacity(tokens.len());
        let mut first = std::collections::HashMap::new();
        for (id, token) in tokens.into_iter().enumerate() {
            let Some(token) = token else {
                pieces.push(Piece { kind: Kind::Absent, special: false, bytes: Box::default() });
                continue;
            };
            if let Assembly::Metaspace { dropped_in_first: Some(dropped) } = plan.assembly
                && token.text.contains(dropped)
            {
                first.insert(id as TokenId, token.text.replace(dropped, ""));
            }
            pieces.push(plan.piece(token)?);
        }
        Ok(Self { pieces, assembly: plan.assembly, first })
    }

    /// Number of ids, existing or not.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether the token exists and is special.
    pub(super) fn is_special(&self, id: TokenId) -> bool {
        self.pieces.get(id as usize).is_some_and(|piece| piece.special)
    }

    /// The token's own bytes; empty for an id that does not exist.
    pub(super) fn bytes(&self, id: TokenId) -> &[u8] {
        self.pieces.get(id as usize).map_or(&[], |piece| &piece.bytes)
    }
}

/// The chain of tokenizer.json, understood.
struct Plan<'a> {
    replacements: Vec<&'a DecoderWrapper>,
    byte_fallback: bool,
    assembly: Assembly,
}

impl<'a> Plan<'a> {
    fn of(chain: Option<&'a DecoderWrapper>) -> Result<Self, TokenizerError> {
        let plan = |assembly| Ok(Self { replacements: Vec::new(), byte_fallback: false, assembly });
        match chain {
            None => plan(Assembly::Spaced),
            Some(DecoderWrapper::ByteLevel(_)) => plan(Assembly::Bytes),
            Some(DecoderWrapper::Metaspace(metaspace)) => {
                use tokenizers::pre_tokenizers::metaspace::PrependScheme;
                let drops = metaspace.prepend_scheme != PrependScheme::Never;
                let mut plan =
                    Self { replacements: Vec::new(), byte_fallback: false, assembly: Assembly::Metaspace { dropped_in_first: None } };
                if drops {
                    plan.assembly = Assembly::Metaspace { dropped_in_first: Some(metaspace.get_replacement()) };
                }
                Ok(Self { replacements: chain.into_iter().collect(), ..plan })
            }
            Some(DecoderWrapper::Sequence(sequence)) => Self::of_sequence(sequence.get_decoders()),
            Some(single) => Self::of_sequence(std::slice::from_ref(single)),
        }
    }

    fn of_sequence(chain: &'a [DecoderWrapper]) -> Result<Self, TokenizerError> {
        let mut plan = Self { replacements: Vec::new(), byte_fallback: false, assembly: Assembly::Concatenate { content: ' ', count: 0 } };
        let mut fused = false;
        for (index, stage) in chain.iter().enumerate() {
            match stage {
                DecoderWrapper::Replace(_) if !plan.byte_fallback && !fused => plan.replacements.push(stage),
                DecoderWrapper::ByteFallback(_) if !plan.byte_fallback && !fused => plan.byte_fallback = true,
                DecoderWrapper::Fuse(_) if !fused => fused = true,
                DecoderWrapper::Strip(strip) if fused && strip.stop == 0 && index + 1 == chain.len() => {
                    plan.assembly = Assembly::Concatenate { content: strip.content, count: strip.start };
                }
                DecoderWrapper::ByteLevel(_) if chain.len() == 1 => return Self::of(Some(stage)),
                other => return Err(TokenizerError::UnsupportedDecoder { found: name_of(other, index) }),
            }
        }
        Ok(plan)
    }

    fn piece(&self, token: RawToken) -> Result<Piece, TokenizerError> {
        let RawToken { text, special } = token;
        if self.assembly == Assembly::Bytes {
            return Ok(Piece { kind: Kind::Text, special, bytes: byte_level(&text).into() });
        }
        let text = self.replace(text)?;
        match byte_of(&text) {
            Some(byte) if self.byte_fallback => Ok(Piece { kind: Kind::Byte, special, bytes: [byte].into() }),
            _ => Ok(Piece { kind: Kind::Text, special, bytes: text.into_bytes().into() }),
        }
    }

    /// Runs the stages that look at one token alone. A Metaspace decoder treats the first token of a chain in another way than the rest,
    /// so an empty one goes before.
    fn replace(&self, text: String) -> Result<String, TokenizerError> {
        self.replacements.iter().try_fold(text, |text, stage| {
            let mut parts = stage
                .decode_chain(vec![String::new(), text])
                .map_err(|error| TokenizerError::InvalidTokenizer { detail: format!("its decoder failed: {error}") })?;
            Ok(parts.pop().unwrap_or_default())
        })
    }
}

/// The type of a decoder and its place in the chain, for an error.
fn name_of(decoder: &DecoderWrapper, index: usize) -> String {
    let name = match decoder {
        DecoderWrapper::BPE(_) => "BPEDecoder",
        DecoderWrapper::ByteLevel(_) => "ByteLevel",
        DecoderWrapper::WordPiece(_) => "WordPiece",
        DecoderWrapper::Metaspace(_) => "Metaspace",
        DecoderWrapper::CTC(_) => "CTC",
        DecoderWrapper::Sequence(_) => "Sequence",
        DecoderWrapper::Replace(_) => "Replace",
        DecoderWrapper::Fuse(_) => "Fuse",
        DecoderWrapper::Strip(_) => "Strip",
        DecoderWrapper::ByteFallback(_) => "ByteFallback",
    };
    format!("{name} (number {} in its chain)", index + 1)
}

/// The byte of a byte-fallback piece (`<0x0A>`), by the very rule of the `tokenizers` crate.
fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The bytes of a byte-level token: GPT-2 writes each byte as one printable character. A token with any other character is itself.
fn byte_level(token: &str) -> Vec<u8> {
    token.chars().map(byte_level_char).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Printable Latin-1 bytes stand for themselves; the other 68, in ascending order, for U+0100 onwards.
fn byte_level_char(c: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8).filter(|&byte| printable(byte)),
        code => (0..=255).filter(|&byte| !printable(byte)).nth(code as usize - 0x100),
    }
}

/// Where the decoding of one sequence stands.
#[derive(Clone, Debug)]
pub(super) struct DecodeState {
    /// No token was written yet.
    first: bool,
    /// Leading characters that may still be dropped.
    to_strip: usize,
    /// Bytes that wait: a run of byte pieces, or the unfinished tail of byte-level text.
    held: Vec<u8>,
    /// How much of `held` is known to be UTF-8.
    checked: usize,
    /// The current run of byte pieces is not UTF-8.
    broken: bool,
}

impl DecodeState {
    /// At the beginning of a text, where a leading space is an artefact of encoding.
    pub(super) fn at_start(decoder: &Decoder) -> Self {
        let to_strip = match decoder.assembly {
            Assembly::Concatenate { count, .. } => count,
            _ => 0,
        };
        Self { first: true, to_strip, held: Vec::new(), checked: 0, broken: false }
    }

    /// In the middle of a text, where a leading space is one.
    pub(super) fn in_text() -> Self {
        Self { first: false, to_strip: 0, held: Vec::new(), checked: 0, broken: false }
    }

    /// Takes a token and appends to `out` what is certain now.
    pub(super) fn push(&mut self, decoder: &Decoder, id: TokenId, skip_special_tokens: bool, out: &mut String) {
        let Some(piece) = decoder.pieces.get(id as usize) else { return };
        if piece.kind == Kind::Absent || (piece.special && skip_special_tokens) {
            return;
        }
        match (decoder.assembly, piece.kind) {
            (Assembly::Bytes, _) => self.push_raw(&piece.bytes, out),
            (_, Kind::Byte) => self.push_byte(piece.bytes[0], decoder, out),
            _ => {
                self.end_run(decoder, out);
                let text = std::str::from_utf8(&piece.bytes).unwrap_or(REPLACEMENT);
                self.push_text(id, text, decoder, out);
            }
        }
        self.first = false;
    }

    /// Appends what was held back.
    pub(super) fn finish(&mut self, decoder: &Decoder, out: &mut String) {
        match decoder.assembly {
            Assembly::Bytes => out.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.held))),
            _ => self.end_run(decoder, out),
        }
    }

    fn push_text(&mut self, id: TokenId, text: &str, decoder: &Decoder, out: &mut String) {
        match decoder.assembly {
            Assembly::Metaspace { .. } if self.first => out.push_str(decoder.first.get(&id).map_or(text, String::as_str)),
            Assembly::Spaced if !self.first => {
                out.push(' ');
                out.push_str(text);
            }
            _ => self.write(text, decoder, out),
        }
    }

    /// Writes text, dropping what is to be stripped at the beginning.
    fn write(&mut self, mut text: &str, decoder: &Decoder, out: &mut String) {
        if let Assembly::Concatenate { content, .. } = decoder.assembly {
            while self.to_strip > 0 && !text.is_empty() {
                match text.strip_prefix(content) {
                    Some(rest) => (text, self.to_strip) = (rest, self.to_strip - 1),
                    None => self.to_strip = 0,
                }
            }
        }
        out.push_str(text);
    }

    fn push_byte(&mut self, byte: u8, decoder: &Decoder, out: &mut String) {
        if self.broken {
            return self.write(REPLACEMENT, decoder, out);
        }
        self.held.push(byte);
        match std::str::from_utf8(&self.held[self.checked..]) {
            Ok(_) => self.checked = self.held.len(),
            Err(error) if error.error_len().is_none() => {} // a character that goes on
            Err(_) => {
                self.write(&REPLACEMENT.repeat(self.held.len()), decoder, out);
                self.held.clear();
                self.broken = true;
            }
        }
    }

    /// A run of byte pieces is over.
    fn end_run(&mut self, decoder: &Decoder, out: &mut String) {
        (self.broken, self.checked) = (false, 0);
        if self.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        match std::str::from_utf8(&held) {
            Ok(text) => self.write(text, decoder, out),
            Err(_) => self.write(&REPLACEMENT.repeat(held.len()), decoder, out),
        }
    }

    /// Byte-level text: everything up to an unfinished character.
    fn push_raw(&mut self, bytes: &[u8], out: &mut String) {
        self.held.extend_from_slice(bytes);
        let mut done = 0;
        for chunk in self.held.utf8_chunks() {
            out.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let unfinished = done + invalid.len() == self.held.len() && is_unfinished(invalid);
            if !invalid.is_empty() && !unfinished {
                out.push_str(REPLACEMENT);
                done += invalid.len();
            }
        }
        self.held.drain(..done);
    }
}

/// Whether more bytes could make this ill-formed sequence a character.
fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
