//! Sixteen f32 lanes, the unit every CPU kernel is written in.
//!
//! A kernel is written once, generic over [`Lanes`]; [`Isa::run`] instantiates it for an instruction set chosen at run time. Every method
//! is one correctly rounded IEEE operation a lane (fused where it says so), so all instruction sets give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub(super) use scalar::Scalar;

/// Lanes in a vector, whatever the instruction set.
pub(super) const WIDTH: usize = 16;

/// Sixteen f32 values.
///
/// # Safety
/// All methods require the instruction set of the type; pointers must be valid for what the method says, of any alignment.
pub(super) trait Lanes: Copy {
    /// Rows of a tile of the matrix kernel that keep their accumulators in registers.
    const TILE_ROWS: usize;
    /// Vectors of outputs in such a tile: 2 = a whole panel of 32.
    const TILE_VECTORS: usize;

    unsafe fn splat(value: f32) -> Self;
    /// Reads 16 f32.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads 16 bf16.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Reads 16 f16.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Reads 32 bf16: the even-numbered ones and the odd-numbered ones.
    unsafe fn load_bf16_pairs(from: *const u16) -> (Self, Self);
    /// Writes 16 f32.
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `self > other ? self : other`: a NaN in `other` stays, one in `self` does not.
    unsafe fn max(self, other: Self) -> Self;
    /// `self < other ? self : other`: a NaN in `other` stays, one in `self` does not.
    unsafe fn min(self, other: Self) -> Self;
    /// To the nearest integer, ties to even.
    unsafe fn round(self) -> Self;
    /// `2^self` for integers in `-126..=127`.
    unsafe fn exp2_integer(self) -> Self;
    /// Keeps the first `count` lanes, the others become `fill`.
    unsafe fn keep_first(self, count: usize, fill: f32) -> Self;

    /// All lanes as an array.
    #[inline(always)]
    unsafe fn to_array(self) -> [f32; WIDTH] {
        let mut out = [0.0; WIDTH];
        // SAFETY: the array holds 16 f32.
        unsafe { self.store(out.as_mut_ptr()) };
        out
    }

    /// Reads the first `count <= 16` values, the other lanes are 0.
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        if count >= WIDTH {
            // SAFETY: the caller promises `count` values.
            return unsafe { Self::load(from) };
        }
        let mut values = [0.0f32; WIDTH];
        // SAFETY: the caller promises `count` values; the array holds 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
            Self::load(values.as_ptr())
        }
    }

    /// Writes the first `count <= 16` lanes.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        if count >= WIDTH {
            // SAFETY: the caller promises room for `count` values.
            return unsafe { self.store(to) };
        }
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(self.to_array().as_ptr(), to, count) }
    }
}

/// Sum of 16 lanes by halves: the one order every reduction uses.
#[inline(always)]
pub(super) fn sum_tree(mut lanes: [f32; WIDTH]) -> f32 {
    let mut half = WIDTH / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Largest of 16 lanes.
#[inline(always)]
pub(super) fn max_tree(lanes: [f32; WIDTH]) -> f32 {
    lanes.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b })
}

/// Which part of a job a thread does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) index: usize,
    pub(super) of: usize,
}

impl Part {
    /// This part of `0..count`: contiguous, and depending on nothing but the numbers.
    pub(super) fn range(self, count: usize) -> std::ops::Range<usize> {
        count * self.index / self.of..count * (self.index + 1) / self.of
    }
}

/// A job written once for all instruction sets. Implementations mark `run` `#[inline(always)]`, so that the whole job is compiled inside
/// the function that enables the instruction set.
pub(super) trait Kernel: Sync {
    /// Does `part` of the job.
    ///
    /// # Safety
    /// The instruction set of `V` must be there, parts must not overlap while they run, and the job's pointers must be valid.
    unsafe fn run<V: Lanes>(&self, part: Part);
}

/// An instruction set, found from the CPU's features alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// All that this machine can run, slowest first.
    pub(super) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut found = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Self::Avx2);
            }
            let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl");
            if avx2 && wide && is_x86_feature_detected!("avx512dq") {
                found.push(Self::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Self::Neon);
        }
        found
    }

    /// The name in logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
        }
    }

    /// Does `part` of `kernel` with this instruction set.
    ///
    /// # Safety
    /// As [`Kernel::run`]; `self` must come from [`Self::available`].
    pub(super) unsafe fn run<K: Kernel>(self, kernel: &K, part: Part) {
        // SAFETY: the caller's promise covers both the instruction set and the kernel's own conditions.
        unsafe {
            match self {
                Self::Scalar => kernel.run::<Scalar>(part),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2::run(kernel, part),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512::run(kernel, part),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => neon::run(kernel, part),
            }
        }
    }
}
