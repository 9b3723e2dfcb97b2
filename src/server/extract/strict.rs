//! Strict JSON: an object at the top, no key twice anywhere, nested at most 128 deep (serde_json's own limit).
//!
//! Of two equal keys most parsers silently take the last one; a client that sends two meant something that would not happen.

use crate::api::input::kind;
use crate::server::error::ApiError;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::{Cell, RefCell};
use std::fmt;

/// Parses the body of a request.
///
/// # Errors
/// 400: not JSON (with the key whose value is none, if there is one), nested too deep, a duplicate key, not an object, more than `max_values` values.
pub fn parse_object(body: &[u8], max_values: usize) -> Result<Map<String, Value>, ApiError> {
    let found = Findings { fault: RefCell::new(None), left: Cell::new(max_values) };
    let seed = Strict { path: &Path::Root, found: &found };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match parsed {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(ApiError::NotAnObject { found: kind(&other) }),
        Err(error) => Err(match found.fault.take() {
            Some(Fault::TooMany { param }) => {
                ApiError::invalid(param, format!("makes the request too long: it has more than {max_values} JSON values"))
            }
            Some(Fault::Duplicate { path }) => ApiError::InvalidJson { detail: error.to_string(), param: Some(path) },
            // Where a body is cut off says nothing of the parameter.
            Some(Fault::NoJson { path }) if !path.is_empty() && !error.is_eof() => {
                ApiError::InvalidJson { detail: error.to_string(), param: Some(path) }
            }
            Some(Fault::NoJson { .. }) | None => ApiError::InvalidJson { detail: error.to_string(), param: None },
        }),
    }
}

/// What is found beside the values.
struct Findings {
    /// What is wrong, if it is not the JSON itself.
    fault: RefCell<Option<Fault>>,
    /// How many more values there may be.
    left: Cell<usize>,
}

enum Fault {
    /// A key stands twice in an object.
    Duplicate { path: String },
    /// A value that is no JSON, such as NaN; the innermost one.
    NoJson { path: String },
    /// There are too many values; the key at the top in which there is one too many.
    TooMany { param: String },
}

/// Where a value stands; a list on the stack, so that nothing is allocated unless there is an error.
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl Path<'_> {
    /// The key at the top.
    fn top(&self) -> &str {
        match self {
            Self::Root => "body",
            Self::Key(Self::Root, key) => key,
            Self::Key(parent, _) | Self::Index(parent, _) => parent.top(),
        }
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    path: &'a Path<'a>,
    found: &'a Findings,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(left) = self.found.left.get().checked_sub(1) else {
            *self.found.fault.borrow_mut() = Some(Fault::TooMany { param: self.path.top().to_owned() });
            return Err(de::Error::custom("too many values"));
        };
        self.found.left.set(left);
        deserializer.deserialize_any(self).inspect_err(|_| {
            // What is found first lies innermost.
            self.found.fault.borrow_mut().get_or_insert_with(|| Fault::NoJson { path: self.path.to_string() });
        })
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(value) = elements.next_element_seed(Strict { path: &Path::Index(self.path, array.len()), found: self.found })? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = Path::Key(self.path, &key);
            if object.contains_key(&key) {
                *self.found.fault.borrow_mut() = Some(Fault::Duplicate { path: path.to_string() });
                return Err(de::Error::custom(format_args!("duplicate key '{path}'")));
            }
            let value = entries.next_value_seed(Strict { path: &path, found: self.found })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
        super::parse_object(body, 10_000)
    }

    #[test]
    fn too_many_values_are_refused_by_name_where_they_become_too_many() {
        let refused = |body: &str| match super::parse_object(body.as_bytes(), 5) {
            Err(ApiError::InvalidValue { param, .. }) => Some(param),
            Err(other) => panic!("{other:?}"),
            Ok(_) => None,
        };
        assert_eq!(refused(r#"{"prompt":[1,2,3]}"#), None);
        assert_eq!(refused(r#"{"prompt":[1,2,3,4 and nothing after it is looked at"#).as_deref(), Some("prompt"));
        assert_eq!(refused(r#"{"n":1,"prompt":[[1],[{"#).as_deref(), Some("prompt"));
    }

    fn error(body: &str) -> ApiError {
        parse_object(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn duplicate_keys_are_named_with_their_path() {
        for (body, path) in [
            (r#"{"n":1,"n":2}"#, "n"),
            (r#"{"stream_options":{"include_usage":true,"include_usage":true}}"#, "stream_options.include_usage"),
            (r#"{"messages":[{},{"role":"a","role":"b"}]}"#, "messages[1].role"),
        ] {
            let ApiError::InvalidJson { param, detail } = error(body) else { panic!("{body}") };
            assert_eq!(param.as_deref(), Some(path));
            assert!(detail.contains("duplicate key"), "{detail}");
        }
    }

    #[test]
    fn what_is_not_json_or_not_an_object() {
        for body in ["", "{", "{'a':1}", "{\"a\":1} x", "{\"a\":1", "{\"a\":{\"b\":", "\u{feff}{}"] {
            assert!(matches!(error(body), ApiError::InvalidJson { param: None, .. }), "{body}: {:?}", error(body));
        }
        for (body, path) in
            [("{\"a\":NaN}", "a"), ("{\"a\":1e999}", "a"), ("{\"a\":\"\\ud800\"}", "a"), ("{\"a\":{\"b\":[1,-Infinity]}}", "a.b[1]")]
        {
            let ApiError::InvalidJson { param, .. } = error(body) else { panic!("{body}") };
            assert_eq!(param.as_deref(), Some(path), "{body}");
        }
        assert!(matches!(parse_object(b"{\"a\":\"\xff\"}").unwrap_err(), ApiError::InvalidJson { .. }));
        for (body, found) in [("[]", "an array"), ("null", "null"), ("\"x\"", "a string")] {
            assert_eq!(error(body), ApiError::NotAnObject { found });
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse_object(nested(100).as_bytes()).is_ok());
        assert!(matches!(error(&nested(10_000)), ApiError::InvalidJson { .. }));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_what_it_accepts(keys in proptest::collection::btree_map("[a-z]{0,3}", any::<i64>(), 0..5), text in ".*", f in any::<f64>()) {
            let mut object: Map<String, Value> = keys.into_iter().map(|(k, v)| (k, Value::from(v))).collect();
            object.insert("LIST".into(), serde_json::json!([text, f, null, true, {"x": {}}]));
            let body = serde_json::to_vec(&object).unwrap();
            prop_assert_eq!(parse_object(&body).unwrap(), serde_json::from_slice::<Map<String, Value>>(&body).unwrap());
        }

        #[test]
        fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_object(&body);
        }
    }
}
