//! Chooses tokenizer and chat template.

use crate::cli::texts;
use crate::config::Config;
use crate::model::{Document, ModelFiles};
use crate::tokenizer::{ChatTemplate, Tokenizer};
use anyhow::{Context as _, bail};
use std::sync::Arc;

/// The text side of the model.
#[derive(Debug)]
pub(super) struct Text {
    /// `None` where token ids are served alone.
    pub(super) tokenizer: Option<Arc<Tokenizer>>,
    /// The template; its name tells where it comes from.
    pub(super) template: Arc<ChatTemplate>,
}

impl Text {
    /// Reads the tokenizer and compiles the template that `config` and the model's files call for.
    pub(super) fn choose(config: &Config, files: &ModelFiles) -> anyhow::Result<Self> {
        if config.skip_tokenizer_init {
            return Ok(Self { tokenizer: None, template: Arc::new(ChatTemplate::builtin(FALLBACK)?) });
        }
        let Some(document) = &files.tokenizer else {
            bail!(
                "{} comes without a tokenizer (tokenizer.json beside it, or inside a GGUF file); name one with --tokenizer FILE|DIR (OpenELM uses that of Llama 2), \
                 or serve token ids alone with --skip-tokenizer-init",
                files.config.name()
            );
        };
        let tokenizer_config = files.tokenizer_config.as_ref();
        let tokenizer = Tokenizer::from_bytes(&document.bytes, tokenizer_config.map(|document| document.bytes.as_ref()))
            .with_context(|| document.name.clone())?;
        let template = template(config.chat_template.as_deref(), files.chat_template.as_ref(), &tokenizer)?;
        Ok(Self { tokenizer: Some(Arc::new(tokenizer)), template: Arc::new(template) })
    }

    /// Refuses a tokenizer that makes ids the model has no row for.
    pub(super) fn check_vocabulary(&self, files: &ModelFiles, vocab_size: usize) -> anyhow::Result<()> {
        self.tokenizer.as_ref().map_or(Ok(()), |tokenizer| texts::check_vocabulary(files, tokenizer, vocab_size))
    }
}

/// The template of models that bring none: no roles, just the text.
const FALLBACK: &str = "plain";

/// `asked` (a built-in name or a file), else `chat_template.jinja`, else the one in `tokenizer_config.json`, else [`FALLBACK`].
fn template(asked: Option<&str>, file: Option<&Document>, tokenizer: &Tokenizer) -> anyhow::Result<ChatTemplate> {
    const REMEDY: &str = "the model's chat template cannot be used; name another with --chat-template FILE, or plain";
    match (asked, file, tokenizer.chat_template_source()) {
        (Some(name), _, _) if ChatTemplate::is_builtin(name) => Ok(ChatTemplate::builtin(name)?),
        (Some(path), _, _) => {
            let source = std::fs::read_to_string(path);
            let source =
                source.with_context(|| format!("--chat-template {path}: neither a built-in template (plain, zephyr) nor a file"))?;
            ChatTemplate::from_source(path, &source).context("--chat-template")
        }
        (None, Some(file), _) => {
            let source = std::str::from_utf8(&file.bytes).with_context(|| file.name.clone()).context(REMEDY)?;
            ChatTemplate::from_source("chat_template.jinja", source).context(REMEDY)
        }
        (None, None, Some(source)) => ChatTemplate::from_source("tokenizer_config.json", source).context(REMEDY),
        (None, None, None) => Ok(ChatTemplate::builtin(FALLBACK)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BUILTIN_TEMPLATES;
    use crate::tokenizer::TemplateError;
    use std::borrow::Cow;

    const TOKENIZER: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/tokenizer.json"));

    fn tokenizer(template: Option<&str>) -> Tokenizer {
        let config = template.map(|source| format!("{{\"chat_template\": {source:?}}}"));
        Tokenizer::from_bytes(TOKENIZER, config.as_ref().map(String::as_bytes)).expect("the demo tokenizer")
    }

    fn document(text: &'static str) -> Document {
        Document { name: "dir/chat_template.jinja".to_owned(), bytes: Cow::Borrowed(text.as_bytes()) }
    }

    #[test]
    fn a_template_asked_for_beats_the_file_beats_the_configuration_beats_plain() {
        let (own, bare, file) = (tokenizer(Some("own")), tokenizer(None), document("file"));
        let name = |asked, file, tokenizer| template(asked, file, tokenizer).expect("a template").name().to_owned();
        assert_eq!(name(Some("zephyr"), Some(&file), &own), "zephyr");
        assert_eq!(name(None, Some(&file), &own), "chat_template.jinja");
        assert_eq!(name(None, None, &own), "tokenizer_config.json");
        assert_eq!(name(None, None, &bare), "plain");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("mine.jinja");
        std::fs::write(&path, "mine").expect("written");
        let path = path.display().to_string();
        assert_eq!(name(Some(&path), Some(&file), &own), path);
    }

    #[test]
    fn the_names_that_the_configuration_accepts_are_built_in() {
        assert!(BUILTIN_TEMPLATES.iter().all(|name| ChatTemplate::is_builtin(name)));
        let unknown = ChatTemplate::builtin("").expect_err("no such template");
        assert!(matches!(unknown, TemplateError::UnknownBuiltin { known, .. } if known == BUILTIN_TEMPLATES), "{unknown}");
    }

    #[test]
    fn a_broken_template_is_refused_with_a_way_out() {
        let broken = document("{% if %}");
        let error = format!("{:#}", template(None, Some(&broken), &tokenizer(None)).expect_err("it does not parse"));
        assert!(error.contains("--chat-template FILE") && error.contains("chat_template.jinja"), "{error}");
        let error = format!("{:#}", template(Some("zephir"), None, &tokenizer(None)).expect_err("there is no such file"));
        assert!(error.contains("plain, zephyr"), "{error}");
    }
}
