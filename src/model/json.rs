//! Typed reads of a JSON object, with errors that name file, key, what was found and what is right.

use super::LoadError;
use serde_json::{Map, Value};

/// One parsed file, an object.
pub(super) struct JsonFile {
    file: String,
    map: Map<String, Value>,
}

/// A short text of a value for messages.
fn show(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { format!("{}…", text.chars().take(60).collect::<String>()) }
}

impl JsonFile {
    /// Parses `bytes`.
    ///
    /// # Errors
    /// [`LoadError::Json`] when it is not a JSON object.
    pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Self, LoadError> {
        let fail = |detail: String| LoadError::Json { file: file.to_string(), detail };
        match serde_json::from_slice(bytes).map_err(|e| fail(e.to_string()))? {
            Value::Object(map) => Ok(Self { file: file.to_string(), map }),
            other => Err(fail(format!("{} stands where an object is expected", show(&other)))),
        }
    }

    /// The error for `key`.
    pub(super) fn wrong(&self, key: &str, found: impl Into<String>, wanted: impl Into<String>) -> LoadError {
        LoadError::Key { file: self.file.clone(), key: key.to_string(), found: found.into(), wanted: wanted.into() }
    }

    /// The value, where an absent key and `null` are the same.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn typed<T>(&self, key: &str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, show(value), wanted))
    }

    /// A whole number of at least 1 and at most 2^31.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, LoadError> {
        self.typed(key, "a whole number from 1 to 2147483648", as_count)
    }

    /// As [`Self::count`], with a default.
    pub(super) fn count_or(&self, key: &str, default: usize) -> Result<usize, LoadError> {
        Ok(self.count(key)?.unwrap_or(default))
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// true or false.
    pub(super) fn flag_or(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, LoadError> {
        self.typed(key, "a string", |v| v.as_str().map(String::from))
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, LoadError> {
        self.typed(key, "a list of strings", |v| v.as_array()?.iter().map(|v| v.as_str().map(String::from)).collect())
    }

    /// A list of `length` whole numbers of at least 1, or one for all.
    pub(super) fn counts(&self, key: &str, length: usize) -> Result<Option<Vec<usize>>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wanted = format!("a whole number above 0, or a list of {length} (num_transformer_layers) of them");
        let list = match value {
            Value::Array(list) => list.iter().map(as_count).collect::<Option<Vec<_>>>(),
            one => as_count(one).map(|v| vec![v; length]),
        };
        match list {
            Some(list) if list.len() == length => Ok(Some(list)),
            Some(list) => Err(self.wrong(key, format!("a list of {}", list.len()), wanted)),
            None => Err(self.wrong(key, show(value), wanted)),
        }
    }

    /// Per-layer multipliers: a number for all layers, a (from, to) pair spread over them, or a list with one each.
    pub(super) fn multipliers(&self, key: &str, length: usize, default: f64) -> Result<Vec<f64>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(vec![default; length]) };
        let wanted = format!("a number above 0, a pair [first, last], or a list of {length} (num_transformer_layers)");
        let list = match value {
            Value::Array(list) => list.iter().map(as_multiplier).collect::<Option<Vec<_>>>(),
            one => as_multiplier(one).map(|v| vec![v; length]),
        };
        match list {
            Some(list) if list.len() == length => Ok(list),
            Some(list) if list.len() == 2 => Ok(spread(list[0], list[1], length)),
            Some(list) => Err(self.wrong(key, format!("a list of {}", list.len()), wanted)),
            None => Err(self.wrong(key, show(value), wanted)),
        }
    }

    /// One token id or a list of them.
    pub(super) fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>, LoadError> {
        let id = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
        self.typed(key, "a token id or a list of token ids", |v| match v {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|v| vec![v]),
        })
    }
}

fn as_count(value: &Value) -> Option<usize> {
    value.as_u64().filter(|v| (1..=1 << 31).contains(v)).map(|v| v as usize)
}

fn as_multiplier(value: &Value) -> Option<f64> {
    value.as_f64().filter(|v| v.is_finite() && *v > 0.0 && *v <= 1e6)
}

/// `length` values from `first` to `last`, each rounded to two decimals (OpenELM's configuration class).
fn spread(first: f64, last: f64, length: usize) -> Vec<f64> {
    let step = (last - first) / (length.max(2) - 1) as f64;
    let value = |i: usize| if i + 1 == length && length > 1 { last } else { first + i as f64 * step };
    // Formatting rounds the exact binary value half to even, as the reference's rounding does.
    (0..length).map(|i| format!("{:.2}", value(i)).parse().unwrap_or_else(|_| value(i))).collect()
}
