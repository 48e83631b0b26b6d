//! Multiplies int8 in registers as fast as one thread can: the ceiling of ternary products.
//!
//! Sums grow from two vectors of codes and several of activations, as in a product of several tokens; no memory
//! is waited for. There are more sums than an instruction's latency times how many start in a cycle. The codes
//! differ from one iteration to the next as far as the compiler can tell, so that no product is computed once
//! and kept.

use crate::Isa;

#[cfg(target_arch = "x86_64")]
const CODES: [i8; 2] = [2, 1];
/// A probe uses as many of the first as its registers and latencies ask for.
#[cfg(target_arch = "x86_64")]
const ACTIVATIONS: [i8; 8] = [3, -2, 5, -7, 4, -1, 6, -3];

/// The instructions that a tier multiplies int8 with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ComputeProbe {
    /// `vpmaddubsw` and `vpaddw` on 256 bits: AVX2.
    MaddubsPaddw,
    /// `vpdpbusd` on 256 bits: AVX-VNNI.
    Vpdpbusd256,
    /// `vpdpbusd` on 512 bits: AVX-512 VNNI.
    Vpdpbusd512,
    /// `tdpbsud` on tiles of 16 x 16 x 64: AMX with int8.
    Tdpbsud,
}

/// What a run of a [`ComputeProbe`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComputeRun {
    /// Operations: two for every product of 8 bits that was added up.
    pub operations: u64,
    /// The wrapping sum of all sums, so that no step can be left out.
    pub checksum: i32,
}

impl ComputeProbe {
    /// Every probe.
    pub const ALL: [ComputeProbe; 4] = [
        ComputeProbe::MaddubsPaddw,
        ComputeProbe::Vpdpbusd256,
        ComputeProbe::Vpdpbusd512,
        ComputeProbe::Tdpbsud,
    ];

    /// Returns the probe of a tier's instructions; `None` for a tier without one, or that this machine lacks.
    pub fn for_isa(isa: Isa) -> Option<Self> {
        let probe = match isa {
            Isa::Avx2 => ComputeProbe::MaddubsPaddw,
            Isa::AvxVnni => ComputeProbe::Vpdpbusd256,
            Isa::Avx512 | Isa::Avx512Vbmi => ComputeProbe::Vpdpbusd512,
            Isa::Amx => ComputeProbe::Tdpbsud,
            _ => return None,
        };
        probe.is_available().then_some(probe)
    }

