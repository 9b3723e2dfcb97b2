//! Bounds of numbers that exclude their own value, written as bounds that include theirs.
//!
//! `llguidance` 1.9 lets `0` through for `0 < x < 0.1`, and `-5` for `-5.25 < x < -5`: it forgets that the bound nearer to zero is excluded
//! where that has no fraction and the other one has the same integer part. So that bound is moved away from zero by the smallest step that
//! matters to nobody. What is left is a part of what the schema allows.

use serde_json::{Map, Value};

/// The smallest step.
const STEP: f64 = 1e-9;
/// Steps of large numbers are this part of them, so that they are not lost where a number is written and read again.
const RELATIVE_STEP: f64 = 1e-15;

/// Replaces the excluding bounds that would not hold. For integers nothing changes: the library rounds bounds towards the range.
pub(super) fn include(schema: &mut Map<String, Value>) {
    let lower = excluded(schema, "exclusiveMinimum", "minimum").filter(|bound| bound.fract() == 0.0);
    let upper = excluded(schema, "exclusiveMaximum", "maximum").filter(|bound| bound.fract() == 0.0 && *bound <= 0.0);
    if let Some(bound) = lower {
        let least = number(schema, "minimum").map_or(above(bound), |least| least.max(above(bound)));
        replace(schema, ("exclusiveMinimum", "minimum"), least);
    }
    if let Some(bound) = upper {
        let most = number(schema, "maximum").map_or(-above(-bound), |most| most.min(-above(-bound)));
        replace(schema, ("exclusiveMaximum", "maximum"), most);
    }
}

/// What is wrong if no number is left of a range that had some: the keyword at fault and the problem.
pub(super) fn check(schema: &Map<String, Value>) -> Option<(&'static str, String)> {
    let keyword = ["exclusiveMinimum", "exclusiveMaximum"].into_iter().find(|key| schema.contains_key(*key))?;
    let mut included = schema.clone();
    include(&mut included);
    if is_empty(schema) || !is_empty(&included) {
        return None;
    }
    Some((keyword, format!("cannot be enforced: '{keyword}': the range is too narrow, nothing in it is {STEP} away from the bound")))
}

/// The excluded bound. Draft 4 writes it as `true` beside the bound itself.
fn excluded(schema: &Map<String, Value>, key: &str, beside: &str) -> Option<f64> {
    // What stands beside it and is no number is for the library to refuse.
    let is_plain = schema.get(beside).is_none_or(Value::is_number);
    match schema.get(key).filter(|_| is_plain)? {
        Value::Bool(true) => number(schema, beside),
        value => value.as_f64(),
    }
}

fn number(schema: &Map<String, Value>, key: &str) -> Option<f64> {
    schema.get(key)?.as_f64()
}

/// A number a step above another one.
fn above(bound: f64) -> f64 {
    (bound + (bound.abs() * RELATIVE_STEP).clamp(STEP, 1.0)).max(bound.next_up())
}

fn replace(schema: &mut Map<String, Value>, (excluding, including): (&str, &str), bound: f64) {
    schema.remove(excluding);
    // Integers of sixteen digits survive being written as such only.
    #[allow(clippy::cast_possible_truncation)] // checked to be integral and in range
    let value = if bound.fract() == 0.0 && bound.abs() < 9e18 { Value::from(bound as i64) } else { Value::from(bound) };
    schema.insert(including.to_owned(), value);
}

/// Whether no number lies within the bounds.
fn is_empty(schema: &Map<String, Value>) -> bool {
    let lower = [number(schema, "minimum"), excluded(schema, "exclusiveMinimum", "minimum")];
    let upper = [number(schema, "maximum"), excluded(schema, "exclusiveMaximum", "maximum")];
    let least = lower.into_iter().flatten().fold(f64::NEG_INFINITY, f64::max);
    let most = upper.into_iter().flatten().fold(f64::INFINITY, f64::min);
    let is_excluded = lower[1] == Some(least) || upper[1] == Some(most);
    least > most || (least == most && is_excluded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn included(schema: Value) -> Value {
        let Value::Object(mut fields) = schema else { panic!() };
        include(&mut fields);
        Value::Object(fields)
    }

    #[test]
    fn excluding_bounds_without_a_fraction_become_including_ones() {
        for (schema, wanted) in [
            (json!({"exclusiveMinimum": 0}), json!({"minimum": 1e-9})),
            (json!({"exclusiveMinimum": 5.0}), json!({"minimum": 5.000_000_001})),
            (json!({"minimum": 5, "exclusiveMinimum": true}), json!({"minimum": 5.000_000_001})),
            (json!({"minimum": 7, "exclusiveMinimum": 5}), json!({"minimum": 7})),
            (json!({"exclusiveMinimum": -5}), json!({"minimum": -4.999_999_999})),
            (json!({"exclusiveMaximum": 0}), json!({"maximum": -1e-9})),
            (json!({"maximum": -7.5, "exclusiveMaximum": -5}), json!({"maximum": -7.5})),
            (json!({"exclusiveMinimum": 9_007_199_254_740_990i64}), json!({"minimum": 9_007_199_254_740_991i64})),
        ] {
            assert_eq!(included(schema.clone()), wanted, "{schema}");
        }
    }

    #[test]
    fn all_other_bounds_stay() {
        for schema in [
            json!({"exclusiveMinimum": 0.5, "exclusiveMaximum": 1}),
            json!({"exclusiveMaximum": -0.5}),
            json!({"minimum": 0, "maximum": 0, "exclusiveMinimum": false}),
            json!({"minimum": "0", "exclusiveMinimum": 0}),
            json!({"exclusiveMinimum": true}),
            json!({"exclusiveMinimum": "0"}),
        ] {
            assert_eq!(included(schema.clone()), schema);
        }
    }

    #[test]
    fn a_range_without_anything_left_is_refused() {
        let fault = |schema: Value| check(schema.as_object().unwrap()).map(|(keyword, _)| keyword);
        assert_eq!(fault(json!({"exclusiveMinimum": 0, "maximum": 1e-10})), Some("exclusiveMinimum"));
        assert_eq!(fault(json!({"minimum": -1e-10, "exclusiveMaximum": 0})), Some("exclusiveMaximum"));
        for fine in
            [json!({"exclusiveMinimum": 0, "maximum": 1e-9}), json!({"exclusiveMinimum": 0, "exclusiveMaximum": 0}), json!({"minimum": 1})]
        {
            assert_eq!(fault(fine.clone()), None, "{fine}");
        }
    }

    #[test]
    fn a_bound_is_moved_whatever_its_size() {
        for bound in [0.0, 1.0, 1e7, 123_456_789_012_345.0, 9e15, 1e17, -1.0, -1e15] {
            assert!(above(bound) > bound, "{bound}");
            let written = serde_json::to_string(&included(json!({"exclusiveMinimum": bound}))).unwrap();
            let read: Value = serde_json::from_str(&written).unwrap();
            assert!(read["minimum"].as_f64().unwrap() > bound, "{written}");
        }
    }
}
