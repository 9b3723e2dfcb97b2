//! The rules of the house that a compiler does not check: who may use whom, where `unsafe` and the environment may stand, how long files
//! and functions may be. The table is the one of `ARCHITECTURE.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the crate and those each may use beside itself. `cli` composes everything.
const MODULES: &[(&str, &[&str])] = &[
    ("generation", &[]),
    ("kv_cache", &[]),
    ("ops", &[]),
    ("config", &[]),
    ("api", &[]),
    ("telemetry", &["generation"]),
    ("tokenizer", &["generation"]),
    ("grammar", &["generation", "tokenizer"]),
    ("sampling", &["generation"]),
    ("scheduler", &["generation", "kv_cache"]),
    ("model", &["generation", "kv_cache", "ops"]),
    ("quality", &["generation", "model", "ops", "sampling"]),
    ("runner", &["generation", "kv_cache", "model", "ops", "sampling", "telemetry"]),
    ("engine", &["generation", "kv_cache", "runner", "sampling", "scheduler", "telemetry"]),
    ("server", &["api", "engine", "generation", "grammar", "telemetry", "tokenizer"]),
    (
        "cli",
        &[
            "api",
            "config",
            "engine",
            "generation",
            "grammar",
            "kv_cache",
            "model",
            "ops",
            "quality",
            "runner",
            "sampling",
            "scheduler",
            "server",
            "telemetry",
            "tokenizer",
        ],
    ),
];

/// Crates, or paths of the standard library, that only these modules may use.
const RESERVED: &[(&str, &[&str])] = &[
    ("candle_core", &["model", "ops", "runner"]),
    ("axum", &["server"]),
    ("hyper", &["cli", "server"]),
    ("hyper_util", &["cli", "server"]),
    ("tower", &["server"]),
    ("tower_http", &["server"]),
    ("serde_json", &["api", "cli", "grammar", "model", "server", "tokenizer"]),
    ("llguidance", &["grammar"]),
    ("lru", &["grammar"]),
    ("utoipa", &["api", "server"]),
    ("tokenizers", &["tokenizer"]),
    ("minijinja", &["tokenizer"]),
    ("prometheus", &["telemetry"]),
    ("tracing_subscriber", &["telemetry"]),
    ("clap", &["cli", "config"]),
    ("plotters", &["cli"]),
    ("toml", &["config"]),
    ("anyhow", &["cli"]),
    ("indicatif", &["cli"]),
    ("memmap2", &["ops"]),
    ("cudarc", &["ops"]),
    ("libloading", &["ops"]),
    ("rustix", &["model", "ops"]),
    ("multiversion", &["model", "sampling"]),
    ("std::env", &["config"]),
];

/// Modules that use the standard library alone, and what else they may.
const PURE: &[(&str, &[&str])] = &[("generation", &[]), ("kv_cache", &[]), ("scheduler", &["thiserror"])];

/// The file outside `ops` that maps weights into memory: the one line of `unsafe` there.
const MMAP_FILE: &str = "model/checkpoint.rs";

const MOST_LINES_OF_A_FILE: usize = 600;
const MOST_LINES_OF_A_FUNCTION: usize = 70;

/// A source file without its tests.
struct Source {
    /// Below `src`, with slashes.
    path: String,
    /// Its top-level module; `main` and `lib` for the roots.
    module: String,
    /// Its lines before `#[cfg(test)] mod tests {`.
    lines: usize,
    /// Its text before the tests, comments and literals blanked, line breaks kept.
    code: String,
    first_line: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).expect("the directory can be read");
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every file of the library and the binary that is compiled outside of tests.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.sort();
    let texts: Vec<(PathBuf, String)> = files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).expect("text"))).collect();
    let test_only: Vec<PathBuf> = texts.iter().flat_map(|(file, text)| test_modules(file, &blank(text))).collect();
    let is_test = |file: &Path| test_only.iter().any(|module| file.starts_with(module) || file == module.with_extension("rs"));
    let sources: Vec<Source> = texts.iter().filter(|(file, _)| !is_test(file)).map(|(file, text)| source(&src, file, text)).collect();
    assert!(sources.len() > MODULES.len(), "the walk found the sources");
    sources
}

fn source(src: &Path, file: &Path, text: &str) -> Source {
    let path = file.strip_prefix(src).expect("below src").to_string_lossy().replace('\\', "/");
    let module = path.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
    let code = blank(text);
    let code = inline_tests(&code).map_or(code.as_str(), |start| &code[..start]).to_owned();
    Source { path, module, lines: code.lines().count(), code, first_line: text.lines().next().unwrap_or_default().to_owned() }
}

