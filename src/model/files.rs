//! Finds the files of a model: a Hugging Face directory, a GGUF file, or the demo model inside the binary.

use super::LoadError;
use super::checkpoint::Checkpoint;
use super::gguf::{self, GgufBytes};
use super::openelm::OpenElmConfig;
use super::weight_cache::FileIdentity;
use crate::model::GenerationDefaults;
use crate::ops::{MappedFile, WeightType};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Where the model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The demo model compiled into the binary.
    Embedded,
    /// A Hugging Face directory, or one with a single GGUF file.
    Directory(PathBuf),
    /// A GGUF file.
    File(PathBuf),
}

/// Which tokenizer is read with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerSource<'a> {
    /// The model's own.
    Model,
    /// `tokenizer.json`, or a directory with one.
    Path(&'a Path),
    /// None is needed: that of a GGUF file is not even looked at.
    Nowhere,
}

impl<'a> From<Option<&'a Path>> for TokenizerSource<'a> {
    fn from(path: Option<&'a Path>) -> Self {
        path.map_or(Self::Model, Self::Path)
    }
}

/// A small file in memory.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its path, for messages.
    pub name: String,
    /// Its content.
    pub bytes: Cow<'static, [u8]>,
}

/// What describes the model.
#[derive(Debug)]
pub enum ConfigSource {
    /// `config.json`.
    Json(Document),
    /// The metadata of a GGUF file, read already.
    Gguf {
        /// Its path, for messages.
        name: String,
        /// What they say.
        config: Box<OpenElmConfig>,
    },
}

impl ConfigSource {
    /// The file's path, for messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Json(document) => &document.name,
            Self::Gguf { name, .. } => name,
        }
    }
}

/// All files of a model but the weights read; the weights mapped.
#[derive(Debug)]
pub struct ModelFiles {
    /// `config.json`, or the metadata of a GGUF file.
    pub config: ConfigSource,
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
    /// Opens the model, with its own tokenizer or another.
    ///
    /// # Errors
    /// [`LoadError`] naming the file that is missing or cannot be read.
    pub fn open<'a>(source: &ModelSource, tokenizer: impl Into<TokenizerSource<'a>>) -> Result<Self, LoadError> {
        let tokenizer = tokenizer.into();
        let is_own = tokenizer == TokenizerSource::Model;
        let mut files = match source {
            ModelSource::Embedded => Self::embedded()?,
            ModelSource::Directory(path) => match single_gguf(path) {
                Some(file) => Self::gguf(&file, is_own)?,
                None => Self::directory(path)?,
            },
            ModelSource::File(path) => Self::gguf(path, is_own)?,
        };
        if let TokenizerSource::Path(path) = tokenizer {
            let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
            let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
            files.tokenizer = Some(read(&file)?);
            files.tokenizer_config = read_optional(&folder.join("tokenizer_config.json"))?;
            files.chat_template = read_optional(&folder.join("chat_template.jinja"))?.or(files.chat_template);
        }
        Ok(files)
    }

    /// The model's configuration.
    ///
    /// # Errors
    /// [`LoadError`] naming the key of `config.json`, what it holds and what would be right.
    pub fn config(&self) -> Result<OpenElmConfig, LoadError> {
        match &self.config {
            ConfigSource::Json(document) => OpenElmConfig::parse(document),
            ConfigSource::Gguf { config, .. } => Ok((**config).clone()),
        }
    }

    /// The same, with the ends of texts that the server uses: those of `generation_config.json` come before those of `config.json`.
    ///
    /// # Errors
    /// As [`Self::config`], and for a `generation_config.json` that is wrong.
    pub fn config_as_served(&self) -> Result<OpenElmConfig, LoadError> {
        let mut config = self.config()?;
        let generation = self.generation_config.as_ref().map(GenerationDefaults::parse).transpose()?;
        if let Some(ids) = generation.and_then(|generation| generation.eos_token_ids) {
            config.eos_token_ids = ids;
        }
        Ok(config)
    }

    /// How the embedding of a model with `config` lies in the checkpoint.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::Dtype`].
    pub fn checkpoint_type(&self, config: &OpenElmConfig) -> Result<WeightType, LoadError> {
        let name = "transformer.token_embeddings.weight";
        let wanted = vec![config.vocab_size, config.model_dim];
        let missing = || LoadError::MissingTensor { file: self.checkpoint.files(), tensor: name.to_string(), wanted };
        Ok(self.checkpoint.get(name)?.ok_or_else(missing)?.weight_type())
    }

    fn gguf(path: &Path, wants_tokenizer: bool) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let read_error = |source| LoadError::Read { file: name.clone(), source };
        let (map, metadata) = MappedFile::open_checkpoint(path).map_err(read_error)?;
        let identity = FileIdentity::of(path, &metadata).ok();
        let gguf_error = |problem| LoadError::Gguf { file: name.clone(), problem };
        let model = gguf::open(GgufBytes::Mapped(map), wants_tokenizer).map_err(gguf_error)?;
        tracing::info!(file = name, formats = model.weights.formats(), "GGUF file read");
        let document = |bytes: Vec<u8>| Document { name: name.clone(), bytes: Cow::Owned(bytes) };
        let (tokenizer, tokenizer_config) = model.tokenizer.map(|json| (document(json.tokenizer), document(json.config))).unzip();
        Ok(Self {
            config: ConfigSource::Gguf { name: name.clone(), config: Box::new(model.config) },
            generation_config: None,
            tokenizer,
            tokenizer_config,
            chat_template: None,
            checkpoint: Checkpoint::gguf(&name, model.weights, identity)?,
        })
    }

    fn embedded() -> Result<Self, LoadError> {
        const WEIGHTS: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/model.safetensors"));
        Ok(Self {
            config: ConfigSource::Json(embedded!("config.json")),
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
            config: ConfigSource::Json(config),
            generation_config: read_optional(&path.join("generation_config.json"))?,
            tokenizer: read_optional(&path.join("tokenizer.json"))?,
            tokenizer_config: read_optional(&path.join("tokenizer_config.json"))?,
            chat_template: read_optional(&path.join("chat_template.jinja"))?,
            checkpoint: Checkpoint::directory(path)?,
        })
    }
}

/// The GGUF file of a directory that holds exactly one and no `config.json`.
fn single_gguf(directory: &Path) -> Option<PathBuf> {
    if directory.join("config.json").exists() {
        return None;
    }
    let files = std::fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut ggufs = files.filter(|file| is_gguf(file));
    ggufs.next().filter(|_| ggufs.next().is_none())
}

/// Whether a path has the ending of GGUF files.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
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
