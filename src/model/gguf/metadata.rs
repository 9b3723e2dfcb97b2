//! Typed reads of the metadata, with errors that name key, what was found and what is right.

use super::GgufError;
use super::error::show;
use super::file::Gguf;
use super::value::{Array, Value};

/// The largest count that is read, as in the JSON files.
const MOST: u64 = 1 << 31;

impl<'a> Gguf<'a> {
    /// The error for `key`.
    pub(super) fn wrong(&self, key: &str, wanted: impl Into<String>) -> GgufError {
        let found = self.metadata.get(key).map_or("absent".to_owned(), Value::describe);
        GgufError::Key { key: key.to_owned(), found, wanted: wanted.into() }
    }

    fn typed<T>(&self, key: &str, wanted: &str, read: impl Fn(&Value<'a>) -> Option<T>) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, wanted))
    }

    /// A whole number of at least 1 and at most 2^31.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.typed(key, "a whole number from 1 to 2147483648", as_count)
    }

    /// As [`Self::count`], for a key that must be there.
    pub(super) fn needed_count(&self, key: &str) -> Result<usize, GgufError> {
        self.count(key)?.ok_or_else(|| self.wrong(key, "a whole number from 1 to 2147483648"))
    }

    /// An array of `length` counts, or one for all.
    pub(super) fn counts(&self, key: &str, length: usize) -> Result<Option<Vec<usize>>, GgufError> {
        let wanted = format!("a whole number above 0, or an array of {length} (block_count) of them");
        self.typed(key, &wanted, |value| match value {
            Value::Array(array) if array.len() == length => array.iter().map(|value| as_count(&value)).collect(),
            Value::Array(_) => None,
            one => as_count(one).map(|count| vec![count; length]),
        })
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a finite number", |value| value.as_f64().filter(|value| value.is_finite()))
    }

    /// true or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", |value| if let Value::Bool(flag) = value { Some(*flag) } else { None })
    }

    /// The id of a token.
    pub(super) fn token_id(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "the id of a token", |value| u32::try_from(value.as_u64()?).ok())
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string of UTF-8", |value| if let Value::Text(bytes) = value { std::str::from_utf8(bytes).ok() } else { None })
    }

    /// An array of any values.
    pub(super) fn array(&self, key: &str) -> Result<Option<Array<'a>>, GgufError> {
        self.typed(key, "an array", |value| if let Value::Array(array) = value { Some(*array) } else { None })
    }

    /// An array of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, GgufError> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        if !array.is_text() {
            return Err(self.wrong(key, "an array of strings"));
        }
        let text = |(index, value)| match value {
            Value::Text(bytes) => std::str::from_utf8(bytes)
                .map_err(|_| GgufError::Text { what: format!("key `{key}[{index}]`"), found: show(&String::from_utf8_lossy(bytes)) }),
            _ => Err(self.wrong(key, "an array of strings")),
        };
        array.iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
    }
}

fn as_count(value: &Value<'_>) -> Option<usize> {
    value.as_u64().filter(|value| (1..=MOST).contains(value)).map(|value| value as usize)
}
