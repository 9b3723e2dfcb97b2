//! Writes the annotated example file from the table; a test compares it with the one in `config/`.

use super::keys::KEYS;
use super::layers::Setting;
use super::render::value;
use std::fmt::Write as _;

/// The example file: every key with its help and its default, commented out.
pub(super) fn example() -> String {
    let mut out = String::from(EXAMPLE_HEAD);
    let mut group = "";
    for key in KEYS {
        if key.group != group {
            group = key.group;
            let _ = writeln!(out, "\n# --- {group}");
        }
        let _ = writeln!(out, "\n{}", wrapped(&format!("{}.", key.help)));
        let _ = writeln!(out, "#{} = {}", key.name, value(key, &Setting::default_of(key).values));
    }
    out
}

const EXAMPLE_HEAD: &str = "\
# Settings of openelm-server: every key with its default. Use it with `openelm-server --config FILE` or OPENELM_CONFIG=FILE.
#
# A flag overrides a variable, a variable overrides this file, this file overrides the default. Keys are called as the flags are;
# the variable of `max-num-seqs` is OPENELM_MAX_NUM_SEQS. Bytes: 1048576, 512MiB, 2GB. Times: 30s, 500ms, 2m, or seconds. Paths are
# relative to the directory the server is started in. `openelm-server --check-config` shows what was resolved, and from where.
";

/// `text` as comment lines of at most 120 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split(' ') {
        if lines.last().is_some_and(|line| line.len() + 1 + word.len() > 120) {
            lines.push(String::from("#"));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n")
}