/// Where the inline test module begins: an attribute `#[cfg(test)]` before a `mod` with a body.
fn inline_tests(code: &str) -> Option<usize> {
    let starts = code.match_indices("#[cfg(test)]").map(|(start, _)| start);
    starts.into_iter().find(|start| declared_module(&code[start + "#[cfg(test)]".len()..]).is_some_and(|(_, end)| end == '{'))
}

/// Files (without ending) of modules that are declared for tests only.
fn test_modules(file: &Path, code: &str) -> Vec<PathBuf> {
    let is_root_of_folder = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| file.ends_with(name));
    let folder = if is_root_of_folder { file.parent().expect("a parent").to_path_buf() } else { file.with_extension("") };
    let declarations = code.split("#[cfg(test)]").skip(1).filter_map(declared_module);
    declarations.filter(|(_, end)| *end == ';').map(|(name, _)| folder.join(name)).collect()
}

/// If `code` begins with a declaration of a module: its name, and whether `;` or `{` follows.
fn declared_module(code: &str) -> Option<(&str, char)> {
    let code = code.trim_start();
    let code =
        code.strip_prefix("pub(crate)").or_else(|| code.strip_prefix("pub(super)")).or_else(|| code.strip_prefix("pub")).unwrap_or(code);
    let rest = code.trim_start().strip_prefix("mod ")?;
    let end = rest.find([';', '{'])?;
    Some((rest[..end].trim(), rest[end..].chars().next()?))
}

/// `text` with comments, strings and characters blanked; line breaks and everything else stay where they are.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end == at {
            // A word is passed whole, so that the `r` of `for` does not open a raw string.
            let word = bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
            at += word.max(1);
            continue;
        }
        out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end;
    }
    String::from_utf8(out).expect("whole literals were blanked")
}

/// The end of the comment or literal that begins at `at`; `at` itself if none does.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let until = |pattern: &[u8], from: usize| {
        let found = rest[from.min(rest.len())..].windows(pattern.len()).position(|window| window == pattern);
        at + found.map_or(rest.len(), |position| from + position + pattern.len())
    };
    let raw = rest.iter().skip_while(|byte| **byte == b'b').skip(1).take_while(|byte| **byte == b'#').count();
    match rest {
        [b'/', b'/', ..] => until(b"\n", 2) - usize::from(rest.contains(&b'\n')),
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'b', b'r', b'"' | b'#', ..] | [b'r', b'"' | b'#', ..] if rest.iter().find(|b| !b"br#".contains(b)) == Some(&b'"') => {
            let open = rest.iter().position(|byte| *byte == b'"').unwrap_or(0) + 1;
            until(&[b"\"".as_slice(), &vec![b'#'; raw]].concat(), open)
        }
        [b'"', ..] => at + quoted(rest, b'"'),
        [b'b', b'"', ..] => at + 1 + quoted(&rest[1..], b'"'),
        [b'\'', b'\\', ..] => at + quoted(rest, b'\''),
        // A character; a lifetime has no closing quote where one would be.
        [b'\'', ..] => at + character(rest).unwrap_or(0),
        _ => at,
    }
}

/// Length of a literal between `quote`s, with backslashes as escapes.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += 1 + usize::from(rest[at] == b'\\');
    }
    (at + 1).min(rest.len())
}

fn character(rest: &[u8]) -> Option<usize> {
    let width = match rest.get(1)? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(2 + width)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Positions of `word` as a whole word.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    let alone = move |at: &usize| {
        let before = at.checked_sub(1).is_none_or(|before| !is_word(bytes[before]));
        before && bytes.get(at + word.len()).is_none_or(|byte| !is_word(*byte))
    };
    code.match_indices(word).map(|(at, _)| at).filter(alone)
}

/// Modules of the crate that `code` names by a path from the root.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for at in words(code, "crate") {
        let Some(path) = code[at + "crate".len()..].trim_start().strip_prefix("::") else { continue };
        let path = path.trim_start();
        let Some(group) = path.strip_prefix('{') else {
            used.extend(first_word(path));
            continue;
        };
        let mut depth = 0;
        let parts = group.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            (c == ',' && depth == 0) || depth < 0
        });
        let closed = group.len() - group.find(';').unwrap_or(group.len());
        let inside = group.len() - closed;
        let starts = parts.scan(0, |start, part| {
            let here = *start;
            *start += part.len() + 1;
            Some((here, part))
        });
        used.extend(starts.take_while(|(start, _)| *start < inside).filter_map(|(_, part)| first_word(part)));
    }
    used
}

