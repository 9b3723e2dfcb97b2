//! Long work away from the async threads, a little at a time.
//!
//! Parsing and encoding a request of megabytes takes many milliseconds, and many times the memory of its bytes. On the async threads it would
//! hold up every other connection; all at once it would starve the engine of processors.
//!
//! **Architecture invariant:** of the long work of all requests, a fixed number runs at any time.

use crate::server::error::ApiError;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Long pieces of work that run at the same time.
const CONCURRENT: usize = 2;

/// Runs long work. One per server; clones share the limit.
#[derive(Clone, Debug)]
pub struct Offload {
    permits: Arc<Semaphore>,
}

impl Default for Offload {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(CONCURRENT)) }
    }
}

impl Offload {
    /// Runs `work` as [`Self::run`] if it is long, else on the spot.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_if<T, F>(&self, is_long: bool, work: F) -> Result<T, ApiError>
    where
        F: FnOnce() -> Result<T, ApiError> + Send + 'static,
        T: Send + 'static,
    {
        if is_long { self.run(work).await } else { work() }
    }

    /// Runs `work` on the blocking pool, once fewer than the limit run.
    ///
    /// # Errors
    /// Those of `work`; 500 if it panics.
    pub async fn run<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        F: FnOnce() -> Result<T, ApiError> + Send + 'static,
        T: Send + 'static,
    {
        // The semaphore is never closed, so that this cannot fail; without a permit the work would merely begin at once.
        let permit = self.permits.clone().acquire_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        task.await.unwrap_or_else(|error| Err(ApiError::Internal { detail: format!("reading a request: {error}") }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn only_so_much_runs_at_once() {
        let (offload, running, most) = (Offload::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..8).map(|_| {
            let (offload, running, most) = (offload.clone(), running.clone(), most.clone());
            tokio::spawn(async move {
                let work = move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                };
                offload.run(work).await
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap().unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), CONCURRENT);
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let result = Offload::default().run(|| -> Result<(), ApiError> { panic!("broken") }).await;
        assert!(matches!(result, Err(ApiError::Internal { .. })));
    }
}
