//! What can go wrong with text.

use thiserror::Error;

/// A tokenizer cannot be loaded, or a text cannot be encoded. The caller adds which file it read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// tokenizer.json is not what the `tokenizers` library reads.
    #[error(
        "not a tokenizer.json: {detail}; expected the JSON that Hugging Face `tokenizers` writes, with a `model` of type BPE, Unigram, WordPiece or WordLevel"
    )]
    InvalidTokenizer {
        /// What the library said.
        detail: String,
    },
    /// The vocabulary holds nothing.
    #[error("the tokenizer's vocabulary is empty")]
    EmptyVocabulary,
    /// A token's id is absurd.
    #[error("token {token:?} has id {id}; ids must be below {limit}")]
    IdOutOfRange {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// The bound.
        limit: u32,
    },
    /// `added_tokens` gives a token another id than the library, which numbers tokens the model lacks by itself.
    #[error("`added_tokens` gives {token:?} the id {found}, but its place in the vocabulary makes it {expected}")]
    AddedTokenId {
        /// The token.
        token: String,
        /// The id in the file.
        found: u32,
        /// The id that follows from the vocabulary.
        expected: u32,
    },
    /// tokenizer.json has a decoder that cannot be run token by token.
    #[error(
        "`decoder` of type {found} is not supported; expected ByteLevel, Metaspace, none, or a Sequence of Replace, ByteFallback, Fuse and \
         Strip (at the start, after Fuse) in that order"
    )]
    UnsupportedDecoder {
        /// The decoder or its offending part.
        found: String,
    },
    /// tokenizer_config.json is not JSON, or not an object.
    #[error("not a tokenizer_config.json: {detail}; expected a JSON object")]
    InvalidConfig {
        /// What is wrong.
        detail: String,
    },
    /// A key of tokenizer_config.json has the wrong type.
    #[error("`{key}` is {found}; expected {expected}")]
    InvalidConfigKey {
        /// The key.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// tokenizer_config.json names a token the vocabulary does not have.
    #[error("`{key}` names {token:?}, which is not in the tokenizer's vocabulary; expected the text of one of its tokens")]
    UnknownToken {
        /// `bos_token` or `eos_token`.
        key: &'static str,
        /// The name.
        token: String,
    },
    /// The library could not encode the text.
    #[error("the text cannot be encoded: {detail}")]
    Encode {
        /// What the library said.
        detail: String,
    },
    /// The tokenizer's model itself turns plain text into a control token, so that typed text cannot be told from it.
    #[error("the tokenizer's model turns text into the control token {token:?}")]
    TextBecameControl {
        /// The token.
        token: String,
    },
}

/// A chat template cannot be read, or a conversation cannot be rendered with it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// No built-in template has this name.
    #[error("no built-in chat template is named {name:?}; there are {}", known.join(", "))]
    UnknownBuiltin {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: &'static [&'static str],
    },
    /// The source is not a Jinja template.
    #[error("chat template {name:?}, line {line}: {detail}")]
    Syntax {
        /// The template.
        name: String,
        /// 1-based line, 0 when unknown.
        line: usize,
        /// What is wrong there.
        detail: String,
    },
    /// The template refused the conversation by `raise_exception`.
    #[error("chat template {name:?}: {message}")]
    Raised {
        /// The template.
        name: String,
        /// The template's own words.
        message: String,
    },
    /// The template failed while it ran.
    #[error("chat template {name:?}, line {line}: {detail}")]
    Render {
        /// The template.
        name: String,
        /// 1-based line, 0 when unknown.
        line: usize,
        /// What went wrong.
        detail: String,
    },
    /// The template ran too long or used too much memory.
    #[error("chat template {name:?} took more than its share of work ({fuel} units of fuel) for this conversation")]
    OutOfFuel {
        /// The template.
        name: String,
        /// The limit.
        fuel: u64,
    },
    /// The template wrote too much.
    #[error("chat template {name:?} wrote more than {limit} bytes for this conversation")]
    OutputTooLong {
        /// The template.
        name: String,
        /// The limit.
        limit: usize,
    },
    /// The text of the message that is to be continued is not in what the template wrote.
    #[error("chat template {name:?} does not write the last message, so that it cannot be continued")]
    NoFinalMessage {
        /// The template.
        name: String,
    },
    /// A message's role is not a name.
    #[error("message {index} has role {role:?}; a role is 1 to 64 letters, digits, `_` or `-`")]
    InvalidRole {
        /// Which message, from 0.
        index: usize,
        /// The role.
        role: String,
    },
    /// An extra variable has the name of one the server sets.
    #[error("the template variable {variable:?} is set by the server and cannot be given")]
    ReservedVariable {
        /// The variable.
        variable: String,
    },
    /// The conversation uses so many private-use characters that none are left to mark its text with.
    #[error("the conversation uses nearly every private-use character of Unicode")]
    NoMarkersLeft,
}
