//! JSON schemas: which of their keywords can be enforced, and which one is at fault if compiling fails.

use super::{FormError, bounds};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Keywords that are enforced.
const ENFORCED: &[&str] = &[
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
];

/// Keywords that say nothing about which values are valid.
const ANNOTATIONS: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "externalDocs",
    "id",
    "readOnly",
    "title",
    "writeOnly",
    "xml",
];

/// Keywords whose value is an object of schemas.
const MAPS: &[&str] = &["$defs", "definitions", "patternProperties", "properties"];
/// Keywords whose value is a schema, or a list of some.
const SCHEMAS: &[&str] = &["additionalItems", "additionalProperties", "allOf", "anyOf", "items", "oneOf", "prefixItems"];

/// Keywords that say which properties there are.
const OBJECT: &[&str] = &["additionalProperties", "maxProperties", "minProperties", "patternProperties", "properties", "required"];
/// Keywords that combine a schema with others.
const COMBINING: &[&str] = &["$ref", "allOf", "anyOf", "oneOf"];

/// A format that the library takes for any text.
const ANY_FORMAT: &str = "unknown";

/// How long it is looked for what is at fault.
const BLAME_TIME: Duration = Duration::from_millis(200);

/// Limits of one schema, so that compiling it is bounded: the library's own cover only a part of what it does.
const MOST_SCHEMAS: usize = 2_000;
const MOST_PROPERTIES: usize = 256;
const MOST_PATTERN_PROPERTIES: usize = 16;
const MOST_VALUES: usize = 1_000;
const MOST_PATTERN_BYTES: usize = 4_096;

/// The schema as it is compiled: without what says nothing about values, without properties that are not listed where some are and the
/// schema does not say, with bounds that hold, and with how its JSON is to be written: no white space but a space after a colon or a comma.
pub(super) fn prepared(schema: &Value) -> Value {
    let closes = !has_combined_objects(schema);
    let mut schema = match schema {
        Value::Object(fields) => fields.clone(),
        Value::Bool(true) => Map::new(),
        // Nothing is valid; as a schema that can carry the options.
        other => Map::from_iter([("enum".to_owned(), if other.is_boolean() { json!([]) } else { other.clone() })]),
    };
    edit(&mut schema, &|fields| {
        fields.retain(|key, _| ENFORCED.contains(&key.as_str()) || MAPS.contains(&key.as_str()));
        bounds::include(fields);
        if closes {
            close_object(fields);
        }
    });
    // No \u: a name that is spelled with it would not be known as the one that it is.
    let options =
        json!({"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": false, "json_allowed_escapes": "nrbtf\\\""});
    schema.insert("x-guidance".to_owned(), options);
    Value::Object(schema)
}

/// Changes a schema and all schemas in it.
fn edit(schema: &mut Map<String, Value>, change: &dyn Fn(&mut Map<String, Value>)) {
    change(schema);
    for (key, value) in schema.iter_mut() {
        match value {
            Value::Object(named) if MAPS.contains(&key.as_str()) => {
                named.values_mut().filter_map(Value::as_object_mut).for_each(|inner| edit(inner, change));
            }
            Value::Object(inner) if SCHEMAS.contains(&key.as_str()) => edit(inner, change),
            Value::Array(list) if SCHEMAS.contains(&key.as_str()) => {
                list.iter_mut().filter_map(Value::as_object_mut).for_each(|inner| edit(inner, change));
            }
            _ => {}
        }
    }
}

/// Whether some schema that says which properties there are is combined with others, which may say more.
fn has_combined_objects(schema: &Value) -> bool {
    let mut found = false;
    visit(schema, &mut Place::default(), &mut |_, schema| {
        let has = |keys: &[&str]| keys.iter().any(|key| schema.get(key).is_some());
        found |= has(&["allOf"]) || (has(OBJECT) && has(COMBINING));
    });
    found
}

