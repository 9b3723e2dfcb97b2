//! Values of the metadata, borrowed from the file.
//!
//! **Architecture invariant:** reading a value takes no memory: an array is checked from end to end and then stays where it lies.

use super::GgufError;
use super::cursor::{Cursor, Short};
use super::error::show;

/// Most arrays in one another. Files in use have one.
const MOST_NESTED: usize = 4;

/// Types of values, by their numbers in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Self; 13] = {
        use Kind::{Array, Bool, F32, F64, I8, I16, I32, I64, Text, U8, U16, U32, U64};
        [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64]
    };

    /// Bytes of a value; of a string or array the fewest.
    fn fewest_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::Array => 12,
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Text => "strings",
            Self::Array => "arrays",
            Self::Bool => "booleans",
            Self::F32 | Self::F64 => "floats",
            _ => "integers",
        }
    }
}

/// A value. Numbers are widened, which loses nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    /// Not yet known to be UTF-8.
    Text(&'a [u8]),
    Array(Array<'a>),
}

/// Values of one type, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Array<'a> {
    kind: Kind,
    count: usize,
    /// Holds exactly `count` values.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_text(&self) -> bool {
        self.kind == Kind::Text
    }

    /// All values in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, mut cursor) = (self.kind, Cursor::new(self.bytes));
        // What was checked when the file was read cannot fail now; if it did, the array would end.
        (0..self.count).map_while(move |_| read(&mut cursor, kind, "", 0).ok())
    }
}

impl Value<'_> {
    /// As a message shows it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(bytes) => format!("\"{}\"", show(&String::from_utf8_lossy(&bytes[..bytes.len().min(300)]))),
            Self::Array(array) => format!("an array of {} {}", array.count, array.kind.plural()),
        }
    }

    /// As a whole number that is not negative.
    pub(super) fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// As a number.
    pub(super) fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Unsigned(value) => Some(value as f64),
            Self::Signed(value) => Some(value as f64),
            Self::Float(value) => Some(value),
            _ => None,
        }
    }
}

/// Reads the type and value of `key`.
pub(super) fn read_value<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Value<'a>, GgufError> {
    let kind = read_kind(cursor, key)?;
    read(cursor, kind, key, 0)
}

fn read_kind(cursor: &mut Cursor<'_>, key: &str) -> Result<Kind, GgufError> {
    let found = cursor.u32().map_err(|short| short.of(format!("the type of key `{}`", show(key))))?;
    Kind::ALL.get(found as usize).copied().ok_or_else(|| GgufError::ValueType { key: show(key), found })
}

/// Reads a value; of an array, `depth` arrays lie around it.
fn read<'a>(cursor: &mut Cursor<'a>, kind: Kind, key: &str, depth: usize) -> Result<Value<'a>, GgufError> {
    let short = |short: Short| short.of(format!("the value of key `{}`", show(key)));
    Ok(match kind {
        Kind::U8 => Value::Unsigned(u64::from(u8::from_le_bytes(cursor.array().map_err(short)?))),
        Kind::I8 => Value::Signed(i64::from(i8::from_le_bytes(cursor.array().map_err(short)?))),
        Kind::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(cursor.array().map_err(short)?))),
        Kind::I16 => Value::Signed(i64::from(i16::from_le_bytes(cursor.array().map_err(short)?))),
        Kind::U32 => Value::Unsigned(u64::from(u32::from_le_bytes(cursor.array().map_err(short)?))),
        Kind::I32 => Value::Signed(i64::from(i32::from_le_bytes(cursor.array().map_err(short)?))),
        Kind::U64 => Value::Unsigned(u64::from_le_bytes(cursor.array().map_err(short)?)),
        Kind::I64 => Value::Signed(i64::from_le_bytes(cursor.array().map_err(short)?)),
        Kind::F32 => Value::Float(f64::from(f32::from_le_bytes(cursor.array().map_err(short)?))),
        Kind::F64 => Value::Float(f64::from_le_bytes(cursor.array().map_err(short)?)),
        Kind::Bool => match u8::from_le_bytes(cursor.array().map_err(short)?) {
            byte @ 0..=1 => Value::Bool(byte == 1),
            byte => return Err(GgufError::Key { key: show(key), found: format!("the byte {byte}"), wanted: "0 or 1 (a boolean)".into() }),
        },
        Kind::Text => Value::Text(cursor.string().map_err(short)?),
        Kind::Array if depth >= MOST_NESTED => return Err(GgufError::Nested { key: show(key), most: MOST_NESTED }),
        Kind::Array => Value::Array(read_array(cursor, key, depth)?),
    })
}

fn read_array<'a>(cursor: &mut Cursor<'a>, key: &str, depth: usize) -> Result<Array<'a>, GgufError> {
    let what = || format!("the array of key `{}`", show(key));
    let kind = read_kind(cursor, key)?;
    let found = cursor.u64().map_err(|short| short.of(what()))?;
    let (left, most) = (cursor.left(), (cursor.left() / kind.fewest_bytes()) as u64);
    if found > most {
        return Err(GgufError::Count { what: what(), found, most, left });
    }
    let before = *cursor;
    match kind {
        Kind::Text | Kind::Array | Kind::Bool => {
            for _ in 0..found {
                read(cursor, kind, key, depth + 1)?;
            }
        }
        // Any bytes are such numbers. The product is at most the bytes that are left.
        _ => drop(cursor.take(found * kind.fewest_bytes() as u64).map_err(|short| short.of(what()))?),
    }
    let mut start = before;
    let bytes = start.take((cursor.at() - before.at()) as u64).map_err(|short| short.of(what()))?;
    Ok(Array { kind, count: found as usize, bytes })
}
