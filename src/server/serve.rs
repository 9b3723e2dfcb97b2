//! Accepts connections and serves them until it is told to stop.
//!
//! **Architecture invariant:** a connection ends in bounded time unless its client both sends and reads: the head of a request, its body, and
//! every write have a time limit.

use super::ServerOptions;
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Pause after the system refused to accept, for instance because there are no file descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves `app` on `listener` until `shutdown`; then finishes the requests that run, for at most `options.shutdown_timeout`, and drops the rest,
/// which aborts their sequences.
pub async fn serve(listener: TcpListener, app: Router, options: ServerOptions, shutdown: CancellationToken) {
    let connections = Arc::new(Semaphore::new(options.max_connections));
    let graceful = GracefulShutdown::new();
    let kill = CancellationToken::new();
    let server = Arc::new(Connections { app, builder: builder(&options), options, kill: kill.clone() });
    while let Some((stream, permit)) = accept(&listener, &connections, &shutdown).await {
        let server = server.clone();
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            server.run(stream, watcher).await;
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(server.options.shutdown_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!(timeout = ?server.options.shutdown_timeout, "requests did not finish in time and are cut off");
    }
    kill.cancel();
}

/// The next connection; `None` once the server shuts down.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((stream, permit))
        };
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            accepted = next => accepted,
        };
        match accepted {
            Ok(connection) => return Some(connection),
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// HTTP/1.1 alone: nothing here would limit how long an HTTP/2 client may stall its streams.
fn builder(options: &ServerOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // This clock also runs while a connection waits for its next request, where a proxy's pool needs it to be patient.
    builder.timer(TokioTimer::new()).header_read_timeout(options.keep_alive_timeout.max(options.header_timeout));
    builder
}

/// What all connections share.
struct Connections {
    app: Router,
    builder: http1::Builder,
    options: ServerOptions,
    /// Cancelled when the time to finish is over.
    kill: CancellationToken,
}

impl Connections {
    async fn run(&self, stream: TcpStream, watcher: Watcher) {
        // Tokens are small writes that should leave at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.options.write_timeout));
        let spoke = Arc::new(AtomicBool::new(false));
        let (app, heard) = (self.app.clone(), spoke.clone());
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            heard.store(true, Ordering::Relaxed);
            app.clone().oneshot(request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = pin!(watcher.watch(connection));
        tokio::select! {
            result = self.until_silent(connection, &spoke) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended");
                }
            }
            () = self.kill.cancelled() => {}
        }
    }

    /// Runs a connection, but not beyond `header_timeout` if no request has come by then.
    async fn until_silent<F, E>(&self, mut connection: Pin<&mut F>, spoke: &AtomicBool) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        match tokio::time::timeout(self.options.header_timeout, connection.as_mut()).await {
            Ok(result) => result,
            Err(_) if spoke.load(Ordering::Relaxed) => connection.await,
            Err(_) => Ok(()),
        }
    }
}
