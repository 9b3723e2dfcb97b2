//! The process environment behind a trait, so that tests need none.

use super::keys::{KEYS, VARIABLE_PREFIX};
use super::layers::{Layers, Origin, Setting};
use super::mistake::hint;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The variables of a process.
pub trait Environment {
    /// Every variable whose name begins with `prefix`, with its value, ordered by name.
    fn variables(&self, prefix: &str) -> BTreeMap<String, String>;
}

/// The variables of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variables(&self, prefix: &str) -> BTreeMap<String, String> {
        std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .filter(|(name, _)| name.starts_with(prefix))
            .collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn variables(&self, prefix: &str) -> BTreeMap<String, String> {
        self.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// The arguments of this process, its name first.
pub fn arguments() -> Vec<OsString> {
    std::env::args_os().collect()
}

/// Whether the user asked every program for output without colour (<https://no-color.org>).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The directory for files that can be made again (<https://specifications.freedesktop.org/basedir-spec/>): `XDG_CACHE_HOME`, else `.cache`
/// in `HOME`. Paths that are not absolute are passed over, as the specification wants it.
pub fn cache_home() -> Option<PathBuf> {
    choose_cache_home(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
}

fn choose_cache_home(cache: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(cache).or_else(|| Some(absolute(home)?.join(".cache")))
}

/// The variable that names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "OPENELM_CONFIG";

/// Adds the settings of the variables to `layers`.
pub(super) fn read(variables: &BTreeMap<String, String>, layers: &mut Layers) {
    let known: Vec<String> = KEYS.iter().map(super::Key::variable).collect();
    for (name, value) in variables {
        if name == CONFIG_VARIABLE || is_service_link(name, value) {
            continue;
        }
        let origin = Origin::Variable(name.clone());
        let Some(key) = KEYS.iter().find(|key| key.variable() == *name) else {
            let names = known.iter().map(String::as_str).chain([CONFIG_VARIABLE]);
            layers.mistake(origin, None, format!("no such variable{}", hint(name, names)));
            continue;
        };
        // Deployments write `NAME=${NAME:-}` for "not set". For a key of the API that would open the server, so there it is a mistake.
        if value.is_empty() && !key.is_secret() {
            continue;
        }
        layers.set(key, Setting { values: Setting::split(key, value), origin });
    }
}

/// Whether Kubernetes made this variable: it gives every pod such ones for every service of its namespace, and a service may well be
/// called `openelm` (`OPENELM_SERVICE_HOST`, `OPENELM_PORT=tcp://10.0.0.1:8000`, `OPENELM_PORT_8000_TCP_ADDR`, …).
fn is_service_link(name: &str, value: &str) -> bool {
    let name = &name[VARIABLE_PREFIX.len()..];
    let has_word = |word: &str| name == word || name.ends_with(&format!("_{word}"));
    let in_port = name.split_once("PORT_").is_some_and(|(before, after)| {
        (before.is_empty() || before.ends_with('_')) && after.starts_with(|c: char| c.is_ascii_digit()) && after.contains('_')
    });
    let of_service = name.starts_with("SERVICE_PORT_") || name.contains("_SERVICE_PORT_");
    has_word("SERVICE_HOST") || has_word("SERVICE_PORT") || of_service || in_port || (has_word("PORT") && value.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_specification_puts_it() {
        let choose = |cache: Option<&str>, home: Option<&str>| {
            choose_cache_home(cache.map(OsString::from), home.map(OsString::from)).map(|path| path.display().to_string())
        };
        assert_eq!(choose(Some("/x"), Some("/home/a")).as_deref(), Some("/x"));
        assert_eq!(choose(None, Some("/home/a")).as_deref(), Some("/home/a/.cache"));
        assert_eq!(choose(Some(""), Some("/home/a")).as_deref(), Some("/home/a/.cache"));
        assert_eq!(choose(Some("relative"), Some("relative")), None);
        assert_eq!(choose(None, None), None);
    }
}
