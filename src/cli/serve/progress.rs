//! What a long load says meanwhile: one line that changes on a terminal, lines of the log elsewhere. All of it on standard error.

use crate::model::{LoadProgress, LoadStage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A load that is done before this says nothing.
const QUIET: Duration = Duration::from_secs(1);
/// Time between two states of the line, and between two lines of the log.
const REDRAW: Duration = Duration::from_millis(100);
const LOG_EVERY: Duration = Duration::from_secs(2);

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// As a line that changes.
    Terminal,
    /// As lines of the log.
    Log,
}

/// Shows progress until it is dropped.
#[derive(Debug)]
pub(super) struct Display {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    /// Watches `progress` on a thread of its own. Without the thread loading goes on, in silence.
    pub(super) fn start(progress: Arc<LoadProgress>, show: Show) -> Self {
        let (end, ended) = channel();
        let body = move || watch(&progress, &ended, show);
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(body).ok();
        Self { end: Some(end), thread }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was logged by the hook; the line is gone before anything else is printed.
            let _ = thread.join();
        }
    }
}

fn watch(progress: &LoadProgress, ended: &Receiver<()>, show: Show) {
    let goes_on = |pause| ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout);
    let mut rate = Rate::begin(progress.now());
    if !goes_on(QUIET) {
        return;
    }
    match show {
        Show::Log => loop {
            let (stage, percent, gigabytes_per_second) = rate.at(progress.now());
            tracing::info!(percent, gigabytes_per_second, "{}", stage.text());
            if !goes_on(LOG_EVERY) {
                return;
            }
        },
        Show::Terminal => {
            let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
            bar.set_style(style());
            loop {
                let (stage, percent, gigabytes_per_second) = rate.at(progress.now());
                let rate = if gigabytes_per_second > 0.0 { format!("{gigabytes_per_second:.1} GB/s  ") } else { String::new() };
                bar.set_message(format!("{percent:3}%  {rate}{}", stage.text()));
                bar.set_position(percent);
                if !goes_on(REDRAW) {
                    break;
                }
            }
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("[{bar:30}] {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("#> ")
}

/// How fast a stage goes, from when it was first seen.
#[derive(Debug)]
struct Rate {
    stage: LoadStage,
    since: Instant,
    from: u64,
}

impl Rate {
    fn begin((stage, done, _): (LoadStage, u64, u64)) -> Self {
        Self { stage, since: Instant::now(), from: done }
    }

    /// The stage, its percentage and its gigabytes a second, with one digit after the point.
    fn at(&mut self, now: (LoadStage, u64, u64)) -> (LoadStage, u64, f64) {
        let (stage, done, total) = now;
        if stage != self.stage || done < self.from {
            *self = Self { from: 0, ..Self::begin(now) };
        }
        let percent = (done.saturating_mul(100)).checked_div(total).unwrap_or(0).min(100);
        // A stage is seen up to a redraw after it began.
        let seconds = self.since.elapsed().max(REDRAW).as_secs_f64();
        (stage, percent, (done.saturating_sub(self.from) as f64 / seconds / 1e8).round() / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_and_rate_are_those_of_the_stage() {
        let ago = Instant::now().checked_sub(Duration::from_secs(2)).expect("the clock is past that");
        let mut rate = Rate { stage: LoadStage::Hashing, since: ago, from: 0 };
        assert_eq!(rate.at((LoadStage::Hashing, 3_000_000_000, 12_000_000_000)), (LoadStage::Hashing, 25, 1.5));
        let (stage, percent, _) = rate.at((LoadStage::Packing, 5, 10));
        assert_eq!((stage, percent, rate.stage), (LoadStage::Packing, 50, LoadStage::Packing));
        assert_eq!(rate.at((LoadStage::Packing, 0, 0)).1, 0);
        assert_eq!(rate.at((LoadStage::Packing, 20, 10)).1, 100);
    }

    #[test]
    fn a_short_load_is_silent_and_not_waited_for() {
        let started = Instant::now();
        for show in [Show::Terminal, Show::Log] {
            drop(Display::start(Arc::default(), show));
        }
        assert!(started.elapsed() < QUIET, "{:?}", started.elapsed());
    }

    #[test]
    fn the_line_has_a_valid_template() {
        assert!(ProgressStyle::with_template("[{bar:30}] {msg}").is_ok());
    }
}