/// Forbids properties that are not listed, where a schema lists some and does not say: a model would go on with others for ever.
/// Whatever is valid then is valid for the schema as it was written.
fn close_object(schema: &mut Map<String, Value>) {
    if schema.contains_key("additionalProperties") || schema.contains_key("patternProperties") {
        return;
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    // What is required without being listed may be anything.
    if required(schema).all(|name| properties.contains_key(name)) {
        schema.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
}

fn required(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Refuses what cannot be enforced, or would take too long to find out.
pub(super) fn check(schema: &Value) -> Result<(), FormError> {
    let mut places = HashSet::new();
    let mut fault = None;
    visit(schema, &mut Place::default(), &mut |place, schema| {
        places.insert(place.pointer.clone());
        if fault.is_none() {
            fault = check_one(place, schema);
        }
        if places.len() > MOST_SCHEMAS {
            fault.get_or_insert(FormError::whole(format!("is too complex: it has more than {MOST_SCHEMAS} schemas")));
        }
    });
    let (mut patterns, mut multiples, mut is_combined) = (0, 0, false);
    visit(schema, &mut Place::default(), &mut |place, schema| {
        let reference = schema.get("$ref").and_then(Value::as_str);
        if let Some(unknown) = reference.filter(|reference| !reference.strip_prefix('#').is_some_and(|path| places.contains(path))) {
            let problem = format!("cannot be enforced: '$ref': there is no schema at '{unknown}' of this schema");
            fault.get_or_insert(FormError { path: format!("{}.$ref", place.shown), problem });
        }
        multiples += usize::from(schema.get("multipleOf").is_some());
        is_combined |=
            schema.get("allOf").is_some() || (schema.get("multipleOf").is_some() && COMBINING.iter().any(|key| schema.get(key).is_some()));
        patterns += schema.get("pattern").and_then(Value::as_str).map_or(0, str::len);
        patterns += schema.get("patternProperties").and_then(Value::as_object).map_or(0, |named| named.keys().map(String::len).sum());
        if patterns > MOST_PATTERN_BYTES {
            fault.get_or_insert(FormError {
                path: place.shown.clone(),
                problem: format!("is too complex: patterns of more than {MOST_PATTERN_BYTES} bytes together"),
            });
        }
    });
    if is_combined && multiples > 1 {
        // The library takes the least common multiple in 32 bits.
        fault.get_or_insert(FormError::whole("cannot be enforced: several 'multipleOf' in schemas that are combined"));
    }
    fault.map_or(Ok(()), Err)
}

/// What is wrong with one schema, apart from those in it.
fn check_one(place: &Place, schema: &Value) -> Option<FormError> {
    let fault = |key: &str, problem: String| {
        let path = if key.is_empty() { place.shown.clone() } else { format!("{}.{key}", place.shown) };
        Some(FormError { path, problem })
    };
    let fields = match schema {
        Value::Object(fields) => fields,
        Value::Bool(_) => return None,
        _ => return fault("", "must be a schema: an object or a boolean".to_owned()),
    };
    let is_known = |key: &str| ENFORCED.contains(&key) || ANNOTATIONS.contains(&key) || (key.starts_with("x-") && key != "x-guidance");
    // Below the root they would change what references mean.
    let is_misplaced = |key: &str| matches!(key, "$id" | "id" | "$schema") && !place.pointer.is_empty();
    if let Some(key) = fields.keys().find(|key| !is_known(key) || is_misplaced(key)) {
        return fault(key, format!("cannot be enforced: the keyword '{key}' is not supported{}", if is_known(key) { " here" } else { "" }));
    }
    if fields.get("format").is_some_and(|format| format == ANY_FORMAT) {
        return fault("format", "cannot be enforced: 'format': no such format".to_owned());
    }
    if let Some(key) = EXACT.iter().find(|key| fields.get(**key).is_some_and(has_inexact_number)) {
        return fault(key, format!("cannot be enforced: '{key}': an integer above 2^53"));
    }
    if let Some((key, problem)) =
        check_arrays(fields).or_else(|| check_sizes(fields)).or_else(|| check_counted(fields)).or_else(|| bounds::check(fields))
    {
        return fault(key, problem);
    }
    None
}

/// Keywords whose numbers are compared.
const EXACT: &[&str] = &["const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];

/// Whether a number in it is an integer that a double cannot hold.
fn has_inexact_number(value: &Value) -> bool {
    const EXACTLY: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => !number.is_f64() && number.as_f64().is_none_or(|number| number.abs() >= EXACTLY),
        Value::Array(items) => items.iter().any(has_inexact_number),
        Value::Object(fields) => fields.values().any(has_inexact_number),
        _ => false,
    }
}

/// Keywords of lists that the library would pass over beside each other.
fn check_arrays(fields: &Map<String, Value>) -> Option<(&'static str, String)> {
    let is_list = fields.get("items").is_some_and(Value::is_array);
    if fields.contains_key("additionalItems") && !is_list {
        return Some(("additionalItems", "cannot be enforced: 'additionalItems' without a list of 'items'".to_owned()));
    }
    if fields.contains_key("prefixItems") && is_list {
        return Some(("prefixItems", "cannot be enforced: 'prefixItems' beside a list of 'items'".to_owned()));
    }
    None
}

fn check_sizes(fields: &Map<String, Value>) -> Option<(&'static str, String)> {
    let size = |key: &str| fields.get(key).map_or(0, |value| value.as_object().map_or(0, Map::len) + value.as_array().map_or(0, Vec::len));
    let limits = [
        ("properties", MOST_PROPERTIES),
        ("patternProperties", MOST_PATTERN_PROPERTIES),
        ("required", MOST_PROPERTIES),
        ("enum", MOST_VALUES),
        ("anyOf", MOST_PROPERTIES),
        ("oneOf", MOST_PATTERN_PROPERTIES),
        ("allOf", MOST_PATTERN_PROPERTIES),
        ("prefixItems", MOST_PROPERTIES),
    ];
    let (key, most) = limits.into_iter().find(|(key, most)| size(key) > *most)?;
    Some((key, format!("is too complex: '{key}' has more than {most} entries")))
}

/// Properties that are counted while their names may come twice.
fn check_counted(fields: &Map<String, Value>) -> Option<(&'static str, String)> {
    let least = fields.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
    let is_closed = fields.get("additionalProperties") == Some(&Value::Bool(false)) && !fields.contains_key("patternProperties");
    // One name that is not listed is another one than those that are.
    if is_closed || least <= required(fields).count() as u64 + 1 {
        return None;
    }
    Some(("minProperties", "cannot be enforced: 'minProperties' where other properties than those listed are allowed".to_owned()))
}

/// Finds the smallest part of `schema` that does not compile by itself, and in it the keyword without which it would. `problem` is what the
/// whole schema failed with.
pub(super) fn blame(schema: &Value, problem: String, compiles: &dyn Fn(&Value) -> Result<(), String>) -> FormError {
    let search = Search { definitions: definitions(schema), until: Instant::now() + BLAME_TIME, compiles };
    let (path, part, problem) = search.smallest(schema, problem);
    let keyword = part.as_object().and_then(|fields| search.keyword(fields));
    match keyword {
        Some(keyword) => FormError { path: format!("{path}.{keyword}"), problem: format!("cannot be enforced: '{keyword}': {problem}") },
        None => FormError { path, problem: format!("cannot be enforced: {problem}") },
    }
}

/// What references in any part of the schema may refer to.
fn definitions(schema: &Value) -> Vec<(String, Value)> {
    let named = |name: &str| schema.get(name).map(|value| (name.to_owned(), value.clone()));
    ["$defs", "definitions"].into_iter().filter_map(named).collect()
}

struct Search<'a> {
    definitions: Vec<(String, Value)>,
    until: Instant,
    compiles: &'a dyn Fn(&Value) -> Result<(), String>,
}

impl Search<'_> {
    /// What is wrong with a part by itself, if there is time to find out.
    fn problem(&self, part: &Value) -> Option<String> {
        if Instant::now() > self.until {
            return None;
        }
        let mut part = part.clone();
        if let Value::Object(fields) = &mut part {
            for (name, value) in &self.definitions {
                fields.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        (self.compiles)(&part).err()
    }

    fn smallest<'a>(&self, schema: &'a Value, problem: String) -> (String, &'a Value, String) {
        let (mut place, mut part, mut problem) = (Place::default(), schema, problem);
        loop {
            let failing = children(part).find_map(|(key, inner, child)| Some((key, inner, child, self.problem(child)?)));
            let Some((key, inner, child, reason)) = failing else { return (place.shown, part, problem) };
            place.enter(key, inner.as_ref());
            (part, problem) = (child, reason);
        }
    }

    /// The keyword without which the schema compiles; `type` last, since much means something else without it.
    fn keyword(&self, fields: &Map<String, Value>) -> Option<String> {
        let compiles_without = |key: &&String| {
            let mut rest = fields.clone();
            rest.remove(key.as_str());
            Instant::now() < self.until && self.problem(&Value::Object(rest)).is_none()
        };
        let candidates = fields.keys().filter(|key| *key != "type" && ENFORCED.contains(&key.as_str()));
        candidates.chain(fields.get_key_value("type").map(|(key, _)| key)).find(compiles_without).cloned()
    }
}

/// Where a schema stands in another one: as errors show it (`.properties.age`), and as references write it (`/properties/age`).
#[derive(Clone, Debug, Default)]
struct Place {
    shown: String,
    pointer: String,
}

impl Place {
    /// A place below this one.
    fn enter(&mut self, key: &str, inner: Option<&Inner<'_>>) {
        let (shown, pointer) = match inner {
            None => (format!(".{key}"), format!("/{key}")),
            Some(Inner::Name(name)) => (format!(".{key}.{name}"), format!("/{key}/{name}")),
            Some(Inner::Index(index)) => (format!(".{key}[{index}]"), format!("/{key}/{index}")),
        };
        self.shown.push_str(&shown);
        self.pointer.push_str(&pointer);
    }
}

/// Which of the schemas of a keyword.
enum Inner<'a> {
    Name(&'a str),
    Index(usize),
}

/// The schemas directly in a schema, each with its keyword and its place there.
fn children(schema: &Value) -> impl Iterator<Item = (&str, Option<Inner<'_>>, &Value)> {
    let fields = schema.as_object().into_iter().flatten();
    fields.flat_map(|(key, value)| -> Vec<(&str, Option<Inner<'_>>, &Value)> {
        match value {
            Value::Object(named) if MAPS.contains(&key.as_str()) => {
                named.iter().map(|(name, child)| (key.as_str(), Some(Inner::Name(name)), child)).collect()
            }
            Value::Array(list) if SCHEMAS.contains(&key.as_str()) => {
                list.iter().enumerate().map(|(index, child)| (key.as_str(), Some(Inner::Index(index)), child)).collect()
            }
            _ if SCHEMAS.contains(&key.as_str()) => vec![(key.as_str(), None, value)],
            _ => Vec::new(),
        }
    })
}

/// Calls `found` with every schema in `schema`, itself included, and its place. As deep as the schema is, which the parser of JSON limits.
fn visit(schema: &Value, place: &mut Place, found: &mut dyn FnMut(&Place, &Value)) {
    found(place, schema);
    for (key, inner, child) in children(schema) {
        let (shown, pointer) = (place.shown.len(), place.pointer.len());
        place.enter(key, inner.as_ref());
        visit(child, place, found);
        place.shown.truncate(shown);
        place.pointer.truncate(pointer);
    }
}
