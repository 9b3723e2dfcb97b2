//! `generation_config.json`: end-of-sequence ids and the sampling defaults of requests that name none.

use super::LoadError;
use super::files::Document;
use super::json::JsonFile;

/// Defaults that a model recommends; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end a sequence.
    pub eos_token_ids: Option<Vec<u32>>,
    /// Range `0..=2`. `do_sample: false` without a temperature leaves it to the server's default.
    pub temperature: Option<f32>,
    /// Range `0..=1`.
    pub top_p: Option<f32>,
    /// 0 = all.
    pub top_k: Option<u32>,
    /// Range `0..=1`.
    pub min_p: Option<f32>,
    /// Above 0.
    pub repetition_penalty: Option<f32>,
    /// Tokens to generate when a request names no limit.
    pub max_new_tokens: Option<u32>,
}

impl GenerationDefaults {
    /// Reads the file.
    ///
    /// # Errors
    /// [`LoadError`] naming the key whose value cannot be used.
    pub fn parse(document: &Document) -> Result<Self, LoadError> {
        let json = JsonFile::parse(&document.name, &document.bytes)?;
        let number = |key: &str, range: std::ops::RangeInclusive<f64>| match json.number(key)? {
            Some(v) if !range.contains(&v) => {
                Err(json.wrong(key, v.to_string(), format!("a number from {} to {}", range.start(), range.end())))
            }
            found => Ok(found.map(|v| v as f32)),
        };
        Ok(Self {
            eos_token_ids: json.token_ids("eos_token_id")?,
            temperature: number("temperature", 0.0..=2.0)?,
            top_p: number("top_p", 0.0..=1.0)?,
            top_k: number("top_k", 0.0..=f64::from(u32::MAX))?.map(|k| k as u32),
            min_p: number("min_p", 0.0..=1.0)?,
            repetition_penalty: number("repetition_penalty", 1e-3..=1e3)?,
            max_new_tokens: json.count("max_new_tokens")?.map(|v| v as u32),
        })
    }
}
