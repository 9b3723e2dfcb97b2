//! The Jinja environment of chat templates.

use super::{TemplateError, json};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use std::io;

/// Budget of one rendering: about one unit per instruction and per 64 bytes made. A conversation of a thousand messages takes some tens
/// of thousands.
const FUEL: u64 = 1_000_000;

/// Most bytes a rendering may write. Marks may take four bytes for one.
const OUTPUT_LIMIT: usize = 16 << 20;

const TEMPLATE: &str = "chat";

/// Compiles the source of a template into an environment of its own.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_template_owned(TEMPLATE, without_generation_blocks(source))?;
    Ok(environment)
}

/// What a template throws by `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let raised = Raised(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
}

/// `{% generation %}` … `{% endgeneration %}` marks what `transformers` trains on; to a reader of the template it is a block that is
/// always taken.
fn without_generation_blocks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        result.push_str(before);
        let sign = usize::from(tag.starts_with(['-', '+']));
        let word = tag[sign..].trim_start();
        let lead = tag.len() - word.len();
        let end = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
        let closes = word[end..].trim_start().trim_start_matches(['-', '+']).starts_with("%}");
        let replacement = match &word[..end] {
            "generation" if closes => "if true",
            "endgeneration" if closes => "endif",
            other => other,
        };
        result.push_str(&tag[..lead]);
        result.push_str(replacement);
        rest = &word[end..];
    }
    result + rest
}

/// Why a rendering failed.
pub(super) enum Failure {
    Template(Error),
    OutputTooLong,
}

impl Failure {
    pub(super) fn into_error(self, name: &str) -> TemplateError {
        let name = name.to_owned();
        let error = match self {
            Self::OutputTooLong => return TemplateError::OutputTooLong { name, limit: OUTPUT_LIMIT },
            Self::Template(error) => error,
        };
        if let Some(message) = sources(&error).find_map(|source| source.downcast_ref::<Raised>()) {
            return TemplateError::Raised { name, message: message.0.clone() };
        }
        if sources(&error).filter_map(|source| source.downcast_ref::<Error>()).any(|error| error.kind() == ErrorKind::OutOfFuel) {
            return TemplateError::OutOfFuel { name, fuel: FUEL };
        }
        TemplateError::Render { name, line: error.line().unwrap_or(0), detail: describe(&error) }
    }
}

/// An error and what caused it, outermost first.
fn sources<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// What went wrong, without the name and the line, which the caller has.
pub(super) fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Whether the template looks at a variable that it does not set itself.
pub(super) fn uses(environment: &Environment<'static>, variable: &str) -> bool {
    environment.get_template(TEMPLATE).is_ok_and(|template| template.undeclared_variables(false).contains(variable))
}

/// Renders the template with these variables.
pub(super) fn run(environment: &Environment<'static>, context: Value) -> Result<String, Failure> {
    let mut output = Bounded { text: Vec::new(), full: false };
    let template = environment.get_template(TEMPLATE).map_err(Failure::Template)?;
    let result = template.render_captured_to(context, &mut output).map(|_| ());
    match result {
        _ if output.full => Err(Failure::OutputTooLong),
        Err(error) => Err(Failure::Template(error)),
        Ok(()) => Ok(String::from_utf8_lossy(&output.text).into_owned()),
    }
}

/// A buffer that takes so much and no more.
struct Bounded {
    text: Vec<u8>,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > OUTPUT_LIMIT {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
