//! What this machine can do at most: reading memory, f32 multiply-adds, and the dot-product instructions of 16- and 8-bit types.
//!
//! `cli::bench` measures a round of these before each round of what it compares to them: on shared hosts the bandwidth of memory swings
//! within minutes, and only figures of one moment can be divided. The backend itself never calls this.
//!
//! Every thread works for the same time on registers alone, or once through its part of one buffer; rates of all threads are added.

#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::lanes::{ByteLanes, Isa, Kernel, Lanes, Part, WIDTH};
use super::memory::{Aligned, at};
use super::pool::ThreadPool;
use crate::ops::OpError;
#[cfg(target_arch = "aarch64")]
use neon as dot;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Smallest part of the buffer that one thread reads: no cache level that a core has to itself holds it.
pub const LEAST_BYTES_PER_THREAD: usize = 64 << 20;

/// How long a thread keeps an arithmetic unit busy in one round.
const BUSY: Duration = Duration::from_millis(15);

/// Iterations between two looks at the clock.
const ITERATIONS: usize = 4096;

/// Why the limits cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The system refused a thread.
    #[error("threads: {0}")]
    Threads(#[from] std::io::Error),
    /// The system refused the buffer.
    #[error(transparent)]
    Memory(#[from] OpError),
}

/// What all threads together did in one round. A multiplication and an addition are two operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitRound {
    /// Bytes read a second, once through a buffer in memory.
    pub read_bytes_per_s: f64,
    /// f32 operations a second of fused multiply-adds, in the best instruction set the kernels use.
    pub f32_fma_flops: f64,
    /// Operations a second of `vdpbf16ps` (bf16 products added to f32); `None` where the CPU lacks it.
    pub bf16_dot_flops: Option<f64>,
    /// Operations a second of 8-bit products added to i32, by `vpdpbusd`, `vpmaddubsw` and `vpmaddwd`, `smmla` or `sdot`; `None` where the CPU
    /// has none of these.
    pub int8_dot_ops: Option<f64>,
}

/// Threads and a buffer to measure with.
pub struct LimitProbe {
    isa: Isa,
    pool: ThreadPool,
    buffer: Aligned<f32>,
}

impl LimitProbe {
    /// Starts `threads` threads (the caller's included) and fills a buffer of `bytes`, at least [`LEAST_BYTES_PER_THREAD`] for each.
    ///
    /// # Errors
    /// [`LimitError`] when the system refuses a thread or the memory.
    pub fn new(threads: usize, bytes: usize) -> Result<Self, LimitError> {
        let pool = ThreadPool::new(threads)?;
        let bytes = bytes.max(LEAST_BYTES_PER_THREAD.saturating_mul(pool.threads()));
        let mut buffer = Aligned::zeroed(bytes / size_of::<f32>(), "the buffer that the bandwidth is measured on")?;
        let (len, shared) = (buffer.len(), buffer.shared());
        // Pages that nobody has written are all the same page of zeros, which a cache holds.
        pool.run(&|part| {
            let range = part.range(len);
            // SAFETY: parts do not overlap.
            unsafe { shared.slice(range.start, range.len()) }.fill(1.0);
        });
        Ok(Self { isa: Isa::portable().pop().unwrap_or(Isa::Scalar), pool, buffer })
    }

    /// Threads that work.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes of the buffer that [`LimitRound::read_bytes_per_s`] is measured on.
    pub fn buffer_bytes(&self) -> usize {
        size_of_val(self.buffer.as_slice())
    }

    /// Measures everything once; takes about a twentieth of a second and one pass over the buffer.
    pub fn round(&self) -> LimitRound {
        LimitRound {
            read_bytes_per_s: self.read(),
            f32_fma_flops: self.multiply_add(),
            bf16_dot_flops: self.bf16_dot(),
            int8_dot_ops: self.int8_dot(),
        }
    }

    fn read(&self) -> f64 {
        let kernel = Read { values: self.buffer.as_slice() };
        let started = Instant::now();
        // SAFETY: the instruction set is one of this CPU's; the kernel writes nothing and checks its pointers.
        self.pool.run(&|part| unsafe { self.isa.run(&kernel, part) });
        self.buffer_bytes() as f64 / started.elapsed().as_secs_f64()
    }

