//! Which kernels compute.
//!
//! `vdpbf16ps` multiplies bf16 pairs at twice the rate of f32 FMA on AMD's Zen 4 and later, at half of it on Intel's Sapphire Rapids. It rounds
//! activations to bf16, so its bits differ from the portable kernels'. The choice follows the CPU's features, vendor and family and nothing
//! that is measured: machines of one kind always agree.

use super::lanes::Isa;

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuKernels {
    /// [`Self::Avx512Bf16`] where it is the faster one, else [`Self::Portable`].
    #[default]
    Auto,
    /// bf16 widened to f32: the same bits on every CPU.
    Portable,
    /// `vdpbf16ps` for products of bf16 weights and bf16 keys and values.
    Avx512Bf16,
}

/// Kernels that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KernelsError {
    /// The CPU lacks instructions.
    #[error("this CPU has no AVX512_BF16")]
    Missing,
    /// The system refused a thread.
    #[error("cannot start a thread: {0}")]
    Threads(std::io::Error),
}

impl CpuKernels {
    /// The instruction set, and whether products are those of `vdpbf16ps`.
    ///
    /// # Errors
    /// [`KernelsError::Missing`].
    pub(super) fn choose(self) -> Result<(Isa, bool), KernelsError> {
        let portable = Isa::portable().pop().unwrap_or(Isa::Scalar);
        match (self, Isa::native_dot()) {
            (Self::Auto, Some(isa)) if has_fast_dot() => Ok((isa, true)),
            (Self::Avx512Bf16, Some(isa)) => Ok((isa, true)),
            (Self::Avx512Bf16, None) => Err(KernelsError::Missing),
            (Self::Auto | Self::Portable, _) => Ok((portable, false)),
        }
    }
}

/// Whether the CPU is of a kind on which `vdpbf16ps` beats f32 FMA.
#[cfg(target_arch = "x86_64")]
fn has_fast_dot() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    let vendor = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
    is_fast_dot(&vendor, family(std::arch::x86_64::__cpuid(1).eax))
}

#[cfg(not(target_arch = "x86_64"))]
fn has_fast_dot() -> bool {
    false
}

/// Zen 4 is family 0x19, Zen 5 0x1a; older members of 0x19 have no AVX-512 at all.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
fn is_fast_dot(vendor: &[u8], family: u32) -> bool {
    vendor == b"AuthenticAMD" && family >= 0x19
}

/// The family in CPUID leaf 1: the extended one is added when the base is 15.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
fn family(eax: u32) -> u32 {
    let (base, extended) = (eax >> 8 & 0xf, eax >> 20 & 0xff);
    if base == 0xf { base + extended } else { base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_and_family_alone_choose() {
        // Leaf 1 of a Zen 4 (family 0x19, model 0x11), a Zen 2 (0x17, 0x31) and a Sapphire Rapids (6, 0x8f).
        let (zen_4, zen_2, sapphire_rapids) = (0x00a1_0f11, 0x0083_0f10, 0x0008_06f8);
        assert_eq!([zen_4, zen_2, sapphire_rapids].map(family), [0x19, 0x17, 6]);
        assert!(is_fast_dot(b"AuthenticAMD", 0x19) && is_fast_dot(b"AuthenticAMD", 0x1a));
        assert!(!is_fast_dot(b"AuthenticAMD", 0x17) && !is_fast_dot(b"GenuineIntel", 6) && !is_fast_dot(b"GenuineIntel", 0x19));
    }

    #[test]
    fn portable_kernels_are_always_there() {
        let (isa, dot) = CpuKernels::Portable.choose().unwrap();
        assert!(!dot && Isa::portable().contains(&isa));
    }

    #[test]
    fn asking_for_what_the_cpu_lacks_is_an_error() {
        match (CpuKernels::Avx512Bf16.choose(), Isa::native_dot()) {
            (Ok((isa, true)), Some(native)) => assert_eq!(isa, native),
            (Err(KernelsError::Missing), None) => {}
            (other, native) => panic!("{other:?} with {native:?}"),
        }
    }
}
