//! The log: lines on standard error, for people or as JSON.
//!
//! `cli` calls [`init`] once, before anything can fail; everything else only uses `tracing`'s macros.
//!
//! House style of lines: lowercase messages, values in fields, nothing above debug for a token, never the text of a prompt or an answer.
//!
//! **Architecture invariant:** standard output belongs to the banner and to commands that print; the log never goes there.
//!
//! Not here: metrics, and the one line for a request, which `server` writes.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

/// Form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people, plain.
    Plain,
    /// For people at a terminal, with colour.
    Color,
    /// One JSON object a line: `timestamp`, `level`, `message`, `target` and the fields.
    Json,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("a log was set up before")]
pub struct LoggingError;

/// Sends the log of this process, panics included, to standard error from now on.
///
/// # Errors
/// [`LoggingError`] when called twice.
pub fn init(level: Level, format: Format) -> Result<(), LoggingError> {
    let subscriber = subscriber(level, format, std::io::stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// What formats the lines. Our own are taken from `level` up, those of other crates from `warn` up: hyper at debug would drown ours.
fn subscriber<W>(level: Level, format: Format, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let others = LevelFilter::WARN.min(LevelFilter::from_level(level));
    let filter = Targets::new().with_default(others).with_target(env!("CARGO_CRATE_NAME"), level);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry();
    match format {
        Format::Plain => Box::new(registry.with(layer.with_ansi(false).with_filter(filter))),
        Format::Color => Box::new(registry.with(layer.with_ansi(true).with_filter(filter))),
        Format::Json => Box::new(registry.with(layer.json().flatten_event(true).with_span_list(false).with_filter(filter))),
    }
}

/// A panic as a line of the log: where lines are JSON, the standard text would be none.
fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("not a text");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    // Present where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(message_of_panic = message, location, thread = thread.name(), backtrace, "panic");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no writer panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `log` writes.
    fn lines(level: Level, format: Format, log: impl FnOnce()) -> Vec<String> {
        let sink = Sink::default();
        let writer = sink.clone();
        tracing::subscriber::with_default(subscriber(level, format, move || writer.clone()), log);
        let bytes = sink.0.lock().expect("no writer panics").clone();
        String::from_utf8(bytes).expect("lines are text").lines().map(str::to_owned).collect()
    }

    #[test]
    fn levels_are_ours_and_other_crates_only_warn() {
        let log = || {
            tracing::debug!("ours");
            tracing::trace!("too fine");
            tracing::info!(target: "hyper::proto", "theirs");
            tracing::warn!(target: "hyper::proto", "their warning");
        };
        let found = lines(Level::DEBUG, Format::Plain, log);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("ours") && found[1].ends_with("their warning"), "{found:?}");
        assert!(lines(Level::ERROR, Format::Plain, log).is_empty());
    }

    #[test]
    fn json_lines_are_flat_objects() {
        let found = lines(Level::INFO, Format::Json, || tracing::info!(tokens = 3, name = "a \"b\"", "request finished"));
        assert_eq!(found.len(), 1);
        for part in ["\"message\":\"request finished\"", "\"tokens\":3", "\"name\":\"a \\\"b\\\"\"", "\"level\":\"INFO\""] {
            assert!(found[0].contains(part), "{part} in {}", found[0]);
        }
        assert!(found[0].starts_with('{') && found[0].ends_with('}'));
    }

    #[test]
    fn colour_only_where_asked() {
        let log = || tracing::info!(tokens = 3, "x");
        assert!(lines(Level::INFO, Format::Color, log)[0].contains('\u{1b}'));
        assert!(!lines(Level::INFO, Format::Plain, log)[0].contains('\u{1b}'));
    }

    #[test]
    fn text_from_outside_cannot_forge_a_line() {
        let found = lines(Level::INFO, Format::Plain, || tracing::info!(id = "a\nb\u{1b}[31m", "x"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(!found[0].contains('\u{1b}'));
    }
}