    fn multiply_add(&self) -> f64 {
        let kernel = MultiplyAdd { rate: Mutex::new(0.0) };
        // SAFETY: the instruction set is one of this CPU's; the kernel touches no memory but its sum.
        self.pool.run(&|part| unsafe { self.isa.run(&kernel, part) });
        kernel.rate.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sum over all threads of the operations a second of `iterations`, which does [`ITERATIONS`] and says how many operations they were.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn dot(&self, iterations: impl Fn() -> f64 + Sync) -> f64 {
        let rate = Mutex::new(0.0);
        self.pool.run(&|_| add(&rate, busy(&iterations)));
        rate.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(target_arch = "x86_64")]
    fn bf16_dot(&self) -> Option<f64> {
        // SAFETY: the feature is there.
        dot::has_bf16().then(|| self.dot(|| unsafe { dot::bf16(ITERATIONS) }))
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn int8_dot(&self) -> Option<f64> {
        dot::int8_products().map(|products| self.dot(|| products(ITERATIONS)))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn bf16_dot(&self) -> Option<f64> {
        None
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn int8_dot(&self) -> Option<f64> {
        None
    }
}

fn add(sum: &Mutex<f64>, rate: f64) {
    *sum.lock().unwrap_or_else(PoisonError::into_inner) += rate;
}

/// Repeats `iterations`, which returns its number of operations, for [`BUSY`]: operations a second of this thread.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn busy(iterations: impl Fn() -> f64) -> f64 {
    let started = Instant::now();
    let mut operations = 0.0;
    loop {
        operations += iterations();
        let elapsed = started.elapsed();
        if elapsed >= BUSY {
            return operations / elapsed.as_secs_f64();
        }
    }
}

/// Reads every value once, in ascending order, one stream a thread.
struct Read<'a> {
    values: &'a [f32],
}

impl Kernel for Read<'_> {
    #[inline(always)]
    unsafe fn run<V: ByteLanes>(&self, part: Part) {
        /// Vectors of a step, each added to a sum of its own: enough that the additions never wait for each other.
        const STREAM: usize = 8;
        let range = part.range(self.values.len() / (STREAM * WIDTH));
        let from = at(self.values, range.start * STREAM * WIDTH, range.len() * STREAM * WIDTH);
        // SAFETY: `at` has checked the range; the instruction set is the caller's promise.
        unsafe {
            let mut sums = [V::splat(0.0); STREAM];
            for step in 0..range.len() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(V::load(from.add((step * STREAM + i) * WIDTH)));
                }
            }
            for sum in sums {
                black_box(sum.to_array());
            }
        }
    }
}

/// Fused multiply-adds on registers alone.
struct MultiplyAdd {
    /// Operations a second of all threads.
    rate: Mutex<f64>,
}

impl Kernel for MultiplyAdd {
    #[inline(always)]
    unsafe fn run<V: ByteLanes>(&self, _: Part) {
        // SAFETY: the instruction set is the caller's promise.
        let rate = unsafe {
            // Chains that do not wait for each other. With 32 registers of 16 lanes there are sixteen; where a vector is two registers of
            // sixteen, six vectors are twelve, and more would be spilled to memory.
            if V::TILE_VECTORS == 2 { chains::<V, 16>() } else { chains::<V, 6>() }
        };
        add(&self.rate, rate);
    }
}

/// One multiply-add in each of `N` chains, again and again for [`BUSY`]; operations a second of this thread.
///
/// # Safety
/// The instruction set of `V`.
#[inline(always)]
unsafe fn chains<V: Lanes, const N: usize>() -> f64 {
    let started = Instant::now();
    let mut blocks = 0;
    // SAFETY: the caller's promise. No closure holds the loop: only what is inlined into `Isa::run` has its instruction set.
    unsafe {
        let (factor, addend) = (V::splat(black_box(0.5)), V::splat(black_box(1.0)));
        loop {
            let mut sums = [V::splat(0.0); N];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = V::splat(black_box(i as f32));
            }
            for _ in 0..ITERATIONS {
                for sum in &mut sums {
                    *sum = sum.mul_add(factor, addend);
                }
            }
            for sum in sums {
                black_box(sum.to_array());
            }
            blocks += 1;
            let elapsed = started.elapsed();
            if elapsed >= BUSY {
                return (blocks * ITERATIONS * N * WIDTH * 2) as f64 / elapsed.as_secs_f64();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_positive_and_those_of_the_cpu_are_there() {
        let probe = LimitProbe::new(2, 0).unwrap();
        assert_eq!((probe.threads(), probe.buffer_bytes()), (2, 2 * LEAST_BYTES_PER_THREAD));
        let round = probe.round();
        assert!(round.read_bytes_per_s > 0.0 && round.f32_fma_flops > 0.0, "{round:?}");
        assert!(round.bf16_dot_flops.is_none_or(|rate| rate > 0.0) && round.int8_dot_ops.is_none_or(|rate| rate > 0.0), "{round:?}");
        #[cfg(target_arch = "x86_64")]
        assert_eq!((round.bf16_dot_flops.is_some(), round.int8_dot_ops.is_some()), (dot::has_bf16(), dot::int8_products().is_some()));
    }

    #[test]
    fn every_instruction_set_can_be_measured() {
        for isa in Isa::portable() {
            let kernel = MultiplyAdd { rate: Mutex::new(0.0) };
            // SAFETY: the instruction set is one of this CPU's.
            unsafe { isa.run(&kernel, Part { index: 0, of: 1 }) };
            assert!(kernel.rate.into_inner().unwrap() > 0.0, "{isa:?}");
        }
    }

    #[test]
    fn the_buffer_is_as_large_as_asked() {
        let bytes = LEAST_BYTES_PER_THREAD + 4096;
        assert_eq!(LimitProbe::new(1, bytes).unwrap().buffer_bytes(), bytes);
    }
}
