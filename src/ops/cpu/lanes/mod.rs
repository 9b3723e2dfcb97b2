//! Sixteen f32 lanes, the unit every CPU kernel is written in.
//!
//! A kernel is written once, generic over [`Lanes`]; [`Isa::run`] instantiates it for an instruction set chosen at run time. Every method
//! is one correctly rounded IEEE operation a lane (fused where it says so), so all instruction sets give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bytes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::operand::TileRows;
pub(super) use bytes::ByteLanes;
use half::bf16;
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
    /// Rows of a tile from which on it is summed by [`Self::add_column`].
    const COLUMN_FROM_ROWS: usize = usize::MAX;
    /// Whether [`Self::dot_bf16`] is one instruction. Elsewhere it is spelled out, for tests.
    const NATIVE_DOT: bool = false;

    unsafe fn splat(value: f32) -> Self;
    /// Reads 16 f32.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads 16 f16.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Reads 16 signed bytes.
    unsafe fn load_i8(from: *const i8) -> Self;
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
    /// Adds to vector `vector` of the sums of each row `weights` times one f32, rounded once. That of the first row is at `x`, that of the
    /// next one a block of units further on.
    ///
    /// # Panics
    /// Where [`Self::COLUMN_FROM_ROWS`] rules it out.
    #[inline(always)]
    unsafe fn add_column<const R: usize, const H: usize>(_sums: &mut [[Self; H]; R], _vector: usize, _weights: Self, _x: *const u32) {
        unreachable!("tiles are summed by row")
    }
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

    /// Adds the products of two pairs of bf16 to each lane: `self + pairs.odd * x.odd`, then `+ pairs.even * x.even`, each rounded once.
    /// `pairs` and `x` hold two bf16 a lane, the even one in the low half. This is what `vdpbf16ps` computes, but that the instruction
    /// takes denormal inputs and results as 0.
    #[inline(always)]
    unsafe fn dot_bf16(self, pairs: Self, x: Self) -> Self {
        let split = |v: f32| (f32::from_bits(v.to_bits() << 16), f32::from_bits(v.to_bits() & 0xffff_0000));
        // SAFETY: arrays of 16 values.
        unsafe {
            let (mut sums, pairs, x) = (self.to_array(), pairs.to_array(), x.to_array());
            for i in 0..WIDTH {
                let ((even, odd), (x_even, x_odd)) = (split(pairs[i]), split(x[i]));
                sums[i] = even.mul_add(x_even, odd.mul_add(x_odd, sums[i]));
            }
            Self::load(sums.as_ptr())
        }
    }

    /// Of two bf16 a lane, keeps the even one and makes the odd one 0.
    #[inline(always)]
    unsafe fn even_bf16(self) -> Self {
        // SAFETY: arrays of 16 values.
        unsafe { Self::load(self.to_array().map(|pair| f32::from_bits(pair.to_bits() & 0xffff)).as_ptr()) }
    }

    /// Writes 16 bf16, rounded to nearest even.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        // SAFETY: the caller promises room for 16 values.
        unsafe {
            for (i, value) in self.to_array().into_iter().enumerate() {
                to.add(i).write_unaligned(bf16::from_f32(value).to_bits());
            }
        }
    }

    /// Writes the first 8 lanes and the last 8.
    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32) {
        // SAFETY: the caller promises room for 8 values each.
        unsafe {
            let values = self.to_array();
            std::ptr::copy_nonoverlapping(values.as_ptr(), low, WIDTH / 2);
            std::ptr::copy_nonoverlapping(values.as_ptr().add(WIDTH / 2), high, WIDTH / 2);
        }
    }

    /// The largest lane; which of two zeros, and whether a NaN comes through, is open.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: an array of 16 values.
        unsafe { self.to_array() }.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b })
    }

    /// Asks for the cache line at `from`, which need not be readable, to be brought into the second-level cache.
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}

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
    /// Whether it multiplies bytes. Only such kernels are compiled for instruction sets that differ in nothing else.
    const BYTES: bool = false;

    /// Does `part` of the job.
    ///
    /// # Safety
    /// The instruction set of `V` must be there, parts must not overlap while they run, and the job's pointers must be valid.
    unsafe fn run<V: ByteLanes>(&self, part: Part);
}

fn tile_rows<V: ByteLanes>() -> TileRows {
    TileRows { numbers: V::TILE_ROWS, bytes: V::BYTE_TILE_ROWS }
}

/// An instruction set, found from the CPU's features alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with the `vpdpbusd` of AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with `vpdpbusd`.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX-512 with `vpdpbusd` and `vdpbf16ps`.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with the `sdot` of ARMv8.2.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    /// NEON with `sdot` and the `smmla` of ARMv8.6.
    #[cfg(target_arch = "aarch64")]
    NeonMatrix,
}

impl Isa {
    /// All that this machine can run and that give the same bits, slowest first.
    pub(super) fn portable() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut found = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Self::Avx2);
            }
            if avx2 && is_x86_feature_detected!("avxvnni") {
                found.push(Self::AvxVnni);
            }
            let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl");
            if avx2 && wide && is_x86_feature_detected!("avx512dq") {
                found.push(Self::Avx512);
                if is_x86_feature_detected!("avx512vnni") {
                    found.push(Self::Avx512Vnni);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Self::Neon);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                found.push(Self::NeonDot);
                if std::arch::is_aarch64_feature_detected!("i8mm") {
                    found.push(Self::NeonMatrix);
                }
            }
        }
        found
    }

    /// AVX-512 with `vdpbf16ps`, if this machine has it.
    pub(super) fn native_dot() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if Self::portable().contains(&Self::Avx512Vnni) && is_x86_feature_detected!("avx512bf16") {
            return Some(Self::Avx512Bf16);
        }
        None
    }

    /// Most rows of a tile of the matrix kernel.
    pub(super) fn tile_rows(self) -> TileRows {
        match self {
            Self::Scalar => tile_rows::<Scalar>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => tile_rows::<avx2::Avx2<false>>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Vnni | Self::Avx512Bf16 => tile_rows::<avx512::Avx512<false, false>>(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::NeonDot | Self::NeonMatrix => tile_rows::<neon::Neon<false, false>>(),
        }
    }

    /// The name in logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Self::NeonMatrix => "neon-i8mm",
        }
    }

    /// Does `part` of `kernel` with this instruction set.
    ///
    /// # Safety
    /// As [`Kernel::run`]; `self` must come from [`Self::portable`] or [`Self::native_dot`].
    pub(super) unsafe fn run<K: Kernel>(self, kernel: &K, part: Part) {
        // SAFETY: the caller's promise covers both the instruction set and the kernel's own conditions.
        unsafe {
            match self {
                Self::Scalar => kernel.run::<Scalar>(part),
                #[cfg(target_arch = "x86_64")]
                Self::AvxVnni if K::BYTES => avx2::run_vnni(kernel, part),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 | Self::AvxVnni => avx2::run(kernel, part),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512Vnni if K::BYTES => avx512::run_vnni(kernel, part),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 | Self::Avx512Vnni => avx512::run(kernel, part),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512Bf16 => avx512::run_bf16(kernel, part),
                #[cfg(target_arch = "aarch64")]
                Self::NeonDot if K::BYTES => neon::run_dot(kernel, part),
                #[cfg(target_arch = "aarch64")]
                Self::NeonMatrix if K::BYTES => neon::run_matrix(kernel, part),
                #[cfg(target_arch = "aarch64")]
                Self::Neon | Self::NeonDot | Self::NeonMatrix => neon::run(kernel, part),
            }
        }
    }
}