    /// Returns the name that reports print.
    pub const fn name(self) -> &'static str {
        match self {
            ComputeProbe::MaddubsPaddw => "vpmaddubsw + vpaddw (256 bits)",
            ComputeProbe::Vpdpbusd256 => "vpdpbusd (256 bits)",
            ComputeProbe::Vpdpbusd512 => "vpdpbusd (512 bits)",
            ComputeProbe::Tdpbsud => "tdpbsud (tiles)",
        }
    }

    /// Reports whether this machine has the instructions; `BITNET_ISA` does not apply.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            match self {
                ComputeProbe::MaddubsPaddw => has!("avx2"),
                ComputeProbe::Vpdpbusd256 => has!("avx2") && has!("avxvnni"),
                ComputeProbe::Vpdpbusd512 => has!("avx512f") && has!("avx512vnni"),
                ComputeProbe::Tdpbsud => Isa::Amx.missing().is_none(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Returns the vectors of activations of an iteration, and the bytes of a vector; of tiles, the products of two.
    #[cfg(target_arch = "x86_64")]
    const fn step(self) -> (usize, usize) {
        match self {
            ComputeProbe::MaddubsPaddw => (x86_64::MADDUBS_ACTIVATIONS, 32),
            ComputeProbe::Vpdpbusd256 => (x86_64::VNNI_256_ACTIVATIONS, 32),
            ComputeProbe::Vpdpbusd512 => (x86_64::VNNI_512_ACTIVATIONS, 64),
            ComputeProbe::Tdpbsud => (x86_64::TILE_ACTIVATIONS, 16 * 16 * 64),
        }
    }

    /// Adds one product to each sum, `iterations` times; `None` where the machine lacks the instructions.
    pub fn run(self, iterations: u32) -> Option<ComputeRun> {
        if !self.is_available() {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: the CPU has what the functions enable.
            let checksum = unsafe {
                match self {
                    ComputeProbe::MaddubsPaddw => x86_64::maddubs_paddw(iterations),
                    ComputeProbe::Vpdpbusd256 => x86_64::vpdpbusd_256(iterations),
                    ComputeProbe::Vpdpbusd512 => x86_64::vpdpbusd_512(iterations),
                    ComputeProbe::Tdpbsud => x86_64::tdpbsud(iterations),
                }
            };
            let (activations, bytes) = self.step();
            let products = (CODES.len() * activations * bytes) as u64;
            Some(ComputeRun { operations: u64::from(iterations) * products * 2, checksum })
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = iterations;
            None
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::{ACTIVATIONS, CODES};

    /// Eight sums: products do not wait for each other, and an addition takes one cycle.
    pub(super) const MADDUBS_ACTIVATIONS: usize = 4;
    /// Twelve sums: two start a cycle, each waits five for the one before.
    pub(super) const VNNI_256_ACTIVATIONS: usize = 6;
    /// Sixteen sums, and registers for all operands.
    pub(super) const VNNI_512_ACTIVATIONS: usize = 8;
    /// Four tiles of sums and their operands are all eight.
    pub(super) const TILE_ACTIVATIONS: usize = 2;

    /// Returns the wrapping sum of all sums.
    ///
    /// # Safety
    /// The tier `amx` is there.
    #[cfg(feature = "simd")]
    pub(super) unsafe fn tdpbsud(iterations: u32) -> i32 {
        let ([a, b, ..], codes) = (ACTIVATIONS, CODES.map(|code| code as u8));
        // SAFETY: by the contract.
        unsafe { crate::x86_64::amx::multiply_in_registers([a, b], codes, iterations) }
    }

    /// Without the feature `simd` no tier `amx` is there.
    #[cfg(not(feature = "simd"))]
    pub(super) unsafe fn tdpbsud(_: u32) -> i32 {
        unreachable!("the probe of a tier that this build lacks")
    }

    /// Returns the wrapping sum of the 16-bit lanes.
    #[target_feature(enable = "avx2")]
    pub(super) fn maddubs_paddw(iterations: u32) -> i32 {
        const T: usize = MADDUBS_ACTIVATIONS;
        let mut codes = CODES.map(|code| _mm256_set1_epi8(code));
        let x: [__m256i; T] = std::array::from_fn(|t| _mm256_set1_epi8(ACTIVATIONS[t]));
        let mut sums = [[_mm256_setzero_si256(); T]; CODES.len()];
        for _ in 0..iterations {
            for (codes, sums) in codes.iter_mut().zip(&mut sums) {
                *codes = opaque_256(*codes);
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*codes, x));
                }
            }
        }
        sums.iter().flatten().fold(0, |all, &sum| {
            let mut lanes = [0i16; 16];
            // SAFETY: `lanes` takes the 32 bytes; `storeu` asks for no alignment.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
            lanes.iter().fold(all, |all, &lane| all.wrapping_add(i32::from(lane)))
        })
    }

    /// Returns the wrapping sum of the 32-bit lanes.
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn vpdpbusd_256(iterations: u32) -> i32 {
        const T: usize = VNNI_256_ACTIVATIONS;
        let mut codes = CODES.map(|code| _mm256_set1_epi8(code));
        let x: [__m256i; T] = std::array::from_fn(|t| _mm256_set1_epi8(ACTIVATIONS[t]));
        let mut sums = [[_mm256_setzero_si256(); T]; CODES.len()];
        for _ in 0..iterations {
            for (codes, sums) in codes.iter_mut().zip(&mut sums) {
                *codes = opaque_256(*codes);
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = _mm256_dpbusd_avx_epi32(*sum, *codes, x);
                }
            }
        }
        sums.iter().flatten().fold(0, |all, &sum| {
            let mut lanes = [0i32; 8];
            // SAFETY: `lanes` takes the 32 bytes; `storeu` asks for no alignment.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
            lanes.iter().fold(all, |all, &lane| all.wrapping_add(lane))
        })
    }

    /// Returns the wrapping sum of the 32-bit lanes.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn vpdpbusd_512(iterations: u32) -> i32 {
        const T: usize = VNNI_512_ACTIVATIONS;
        let mut codes = CODES.map(|code| _mm512_set1_epi8(code));
        let x: [__m512i; T] = std::array::from_fn(|t| _mm512_set1_epi8(ACTIVATIONS[t]));
        let mut sums = [[_mm512_setzero_si512(); T]; CODES.len()];
        for _ in 0..iterations {
            for (codes, sums) in codes.iter_mut().zip(&mut sums) {
                *codes = opaque_512(*codes);
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = _mm512_dpbusd_epi32(*sum, *codes, x);
                }
            }
        }
        sums.iter().flatten().fold(0, |all, &sum| all.wrapping_add(_mm512_reduce_add_epi32(sum)))
    }

    /// Returns `vector`, of which the compiler then knows nothing.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn opaque_256(mut vector: __m256i) -> __m256i {
        // SAFETY: no instruction at all; the register keeps its value.
        unsafe { asm!("/* {0} */", inout(ymm_reg) vector, options(pure, nomem, nostack, preserves_flags)) };
        vector
    }

    /// Returns `vector`, of which the compiler then knows nothing.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn opaque_512(mut vector: __m512i) -> __m512i {
        // SAFETY: no instruction at all; the register keeps its value.
        unsafe { asm!("/* {0} */", inout(zmm_reg) vector, options(pure, nomem, nostack, preserves_flags)) };
        vector
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// The sum of all lanes after `iterations`; 16-bit lanes are left below their limit.
    fn expected(probe: ComputeProbe, iterations: u32) -> i32 {
        let (activations, bytes) = probe.step();
        let sum = |values: &[i8]| values.iter().map(|&value| i32::from(value)).sum::<i32>();
        sum(&CODES) * sum(&ACTIVATIONS[..activations]) * bytes as i32 * iterations as i32
    }

    #[test]
    fn a_probe_does_every_operation_that_it_counts() {
        for probe in ComputeProbe::ALL {
            for iterations in [0, 1, 2, 7, 1000] {
                let Some(run) = probe.run(iterations) else {
                    assert!(!probe.is_available(), "{probe:?}");
                    continue;
                };
                assert_eq!(run.checksum, expected(probe, iterations), "{probe:?}, {iterations}");
                let products = match probe {
                    ComputeProbe::MaddubsPaddw => 8 * 32,
                    ComputeProbe::Vpdpbusd256 => 12 * 32,
                    ComputeProbe::Vpdpbusd512 => 16 * 64,
                    ComputeProbe::Tdpbsud => 4 * 16 * 16 * 64,
                };
                assert_eq!(run.operations, u64::from(iterations) * products * 2);
            }
        }
    }

    #[test]
    fn every_vector_tier_of_x86_64_has_its_probe() {
        for isa in [Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Vbmi, Isa::Amx] {
            assert!(isa.missing().is_some() || ComputeProbe::for_isa(isa).is_some(), "{isa}");
        }
        assert_eq!(ComputeProbe::for_isa(Isa::Scalar), None);
    }
}
