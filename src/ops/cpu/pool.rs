//! One thread pool for everything the CPU backend does: the caller and `threads - 1` workers.
//!
//! Waking a parked thread takes 60–130 µs, more than most operations of a step, so nothing parks within a step that has its cores to itself: a
//! waiting thread spins for a moment, then offers its core to others with `yield_now`, and parks when nothing came for half a millisecond
//! (between steps, when idle, or when another process keeps a core from the thread it waits for).
//!
//! **Architecture invariant:** a job is split by its own arithmetic into as many parts as there are threads, and may let who is done help the
//! others (`claims`); which thread computes an output never changes it.

use super::lanes::Part;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a waiting thread holds its core, then how long it yields it again and again, before it parks.
const SPIN: Duration = Duration::from_micros(20);
const YIELD: Duration = Duration::from_micros(500);

/// The job of the current epoch: a borrowed closure, whose lifetime `ThreadPool::run` outlasts.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(Part) + Sync));

// SAFETY: the closure behind the pointer is `Sync`, and `run` does not return before every worker is done with it.
unsafe impl Send for Job {}

struct Shared {
    /// Number of the current job; a worker runs each one once.
    epoch: AtomicU32,
    /// Workers that have not finished the current job.
    pending: AtomicU32,
    quit: AtomicBool,
    caller_parked: AtomicBool,
    job: Mutex<Option<(Job, Thread)>>,
    /// First panic of a worker in the current job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

struct Worker {
    parked: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// See the module.
pub(super) struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Serialises callers; within one engine there is only one.
    entry: Mutex<()>,
}

/// Locks; a poisoned lock is as good as any here, since the data are replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `ready` by spinning, then yielding; false when it did not come in time.
fn wait_briefly(ready: impl Fn() -> bool) -> bool {
    for _ in 0..256 {
        if ready() {
            return true;
        }
        std::hint::spin_loop();
    }
    let since = Instant::now();
    while since.elapsed() < SPIN {
        for _ in 0..32 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
    }
    while since.elapsed() < YIELD {
        if ready() {
            return true;
        }
        std::thread::yield_now();
    }
    ready()
}

impl ThreadPool {
    /// Starts `threads - 1` workers.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            quit: AtomicBool::new(false),
            caller_parked: AtomicBool::new(false),
            job: Mutex::new(None),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared: shared.clone(), workers: Vec::new(), entry: Mutex::new(()) };
        let of = threads.max(1);
        for index in 1..of {
            let (shared, parked) = (shared.clone(), Arc::new(AtomicBool::new(false)));
            let sleeping = parked.clone();
            let thread =
                std::thread::Builder::new().name(format!("cpu-{index}")).spawn(move || work(&shared, &sleeping, Part { index, of }))?;
            pool.workers.push(Worker { parked, thread });
        }
        Ok(pool)
    }

    /// Threads that work, the caller included.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` once for every part, the first on this thread, and returns when all are done. A job must not call it again: there is
    /// one set of workers, and it is taken.
    ///
    /// # Panics
    /// With the panic of a part, after all parts ended.
    pub(super) fn run(&self, job: &(dyn Fn(Part) + Sync)) {
        let first = Part { index: 0, of: self.threads() };
        if self.workers.is_empty() {
            return job(first);
        }
        let _entry = lock(&self.entry);
        self.publish(job);
        let own = catch_unwind(AssertUnwindSafe(|| job(first)));
        self.join();
        let theirs = lock(&self.shared.panic).take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    fn publish(&self, job: &(dyn Fn(Part) + Sync)) {
        // SAFETY: only the lifetime is erased; `run` waits in `join` until no worker holds the reference any more.
        let job = Job(unsafe { std::mem::transmute::<*const (dyn Fn(Part) + Sync + '_), *const (dyn Fn(Part) + Sync + 'static)>(job) });
        *lock(&self.shared.job) = Some((job, std::thread::current()));
        self.shared.pending.store(self.workers.len() as u32, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        // A worker sets `parked` and then looks at the epoch; here it is the other way round, so that one of the two sees the other.
        for worker in self.workers.iter().filter(|w| w.parked.load(Ordering::SeqCst)) {
            worker.thread.thread().unpark();
        }
    }

    fn join(&self) {
        let done = || self.shared.pending.load(Ordering::Acquire) == 0;
        if !wait_briefly(done) {
            self.shared.caller_parked.store(true, Ordering::SeqCst);
            while self.shared.pending.load(Ordering::SeqCst) != 0 {
                std::thread::park();
            }
            self.shared.caller_parked.store(false, Ordering::SeqCst);
        }
    }
}

/// A worker's life: wait for an epoch, do the own part, report.
fn work(shared: &Shared, parked: &AtomicBool, part: Part) {
    let mut seen = 0;
    loop {
        if !wait_briefly(|| shared.epoch.load(Ordering::Acquire) != seen) {
            parked.store(true, Ordering::SeqCst);
            while shared.epoch.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            parked.store(false, Ordering::SeqCst);
        }
        if shared.quit.load(Ordering::Acquire) {
            return;
        }
        seen = shared.epoch.load(Ordering::Acquire);
        let Some((job, caller)) = lock(&shared.job).clone() else { continue };
        // SAFETY: `run` keeps the closure alive until `pending` is 0, which needs this worker's report below.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (*job.0)(part) }));
        if let Err(panic) = outcome {
            lock(&shared.panic).get_or_insert(panic);
        }
        shared.pending.fetch_sub(1, Ordering::SeqCst);
        if shared.caller_parked.load(Ordering::SeqCst) {
            caller.unpark();
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread.thread().unpark();
            // A worker catches the panics of its jobs, so joining cannot fail; if it did, there is nothing to do about it here.
            let _ = worker.thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_part_runs_once_in_every_job() {
        for threads in [1, 2, 3, 5] {
            let pool = ThreadPool::new(threads).unwrap();
            for round in 0..200 {
                let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run(&|part| {
                    assert_eq!(part.of, threads);
                    counts[part.index].fetch_add(1, Ordering::SeqCst);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::SeqCst) == 1), "{threads} threads, round {round}");
            }
        }
    }

    #[test]
    fn parked_workers_wake() {
        let pool = ThreadPool::new(3).unwrap();
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(3));
            let sum = AtomicUsize::new(0);
            pool.run(&|part| {
                sum.fetch_add(part.index + 1, Ordering::SeqCst);
            });
            assert_eq!(sum.into_inner(), 6);
        }
    }

    #[test]
    fn a_panic_in_a_part_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(3).unwrap();
        for index in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|part| assert_ne!(part.index, index, "part {index}"))));
            assert!(result.is_err());
            let ran = AtomicUsize::new(0);
            pool.run(&|_| {
                ran.fetch_add(1, Ordering::SeqCst);
            });
            assert_eq!(ran.into_inner(), 3);
        }
    }

    #[test]
    fn parts_cover_a_range_without_overlap() {
        for (count, of) in [(0, 3), (1, 3), (7, 2), (1000, 7)] {
            let ends: Vec<_> = (0..of).map(|index| Part { index, of }.range(count)).collect();
            assert_eq!(ends[0].start, 0);
            assert_eq!(ends[of - 1].end, count);
            assert!(ends.windows(2).all(|w| w[0].end == w[1].start));
        }
    }
}
