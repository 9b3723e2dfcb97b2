//! From a signal to an orderly end: turn unready, finish what runs, close, exit 0. A second signal ends at once.

use crate::engine::EngineHandle;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// Time that connections have at least to take the last events once no sequence runs any more.
pub(super) const FLUSH_TIME: Duration = Duration::from_secs(2);

/// The signals that ask for an end.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over from the system; until then they end the process, which is right while the model is loading.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and returns its number.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }
}

/// Why serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As asked, everything finished or cut at the time limit.
    Orderly,
    /// By a second signal of this number.
    Forced(i32),
}

/// Waits for a signal, then drains: new work is refused and readiness withdrawn at once, while connections are still accepted, so that
/// probes see it. When nothing runs any more, or `limit` has passed, `close` is cancelled, which ends the server.
pub(super) async fn drain_on_signal(mut signals: Signals, engine: EngineHandle, close: CancellationToken, limit: Duration) -> End {
    let number = signals.next().await;
    tracing::info!(signal = number, limit_s = limit.as_secs_f64(), "draining");
    engine.begin_drain();
    let deadline = Instant::now() + limit;
    let drained = async {
        if timeout_at(deadline, engine.drained()).await.is_err() {
            tracing::warn!("requests did not finish in time and are aborted");
            engine.abort_all();
        }
        close.cancel();
        // The server ends by itself now; this future only watches for impatience.
        sleep_until(deadline.max(Instant::now() + FLUSH_TIME)).await;
    };
    tokio::select! {
        () = drained => End::Orderly,
        number = signals.next() => End::Forced(number),
    }
}
