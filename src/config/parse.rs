//! Text to value, one function per form. An error says what would be right.

use super::mistake::nearest;
use super::model::{Choice, Device, GenerationConfigSource, KvCacheDtype, ModelSource, Secret, WeightCache};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// What would be right, as a clause.
pub(super) type Problem = String;

/// The longest duration a setting may have: a week is more than any of them can mean.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A whole number within `range`.
pub(super) fn number<T: FromStr + PartialOrd + Display>(text: &str, range: &RangeInclusive<T>) -> Result<T, Problem> {
    let value = text.parse().ok().filter(|value| range.contains(value));
    value.ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
}

/// `word` as `None`, anything else by `parse`.
pub(super) fn unless<T>(word: &str, text: &str, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Result<Option<T>, Problem> {
    if text == word {
        return Ok(None);
    }
    parse(text).map(Some).map_err(|problem| format!("{problem}, or `{word}`"))
}

/// One word of a closed set.
pub(super) fn choice<T: Choice>(text: &str) -> Result<T, Problem> {
    if let Some((_, value)) = T::ALL.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words: Vec<&str> = T::ALL.iter().map(|(word, _)| *word).collect();
    let meant = nearest(&text.to_lowercase(), words.iter().copied()).map_or_else(String::new, |word| format!("; did you mean `{word}`?"));
    Err(format!("expected one of {}{meant}", words.join(", ")))
}

/// What computes: a word, and which CUDA device.
pub(super) fn device(text: &str) -> Result<Device, Problem> {
    match text.split_once(':').unwrap_or((text, "0")) {
        ("auto", "0") if text == "auto" => Ok(Device::Auto),
        ("cpu", "0") if text == "cpu" => Ok(Device::Cpu),
        ("metal", "0") if text == "metal" => Ok(Device::Metal),
        ("cuda", ordinal) => number(ordinal, &(0..=255)).map(Device::Cuda).map_err(|_| "expected cuda:N with N from 0 to 255".to_owned()),
        _ => {
            let words = ["auto", "cpu", "cuda", "metal"];
            let meant = nearest(&text.to_lowercase(), words).map_or_else(String::new, |word| format!("; did you mean `{word}`?"));
            Err(format!("expected auto, cpu, cuda, cuda:N or metal{meant}"))
        }
    }
}

/// A share of a whole.
pub(super) fn share(text: &str) -> Result<f64, Problem> {
    let value = text.parse().ok().filter(|share| (0.01..=1.0).contains(share));
    value.ok_or_else(|| "expected a number from 0.01 to 1".to_owned())
}

/// For commands with flags of their own.
impl FromStr for KvCacheDtype {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        choice(text)
    }
}

/// `true` or `false`, with the spellings that variables have elsewhere.
pub(super) fn switch(text: &str) -> Result<bool, Problem> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Units of bytes. Letters alone are as vLLM has them: lower case decimal, upper case binary.
const BYTE_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("t", 1_000_000_000_000),
];

/// A number of bytes within `range`: `1048576`, `512MiB`, `2GB`, `1.5G`.
pub(super) fn bytes(text: &str, range: &RangeInclusive<u64>) -> Result<u64, Problem> {
    let problem =
        || format!("expected bytes from {} to {}, as 1048576, 512MiB or 2GB", show_bytes(*range.start()), show_bytes(*range.end()));
    let (number, unit) = split_unit(text);
    let unit = BYTE_UNITS.iter().find(|(name, _)| *name == unit).or_else(|| {
        // `mib`, `Gb`: with two letters or more the case says nothing.
        BYTE_UNITS.iter().find(|(name, _)| name.len() > 1 && name.eq_ignore_ascii_case(unit))
    });
    let value = unit.and_then(|(_, size)| scaled(number, *size));
    value.filter(|value| range.contains(value)).ok_or_else(problem)
}

/// A duration within `range`: `30s`, `500ms`, `2m`, `1h`, or seconds without a unit.
pub(super) fn duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, Problem> {
    let problem = || format!("expected a time from {} to {}, as 30s, 500ms, 2m or seconds", show(*range.start()), show(*range.end()));
    let (number, unit) = split_unit(text);
    let milliseconds = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let value = milliseconds.and_then(|size| scaled(number, size)).map(Duration::from_millis);
    value.filter(|value| range.contains(value)).ok_or_else(problem)
}

