//! The configuration file: flat TOML, keys as the flags are called.

use super::keys::{KEYS, Key, Kind};
use super::layers::{Layers, Origin, Setting, form};
use super::mistake::hint;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Adds the settings of the file at `path` to `layers`; `named_by` is the flag or variable that named it.
pub(super) fn read(path: &Path, named_by: Origin, layers: &mut Layers) {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&path.display().to_string(), &text, layers),
        Err(error) => layers.mistake(named_by, Some(path.display().to_string()), format!("cannot read the configuration file: {error}")),
    }
}

/// Adds the settings of `text`, which stands in the file `path`.
pub(super) fn parse(path: &str, text: &str, layers: &mut Layers) {
    let line_of = |position: usize| text.as_bytes()[..position.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let origin = Origin::File { path: path.to_owned(), line: error.span().map(|span| line_of(span.start)), key: None };
        layers.mistake(origin, None, format!("not valid TOML: {}", error.message()));
    }
    let mut entries: Vec<_> = table.into_inner().into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let mut seen: Vec<&str> = Vec::new();
    for (name, value) in entries {
        let line = Some(line_of(name.span().start));
        let origin = Origin::File { path: path.to_owned(), line, key: Some(name.get_ref().to_string()) };
        let Some(key) = KEYS.iter().find(|key| key.name == name.get_ref().replace('_', "-")) else {
            layers.mistake(origin, None, unknown(name.get_ref(), &value));
            continue;
        };
        if seen.contains(&key.name) {
            layers.mistake(origin, None, format!("`{}` stands in the file twice", key.name));
            continue;
        }
        seen.push(key.name);
        match texts(key, value.get_ref()) {
            Some(values) => layers.set(key, Setting { values, origin }),
            None => layers.mistake(origin, None, format!("expected {}, found {}", form(key), value.get_ref().type_str())),
        }
    }
}

/// What to say of a key that is not in the table.
fn unknown(name: &str, value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::Table(_) => "no such key; settings stand at the top of the file, not in tables".to_owned(),
        _ => format!("no such key{}", hint(&name.replace('_', "-"), KEYS.iter().map(|key| key.name))),
    }
}

/// The value as the texts a flag would have; `None` where its type does not fit.
fn texts(key: &Key, value: &DeValue<'_>) -> Option<Vec<String>> {
    match (value, key.kind) {
        (DeValue::Array(items), Kind::Many(_) | Kind::Secrets(_)) => {
            items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        }
        (DeValue::String(text), Kind::Many(_) | Kind::Secrets(_)) => Some(Setting::split(key, text)),
        (DeValue::Boolean(value), Kind::Switch(_)) => Some(vec![value.to_string()]),
        (DeValue::String(text), Kind::One(_) | Kind::Switch(_)) => Some(vec![text.to_string()]),
        (DeValue::Integer(number), Kind::One(_)) => Some(vec![number.to_string()]),
        (DeValue::Float(number), Kind::One(_)) => Some(vec![number.to_string()]),
        _ => None,
    }
}
