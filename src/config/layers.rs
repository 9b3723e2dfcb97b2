//! The layers of a configuration, merged as text: which words were given for a setting, and where.

use super::keys::{Key, Kind};
use super::mistake::Mistake;
use std::collections::BTreeMap;
use std::fmt;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default.
    Default,
    /// This file; the key and its line where there is one.
    File {
        /// As it was named.
        path: String,
        /// 1-based line.
        line: Option<usize>,
        /// As it was written.
        key: Option<String>,
    },
    /// This variable.
    Variable(String),
    /// This flag, as it is written.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
            Self::File { path, line, key } => {
                f.write_str(path)?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                key.as_ref().map_or(Ok(()), |key| write!(f, ": {key}"))
            }
        }
    }
}

/// What one layer says about one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Exactly one text, but for lists.
    pub(super) values: Vec<String>,
    /// Where they stand.
    pub(super) origin: Origin,
}

impl Setting {
    /// The values in `text`: for a list the parts between commas, else the text itself.
    pub(super) fn split(key: &Key, text: &str) -> Vec<String> {
        if key.is_list() { text.split(',').map(|part| part.trim().to_owned()).collect() } else { vec![text.to_owned()] }
    }

    /// What the table says.
    pub(super) fn default_of(key: &Key) -> Self {
        let empty = key.is_list() && key.default.is_empty();
        Self { values: if empty { Vec::new() } else { Self::split(key, key.default) }, origin: Origin::Default }
    }
}

/// Settings by name, later layers over earlier ones, and the mistakes met on the way.
#[derive(Debug, Default)]
pub(super) struct Layers {
    settings: BTreeMap<&'static str, Setting>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Layers {
    /// Lays `setting` over what earlier layers said.
    pub(super) fn set(&mut self, key: &'static Key, setting: Setting) {
        self.settings.insert(key.name, setting);
    }

    /// What the topmost layer says, or the default.
    pub(super) fn get(&self, key: &'static Key) -> Setting {
        self.settings.get(key.name).cloned().unwrap_or_else(|| Setting::default_of(key))
    }

    /// Notes a mistake.
    pub(super) fn mistake(&mut self, origin: Origin, value: Option<String>, problem: String) {
        self.mistakes.push(Mistake { origin, value, problem });
    }
}

/// What values a setting takes, in words.
pub(super) fn form(key: &Key) -> &'static str {
    match key.kind {
        Kind::One(_) => "a string or a number",
        Kind::Switch(_) => "true or false",
        Kind::Many(_) | Kind::Secrets(_) => "a string or an array of strings",
    }
}
