//! Why a GGUF file cannot be read or written: every variant names the key or tensor, what was found and what would be right.

/// An error of a GGUF file, without the file's name.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file does not begin as GGUF files do.
    #[error("not a GGUF file: it begins with {found:?} where \"GGUF\" is expected")]
    Magic {
        /// Its first bytes as text.
        found: String,
    },
    /// A version or byte order that is not read.
    #[error("its GGUF version is {found}; expected 2 or 3, little-endian")]
    Version {
        /// The version.
        found: u32,
    },
    /// The file ends too early, or a length is absurd.
    #[error("{what} at byte {at} calls for {wanted} bytes, and {left} are left; is the download complete?")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it begins.
        at: usize,
        /// Bytes it calls for.
        wanted: u64,
        /// Bytes left.
        left: usize,
    },
    /// More entries than the rest of the file can hold.
    #[error("{what}: {found} are claimed, and the {left} bytes that are left hold at most {most}")]
    Count {
        /// What is counted.
        what: String,
        /// The number.
        found: u64,
        /// The most there can be.
        most: u64,
        /// Bytes left.
        left: usize,
    },
    /// A name that is no text.
    #[error("{what} is not UTF-8: {found}")]
    Text {
        /// Which name.
        what: String,
        /// What it reads like.
        found: String,
    },
    /// A value of a type that the format does not have.
    #[error("key `{key}` has a value of type {found}; expected a type from 0 to 12")]
    ValueType {
        /// The key.
        key: String,
        /// The number of the type.
        found: u32,
    },
    /// Arrays in arrays in arrays.
    #[error("key `{key}` holds arrays nested more than {most} deep")]
    Nested {
        /// The key.
        key: String,
        /// The most levels.
        most: usize,
    },
    /// A key twice.
    #[error("key `{key}` stands twice in the metadata")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A tensor twice.
    #[error("tensor `{tensor}` stands twice in the table")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A key with a value that cannot be used.
    #[error("key `{key}` is {found}; expected {wanted}")]
    Key {
        /// The key, with an index where it is an array.
        key: String,
        /// What stands there.
        found: String,
        /// What would be right.
        wanted: String,
    },
    /// A model of another architecture.
    #[error("key `general.architecture` is {found:?}; expected \"openelm\" or \"llama\", the two that are served")]
    Architecture {
        /// The architecture.
        found: String,
    },
    /// A tensor in a format that is not read.
    #[error("tensor `{tensor}` has type {found}{name}; expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number of the type.
        found: u32,
        /// Its name in parentheses, where it is known.
        name: String,
    },
    /// Dimensions that no tensor has.
    #[error("tensor `{tensor}` has {found}; expected {wanted}")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// What they are.
        found: String,
        /// What would be right.
        wanted: &'static str,
    },
    /// Rows that blocks do not divide.
    #[error("tensor `{tensor}` has rows of {cols} values; in {format} they must be a multiple of {block}")]
    Rows {
        /// The tensor.
        tensor: String,
        /// Values of a row.
        cols: usize,
        /// The format.
        format: String,
        /// Values of a block.
        block: usize,
    },
    /// An offset off the alignment.
    #[error("tensor `{tensor}` begins at offset {offset}; expected a multiple of the alignment, {alignment}")]
    Offset {
        /// The tensor.
        tensor: String,
        /// Its offset.
        offset: u64,
        /// The alignment.
        alignment: usize,
    },
    /// A tensor that the file does not hold to its end.
    #[error("tensor `{tensor}` calls for {bytes} bytes from offset {offset}, and the data have {available}; is the download complete?")]
    PastEnd {
        /// The tensor.
        tensor: String,
        /// Its offset.
        offset: u64,
        /// Its bytes.
        bytes: usize,
        /// Bytes of all data.
        available: usize,
    },
    /// Two tensors over the same bytes.
    #[error("tensors `{first}` and `{second}` overlap: the one ends at {end}, the other begins at {start}")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
        /// Where the first ends.
        end: usize,
        /// Where the second begins.
        start: usize,
    },
    /// A tensor that the metadata call for is not there.
    #[error("tensor `{tensor}` is missing; the metadata call for it with shape {wanted:?}")]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// Its shape, rows first.
        wanted: Vec<usize>,
    },
    /// A tensor of another shape than the metadata say.
    #[error("tensor `{tensor}` has shape {found:?}; the metadata ({keys}) call for {wanted:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape, rows first.
        found: Vec<usize>,
        /// The shape that follows from the metadata.
        wanted: Vec<usize>,
        /// The keys that it follows from.
        keys: &'static str,
    },
    /// Tensors that the metadata do not call for.
    #[error("tensor `{tensor}` ({count} such in all) is not part of the model that the metadata describe; {hint}")]
    SurplusTensor {
        /// The first such tensor.
        tensor: String,
        /// How many there are.
        count: usize,
        /// Why it matters.
        hint: &'static str,
    },
    /// Tokens whose merges would take far more room than the tokens.
    #[error("key `tokenizer.ggml.tokens` has tokens that can be put together in more than {most} bytes of ways")]
    Merges {
        /// The most bytes of merges.
        most: usize,
    },
    /// A model that has no form as a GGUF file here.
    #[error("cannot be written as GGUF: {reason}")]
    NotWritable {
        /// Why not.
        reason: String,
    },
    /// The file cannot be written.
    #[error("cannot be written: {0}")]
    Write(#[from] std::io::Error),
    /// A tensor of more or fewer bytes than its entry says.
    #[error("tensor `{tensor}` was written with {found} bytes; its type and shape call for {wanted}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Bytes written.
        found: u64,
        /// Bytes it should have.
        wanted: u64,
    },
}

/// A text from a file as a message shows it: control characters escaped, long ones cut.
pub(super) fn show(text: &str) -> String {
    const MOST: usize = 60;
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