/// Any duration above zero.
pub(super) fn positive_duration(text: &str) -> Result<Duration, Problem> {
    duration(text, &(Duration::from_millis(1)..=LONGEST))
}

/// Any duration, zero too.
pub(super) fn any_duration(text: &str) -> Result<Duration, Problem> {
    duration(text, &(Duration::ZERO..=LONGEST))
}

/// A duration that an engine without work, which shows life twice a second, never reaches.
pub(super) fn liveness_timeout(text: &str) -> Result<Duration, Problem> {
    duration(text, &(Duration::from_secs(1)..=LONGEST))
}

/// The number and the unit behind it.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (text[..end].trim(), text[end..].trim())
}

/// `number` times `size`, exact where the number is whole; `None` if it is no number or does not fit.
fn scaled(number: &str, size: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(size);
    }
    let value = number.parse::<f64>().ok()? * size as f64;
    // Above 2^53 a fraction cannot be told apart any more.
    (value <= 2f64.powi(53)).then_some(value.round() as u64)
}

/// Bytes in the largest binary unit that divides them.
pub(super) fn show_bytes(bytes: u64) -> String {
    let unit = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = unit.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(name, shift)| format!("{}{name}", bytes >> shift))
}

/// A duration as [`duration`] reads it.
pub(super) fn show(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds.is_multiple_of(1000) { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }
}

/// Text that is not empty.
pub(super) fn text(text: &str) -> Result<String, Problem> {
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// `*`, or scheme and host of a page.
pub(super) fn origin(text: &str) -> Result<String, Problem> {
    let host = text.split_once("://").map(|(_, host)| host);
    let is_origin = host.is_some_and(|host| !host.is_empty() && !host.contains('/') && text.bytes().all(|byte| byte.is_ascii_graphic()));
    if text == "*" || is_origin { Ok(text.to_owned()) } else { Err("must be * or like https://example.com, without a path".to_owned()) }
}

/// A path that is not empty.
pub(super) fn path(value: &str) -> Result<PathBuf, Problem> {
    text(value).map(PathBuf::from)
}

/// The directory of a model, a GGUF file by its ending, or `embedded`.
pub(super) fn model(text: &str) -> Result<ModelSource, Problem> {
    let source = |path: PathBuf| if is_gguf(&path) && !path.is_dir() { ModelSource::File(path) } else { ModelSource::Directory(path) };
    Ok(unless("embedded", text, path)?.map_or(ModelSource::Embedded, source))
}

/// Whether a path has the ending of GGUF files.
pub(super) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// `auto`, `off` or a directory, which need not be there yet.
pub(super) fn weight_cache(text: &str) -> Result<WeightCache, Problem> {
    match text {
        "auto" => Ok(WeightCache::Auto),
        "off" => Ok(WeightCache::Off),
        _ if Path::new(text).is_file() => Err("this is a file; expected a directory, or `auto` or `off`".to_owned()),
        _ => path(text).map(WeightCache::Directory).map_err(|problem| format!("{problem}, or `auto` or `off`")),
    }
}

/// `auto`, `vllm` or a path.
pub(super) fn generation_config(text: &str) -> Result<GenerationConfigSource, Problem> {
    match text {
        "auto" => Ok(GenerationConfigSource::Auto),
        "vllm" => Ok(GenerationConfigSource::Vllm),
        _ => path(text).map(GenerationConfigSource::Path).map_err(|problem| format!("{problem}, or `auto` or `vllm`")),
    }
}

/// An address or a host name; brackets around an IPv6 address are taken away.
pub(super) fn host(text: &str) -> Result<String, Problem> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let is_address = bare.parse::<std::net::IpAddr>().is_ok();
    let is_name = !bare.is_empty() && bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    if is_address || is_name {
        return Ok(bare.to_owned());
    }
    Err("expected an address as 127.0.0.1, 0.0.0.0 or ::1, or a host name; the port has a setting of its own".to_owned())
}

/// A key of the API. It travels in a header, so it is visible ASCII.
pub(super) fn secret(text: &str) -> Result<Secret, Problem> {
    if text.is_empty() {
        return Err("an empty key would let everyone in; give one, or do not set it at all".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a key has visible ASCII characters only, since it travels in a header".to_owned());
    }
    Ok(Secret::new(text))
}
