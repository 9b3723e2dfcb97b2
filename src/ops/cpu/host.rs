//! Threads for the host's work of a step, for backends that compute elsewhere.

use super::pool::ThreadPool;

/// See the module.
pub struct HostThreads(ThreadPool);

impl HostThreads {
    /// Starts `threads - 1` threads; the caller is the other.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        ThreadPool::new(threads).map(Self)
    }

    /// Runs `task(0..count)`, each once.
    pub fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        for_each(&self.0, count, task);
    }
}

/// Runs `task(0..count)` on the threads of `pool`.
pub(super) fn for_each(pool: &ThreadPool, count: usize, task: &(dyn Fn(usize) + Sync)) {
    pool.run(&|part| (part.index..count).step_by(part.of).for_each(task));
}