fn first_word(text: &str) -> Option<String> {
    let text = text.trim_start();
    let length = text.bytes().take_while(|byte| is_word(*byte)).count();
    (length > 0).then(|| text[..length].to_owned())
}

/// Whether `code` uses `path`: a crate, or a path of the standard library.
fn uses(code: &str, path: &str) -> bool {
    if let Some(name) = path.strip_prefix("std::") {
        let grouped = words(code, "std").any(|at| {
            let group = code[at + 3..].strip_prefix("::{").and_then(|rest| rest.split(';').next());
            group.is_some_and(|group| words(group, name).any(|at| !group[..at].ends_with("::")))
        });
        return grouped || words(code, path).next().is_some();
    }
    // A name of a crate counts where a path begins with it, not where a variable has the same name.
    words(code, path).any(|at| {
        let (before, after) = (code[..at].trim_end(), &code[at + path.len()..]);
        let begins_path = after.starts_with("::") && (!before.ends_with("::") || before.ends_with("{::"));
        begins_path || (before.ends_with("use") && after.starts_with([';', ' ']))
    })
}

/// Bodies of functions: line and number of lines.
fn functions(code: &str) -> Vec<(usize, usize)> {
    let body = |at: usize| {
        let mut depth = 0;
        let start = at
            + code[at..].find(|c| {
                depth += i32::from("([".contains(c)) - i32::from(")]".contains(c));
                depth == 0 && (c == '{' || c == ';')
            })?;
        let mut braces = 0;
        let end = code[start..].find(|c| {
            braces += i32::from(c == '{') - i32::from(c == '}');
            braces == 0
        })?;
        let line = code[..at].matches('\n').count() + 1;
        Some((line, code[at..start + end].matches('\n').count() + 1))
    };
    // `fn(u32)` is a type.
    words(code, "fn").filter(|at| code[at + 2..].starts_with(' ')).filter_map(body).collect()
}

fn allowed<'a>(table: &'a [(&str, &'a [&'a str])], name: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(row, _)| *row == name).map(|(_, allowed)| *allowed)
}

/// Dependencies of the package as they are called in code.
fn dependencies() -> Vec<String> {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml").parse().expect("valid TOML");
    let names = manifest["dependencies"].as_table().expect("a table").keys();
    names.map(|name| name.replace('-', "_")).collect()
}

fn assert_none(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n  {}", violations.join("\n  "));
}

#[test]
fn modules_use_only_those_below_them() {
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| !["lib", "main"].contains(&source.module.as_str())) {
        let Some(allowed) = allowed(MODULES, &source.module) else {
            violations.push(format!("{}: module `{}` is not in the table", source.path, source.module));
            continue;
        };
        for used in used_modules(&source.code).iter().filter(|used| **used != source.module && !allowed.contains(&used.as_str())) {
            violations.push(format!("{}: uses `{used}`", source.path));
        }
        let depth = source.path.matches('/').count() + usize::from(!source.path.ends_with("mod.rs"));
        if source.code.contains(&"super::".repeat(depth)) {
            violations.push(format!("{}: leaves its module by `super`", source.path));
        }
    }
    assert_none("modules use only those below them", &violations);
}

#[test]
fn crates_stay_where_they_belong() {
    let mut violations = Vec::new();
    for source in sources() {
        for (name, modules) in RESERVED {
            if uses(&source.code, name) && !modules.contains(&source.module.as_str()) {
                violations.push(format!("{}: uses `{name}`", source.path));
            }
        }
    }
    assert_none("crates stay where they belong", &violations);
}

#[test]
fn pure_modules_use_the_standard_library_alone() {
    let dependencies = dependencies();
    let mut violations = Vec::new();
    for source in sources() {
        let Some(extra) = allowed(PURE, &source.module) else { continue };
        for name in dependencies.iter().filter(|name| uses(&source.code, name) && !extra.contains(&name.as_str())) {
            violations.push(format!("{}: uses `{name}`", source.path));
        }
        for path in ["std::time::Instant", "std::time::SystemTime", "std::fs", "std::net", "std::thread"] {
            let name = path.rsplit("::").next().unwrap_or(path);
            if uses(&source.code, path) || (name.starts_with(char::is_uppercase) && words(&source.code, name).next().is_some()) {
                violations.push(format!("{}: uses `{path}`", source.path));
            }
        }
        let has = |name| words(&source.code, name).next().is_some();
        if (has("HashMap") || has("HashSet")) && !has("BuildHasherDefault") {
            violations.push(format!("{}: hashes with a random key; use `BuildHasherDefault`", source.path));
        }
    }
    assert_none("pure modules use the standard library alone, without clock, I/O or random hashes", &violations);
}

