//! Instruction-set tiers: what the machine has, and `BITNET_ISA` to force one.

use std::env::VarError;
use std::fmt;
use std::str::FromStr;

/// The environment variable that forces a tier.
pub const ISA_VARIABLE: &str = "BITNET_ISA";

/// Why a tier of this architecture is missing where it is not built.
const SIMD_OFF: &str = "this build has the feature `simd` off";

/// An instruction-set tier, in ascending order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Portable code: the truth.
    Scalar,
    /// SSE2: any x86-64.
    Sse2,
    /// SSE2 and SSSE3 (`pmaddubsw` on 128 bits).
    Ssse3,
    /// x86-64 with AVX2 and F16C.
    Avx2,
    /// AVX2 and AVX-VNNI (`vpdpbusd` on 256 bits).
    AvxVnni,
    /// AVX2 and AVX-512 F, BW and VNNI.
    Avx512,
    /// These and AVX-512 VBMI.
    Avx512Vbmi,
    /// These and AMX tiles of int8 (`tdpbsud`), with the operating system's permission.
    Amx,
    /// AArch64 with NEON.
    Neon,
    /// NEON and dot products of int8 (`sdot`).
    Dotprod,
    /// These and matrix products of int8 (`usmmla`).
    I8mm,
}

/// A tier that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// No tier has this name.
    #[error("instruction set {name:?} is unknown, expected one of {known}")]
    Unknown {
        /// The name, as given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The machine or the build lacks it.
    #[error("instruction set {isa} is not available: {reason}")]
    Unavailable {
        /// The tier.
        isa: Isa,
        /// What is missing.
        reason: &'static str,
    },
}

impl Isa {
    /// Every tier of every machine, ascending.
    pub const ALL: [Isa; 11] = [
        Isa::Scalar,
        Isa::Sse2,
        Isa::Ssse3,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Vbmi,
        Isa::Amx,
        Isa::Neon,
        Isa::Dotprod,
        Isa::I8mm,
    ];

    /// Returns the name that `BITNET_ISA` and logs use.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Sse2 => "sse2",
            Isa::Ssse3 => "ssse3",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vbmi => "avx512-vbmi",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
        }
    }

    /// Says why this machine or build cannot run the tier; `None` when it can.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Isa::Scalar => None,
            Isa::Neon | Isa::Dotprod | Isa::I8mm => self.missing_on_aarch64(),
            _ => self.missing_on_x86_64(),
        }
    }

    #[cfg(not(all(feature = "simd", target_arch = "x86_64")))]
    fn missing_on_x86_64(self) -> Option<&'static str> {
        Some(if cfg!(target_arch = "x86_64") { SIMD_OFF } else { "the processor is not x86-64" })
    }

    #[cfg(not(all(feature = "simd", target_arch = "aarch64")))]
    fn missing_on_aarch64(self) -> Option<&'static str> {
        Some(if cfg!(target_arch = "aarch64") { SIMD_OFF } else { "the processor is not AArch64" })
    }

    #[cfg(all(feature = "simd", target_arch = "x86_64"))]
    fn missing_on_x86_64(self) -> Option<&'static str> {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("f16c");
        let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512vnni");
        match self {
            Isa::Sse2 => None,
            Isa::Ssse3 if has!("ssse3") => None,
            Isa::Ssse3 => Some("the processor lacks SSSE3"),
            _ if !avx2 => Some("the processor lacks AVX2 or F16C"),
            Isa::AvxVnni if !has!("avxvnni") => Some("the processor lacks AVX-VNNI"),
            Isa::Avx512 | Isa::Avx512Vbmi | Isa::Amx if !avx512 => {
                Some("the processor lacks AVX-512 F, BW or VNNI")
            }
            Isa::Avx512Vbmi | Isa::Amx if !has!("avx512vbmi") => Some("the processor lacks AVX-512 VBMI"),
            Isa::Amx => crate::x86_64::amx::missing(),
            _ => None,
        }
    }

    #[cfg(all(feature = "simd", target_arch = "aarch64"))]
    fn missing_on_aarch64(self) -> Option<&'static str> {
        use std::arch::is_aarch64_feature_detected as has;
        match self {
            _ if !has!("neon") => Some("the processor lacks NEON"),
            Isa::Dotprod | Isa::I8mm if !has!("dotprod") => Some("the processor lacks dot products of int8"),
            Isa::I8mm if !has!("i8mm") => Some("the processor lacks matrix products of int8"),
            _ => None,
        }
    }

    /// Returns the tiers that can run here, ascending.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.missing().is_none())
    }

    /// Returns the forced tier, or else the best that the machine has.
    ///
    /// # Errors
    /// `BITNET_ISA` names an unknown or unavailable tier: never a silent substitute.
    pub fn select() -> Result<Isa, IsaError> {
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => {
                let isa: Isa = name.parse()?;
                match isa.missing() {
                    None => Ok(isa),
                    Some(reason) => Err(IsaError::Unavailable { isa, reason }),
                }
            }
            Err(VarError::NotUnicode(name)) => name.to_string_lossy().parse(),
            Ok(_) | Err(VarError::NotPresent) => Ok(Isa::available().next_back().unwrap_or(Isa::Scalar)),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| IsaError::Unknown { name: name.into(), known: Isa::ALL.map(Isa::name).join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse::<Isa>().unwrap(), isa);
        }
        let message = "avx9".parse::<Isa>().unwrap_err().to_string();
        assert!(message.contains("avx9") && message.contains("scalar"), "{message}");
    }

    #[test]
    fn the_scalar_tier_is_always_there() {
        assert_eq!(Isa::available().next(), Some(Isa::Scalar));
    }

    #[test]
    fn without_the_feature_simd_the_scalar_tier_answers() {
        if cfg!(not(feature = "simd")) {
            assert_eq!(Isa::available().collect::<Vec<_>>(), [Isa::Scalar]);
        }
    }
}
