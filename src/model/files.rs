//! Finds the files of a model: a Hugging Face directory, or the demo model inside the binary.

use super::LoadError;
use super::checkpoint::Checkpoint;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Where the model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The demo model compiled into the binary.
    Embedded,
    /// A Hugging Face directory.
    Directory(PathBuf),
}

/// A small file in memory.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its path, for messages.
    pub name: String,
    /// Its content.
    pub bytes: Cow<'static, [u8]>,
}

/// All files of a model but the weights read; the weights mapped.
#[derive(Debug)]
pub struct ModelFiles {
    /// `config.json`.
    pub config: Document,
    /// `generation_config.json`.
    pub generation_config: Option<Document>,
    /// `tokenizer.json`.
    pub tokenizer: Option<Document>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Document>,
    /// `chat_template.jinja`.
    pub chat_template: Option<Document>,
    /// The weights.
    pub checkpoint: Checkpoint,
}

macro_rules! embedded {
    ($file:literal) => {
        Document {
            name: concat!("embedded demo model: ", $file).to_string(),
            bytes: Cow::Borrowed(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/", $file))),
        }
    };
}

impl ModelFiles {
    /// Opens the model; `tokenizer` (a directory or a `tokenizer.json`) replaces the model's own tokenizer.
    ///
    /// # Errors
    /// [`LoadError`] naming the file that is missing or cannot be read.
    pub fn open(source: &ModelSource, tokenizer: Option<&Path>) -> Result<Self, LoadError> {
        let mut files = match source {
            ModelSource::Embedded => Self::embedded()?,
            ModelSource::Directory(path) => Self::directory(path)?,
        };
        if let Some(path) = tokenizer {
            let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
            let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
            files.tokenizer = Some(read(&file)?);
            files.tokenizer_config = read_optional(&folder.join("tokenizer_config.json"))?;
            files.chat_template = read_optional(&folder.join("chat_template.jinja"))?.or(files.chat_template);
        }
        Ok(files)
    }

    fn embedded() -> Result<Self, LoadError> {
        const WEIGHTS: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/model.safetensors"));
        Ok(Self {
            config: embedded!("config.json"),
            generation_config: Some(embedded!("generation_config.json")),
            tokenizer: Some(embedded!("tokenizer.json")),
            tokenizer_config: Some(embedded!("tokenizer_config.json")),
            chat_template: None,
            checkpoint: Checkpoint::embedded("embedded demo model: model.safetensors", WEIGHTS)?,
        })
    }

    fn directory(path: &Path) -> Result<Self, LoadError> {
        let not_a_model = |problem: &str| LoadError::NotAModel { path: path.display().to_string(), problem: problem.to_string() };
        if !path.exists() {
            return Err(not_a_model("does not exist"));
        }
        if !path.is_dir() {
            return Err(not_a_model("is not a directory"));
        }
        let config = read_optional(&path.join("config.json"))?.ok_or_else(|| not_a_model("holds no config.json"))?;
        Ok(Self {
            config,
            generation_config: read_optional(&path.join("generation_config.json"))?,
            tokenizer: read_optional(&path.join("tokenizer.json"))?,
            tokenizer_config: read_optional(&path.join("tokenizer_config.json"))?,
            chat_template: read_optional(&path.join("chat_template.jinja"))?,
            checkpoint: Checkpoint::directory(path)?,
        })
    }
}

/// Reads a file that must be there.
///
/// # Errors
/// [`LoadError::Read`].
pub fn read(path: &Path) -> Result<Document, LoadError> {
    let name = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => Ok(Document { name, bytes: Cow::Owned(bytes) }),
        Err(source) => Err(LoadError::Read { file: name, source }),
    }
}

/// Reads a file that may be absent.
fn read_optional(path: &Path) -> Result<Option<Document>, LoadError> {
    if path.exists() { read(path).map(Some) } else { Ok(None) }
}
