//! Why packed weights cannot be used or kept. None of these keeps a model from being served.

use std::path::PathBuf;

/// An error of the cache of packed weights.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory must not be used, or cannot be made.
    #[error("the directory {} cannot hold packed weights: {reason}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A packed file that is damaged, cut short, or of something else.
    #[error("{}: not the packed weights it should be: {problem}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Weights of more bytes than the cache may have.
    #[error("the packed weights have {bytes} bytes, and a cache has at most {most}")]
    TooLarge {
        /// Bytes of the weights.
        bytes: u64,
        /// Most bytes of a cache.
        most: u64,
    },
    /// Other servers write so much that a file has no room beside theirs.
    #[error("a cache of {most} bytes has no room for the packed weights beside those that others write now")]
    NoRoom {
        /// Most bytes of a cache.
        most: u64,
    },
    /// Another server has written the same weights, or does it now.
    #[error("another server has written the same weights, or does it now")]
    Elsewhere,
    /// Writing was given up because the server ends.
    #[error("given up because the server ends")]
    Cancelled,
}
