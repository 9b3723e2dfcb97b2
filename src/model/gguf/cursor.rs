//! Reads little-endian numbers and strings from bytes, never beyond their end.

use super::GgufError;

/// A place in some bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The bytes end too early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short {
    at: usize,
    wanted: u64,
    left: usize,
}

impl Short {
    /// The error, for what was being read.
    pub(super) fn of(self, what: impl Into<String>) -> GgufError {
        GgufError::Truncated { what: what.into(), at: self.at, wanted: self.wanted, left: self.left }
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes before this place.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes behind this place.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], Short> {
        let short = Short { at: self.at, wanted: count, left: self.left() };
        let taken = usize::try_from(count).ok().and_then(|count| self.bytes[self.at..].get(..count)).ok_or(short)?;
        self.at += taken.len();
        Ok(taken)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let short = Short { at: self.at, wanted: N as u64, left: self.left() };
        let taken = *self.bytes[self.at..].first_chunk().ok_or(short)?;
        self.at += N;
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: its length, and its bytes.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Short> {
        let length = self.u64()?;
        self.take(length)
    }
}
