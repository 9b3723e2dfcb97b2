//! Numbers as clients write them: `16` and `16.0` are the same integer, `1` is a number like `1.0`; a string or a boolean is neither.

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;

/// Decodes an optional integer (`null` = absent). A number with a fraction or outside `i64` is an error.
///
/// # Errors
/// The deserializer's own.
pub fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    deserializer.deserialize_any(IntegerVisitor)
}

/// Decodes an optional list of integers (`null` = absent).
///
/// # Errors
/// The deserializer's own.
pub fn integers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<i64>>, D::Error> {
    let elements = Option::<Vec<Element>>::deserialize(deserializer)?;
    Ok(elements.map(|elements| elements.into_iter().map(|element| element.0).collect()))
}

/// An integer of a list, where `null` is none.
struct Element(i64);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        integer(deserializer)?.map(Self).ok_or_else(|| de::Error::invalid_type(de::Unexpected::Unit, &IntegerVisitor))
    }
}

/// Decodes an optional number (`null` = absent).
///
/// # Errors
/// The deserializer's own.
pub fn float<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    deserializer.deserialize_any(FloatVisitor)
}

/// The integer that `value` stands for, if it is one and fits.
pub(crate) fn integral(value: f64) -> Option<i64> {
    // 2^63 is the first f64 that an i64 cannot hold. -2^63 it can, but smaller integers are read as that, too.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    #[allow(clippy::cast_possible_truncation)] // checked to be integral and in range
    (value.fract() == 0.0 && value > -LIMIT && value < LIMIT).then_some(value as i64)
}

struct IntegerVisitor;

impl<'de> Visitor<'de> for IntegerVisitor {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        i64::try_from(value).map(Some).map_err(|_| E::custom(format_args!("{value} is too large for a 64-bit integer")))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        integral(value).map(Some).ok_or_else(|| E::invalid_value(de::Unexpected::Float(value), &self))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct FloatVisitor;

impl<'de> Visitor<'de> for FloatVisitor {
    type Value = Option<f64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    #[allow(clippy::cast_precision_loss)] // every parameter's range is far below 2^53
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value as f64))
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}