#[test]
fn unsafe_is_in_ops_and_in_one_line_that_maps_weights() {
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| source.module != "ops") {
        let most = usize::from(source.path == MMAP_FILE);
        let count = words(&source.code, "unsafe").count();
        if count > most {
            violations.push(format!("{}: {count} times, at most {most}", source.path));
        }
    }
    assert_none("`unsafe` is in ops and in one line that maps weights", &violations);
}

#[test]
fn files_and_functions_are_short() {
    let mut violations = Vec::new();
    for source in sources() {
        if source.lines > MOST_LINES_OF_A_FILE {
            violations.push(format!("{}: {} lines before its tests, at most {MOST_LINES_OF_A_FILE}", source.path, source.lines));
        }
        for (line, lines) in functions(&source.code).into_iter().filter(|(_, lines)| *lines > MOST_LINES_OF_A_FUNCTION) {
            violations.push(format!("{}:{line}: a function of {lines} lines, at most {MOST_LINES_OF_A_FUNCTION}", source.path));
        }
    }
    assert_none("files and functions are short", &violations);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = sources().into_iter().filter(|source| !source.first_line.starts_with("//! ")).map(|source| source.path);
    assert_none("every file begins with `//!`", &silent.collect::<Vec<_>>());
}

#[test]
fn the_table_has_every_module_and_is_a_direction() {
    let library = blank(&fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs"));
    let declared: BTreeSet<&str> = library.split("pub mod ").skip(1).filter_map(|rest| rest.split(';').next()).collect();
    assert_eq!(declared, MODULES.iter().map(|(module, _)| *module).collect());
    // Each row names only rows above it: no cycle can be written down.
    for (index, (module, allowed)) in MODULES.iter().enumerate() {
        let above: Vec<&str> = MODULES[..index].iter().map(|(module, _)| *module).collect();
        assert!(allowed.iter().all(|name| above.contains(name)), "`{module}` may use something below it");
    }
}

#[test]
fn the_architecture_document_names_every_module() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let missing = MODULES.iter().map(|(module, _)| *module).filter(|module| words(&text, module).next().is_none());
    assert_none("ARCHITECTURE.md names every module", &missing.map(str::to_owned).collect::<Vec<_>>());
}

mod the_checks_bite {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "a // crate::x\n/* crate::y */ b \"crate::z \\\" unsafe\" 'c' '\\'' r#\"un\"safe\"# b\"x\" br\"y\" for<'a> &'a str \"é\" 'é' end";
        let code = blank(text);
        let left: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(left, ["a", "b", "for<'a>", "&'a", "str", "end"]);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.matches('\n').count(), 1);
    }

    #[test]
    fn paths_in_every_form_are_found() {
        let found = |code: &str| used_modules(&blank(code)).into_iter().collect::<Vec<_>>();
        assert_eq!(found("use crate::engine::Handle;"), ["engine"]);
        assert_eq!(found("use crate::{engine::{A, b::C}, server, ops::{self}};\nfn f() { x.model(), y }"), ["engine", "ops", "server"]);
        assert_eq!(found("fn f() -> crate::model::X { crate::ops::y() } // crate::cli"), ["model", "ops"]);
        assert!(found("pub(crate) fn f() {}").is_empty());
    }

    #[test]
    fn crates_and_std_paths_are_found() {
        assert!(uses("use candle_core::Tensor;", "candle_core") && uses("let x = serde_json::json!(1);", "serde_json"));
        assert!(uses("use toml;", "toml") && !uses("let toml = 1; x.toml();", "toml") && !uses("config::toml::x", "toml"));
        assert!(uses("std::env::var(x)", "std::env") && uses("use std::{fmt, env};", "std::env") && uses("use std::env;", "std::env"));
        assert!(!uses("env!(\"X\")", "std::env") && !uses("use std::fmt;", "std::env"));
    }

    #[test]
    fn tests_are_cut_off_and_functions_measured() {
        let code = "fn a() {\n  if x {\n  }\n}\nfn b(x: [u8; 3]) -> u8;\n#[cfg(test)]\nmod tests {\n  use crate::cli;\n}\n";
        assert_eq!(functions(code), [(1, 4), (5, 1)]);
        assert!(inline_tests(code).is_some_and(|start| code[start..].starts_with("#[cfg(test)]\nmod tests {")));
        let declared = test_modules(Path::new("src/x/y.rs"), "#[cfg(test)]\npub(crate) mod fake;\n#[cfg(test)]\nuse z;");
        assert_eq!(declared, [Path::new("src/x/y/fake")]);
    }
}
