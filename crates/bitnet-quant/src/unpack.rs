//! Unpacking with the processor's vector instructions.

use std::fmt;
use std::ops::{Deref, Range};

use bitnet_kernels::{Isa, IsaError, Kernels};

use crate::packing::{Chunks, PackError, TernaryPackedWeights};

/// Weights from which on they are written past the caches, which they would only empty.
const STREAMED: usize = 8 << 20;

/// Unpacks [`TernaryPackedWeights`] by the kernels of one instruction-set tier.
#[derive(Debug, Clone)]
pub struct SimdUnpacker {
    /// The error of a forced tier that is not there waits for the first call that needs it.
    kernels: Result<&'static Kernels, IsaError>,
    streamed: usize,
}

/// Why weights could not be unpacked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The forced instruction set is not there.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// The weights, the range or the destination are at fault.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// Where the first weight of an unpacked buffer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alignment {
    /// At a multiple of 16 bytes: SSE and NEON registers.
    Bytes16,
    /// At a multiple of 32 bytes: AVX2 registers.
    Bytes32,
    /// At a multiple of 64 bytes: AVX-512 registers, lines of the cache.
    Bytes64,
}

impl Alignment {
    /// Returns it in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Alignment::Bytes16 => 16,
            Alignment::Bytes32 => 32,
            Alignment::Bytes64 => 64,
        }
    }
}

/// What the machine offers for unpacking, and what is used of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SimdCapabilities {
    /// The tier whose kernels unpack; `None` when a forced one is missing.
    pub tier: Option<Isa>,
    /// Every tier that this machine and build have, ascending.
    pub available: Vec<Isa>,
    /// SSE2.
    pub sse2: bool,
    /// SSSE3.
    pub ssse3: bool,
    /// AVX2.
    pub avx2: bool,
    /// AVX-512 F, BW and VNNI.
    pub avx512: bool,
    /// AVX-512 VBMI.
    pub avx512_vbmi: bool,
    /// NEON.
    pub neon: bool,
    /// Alignment at which no store of the tier crosses a line of the cache.
    pub alignment: Alignment,
    /// Whether large outputs are written past the caches.
    pub non_temporal_stores: bool,
}

impl fmt::Display for SimdCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tier = self.tier.map_or("none", Isa::name);
        let stores = if self.non_temporal_stores { "non-temporal stores" } else { "plain stores" };
        write!(f, "{tier}, {} byte alignment, {stores}", self.alignment.bytes())
    }
}

impl Default for SimdUnpacker {
    fn default() -> Self {
        SimdUnpacker::new()
    }
}

impl SimdUnpacker {
    /// Takes the best tier of the machine, or the one that `BITNET_ISA` names.
    ///
    /// A forced tier that is missing is reported by the first call that unpacks; see [`try_new`](Self::try_new).
    pub fn new() -> Self {
        SimdUnpacker { kernels: Kernels::select(), streamed: STREAMED }
    }

    /// As [`new`](Self::new), with the error at once.
    ///
    /// # Errors
    /// `BITNET_ISA` names an unknown or unavailable tier.
    pub fn try_new() -> Result<Self, IsaError> {
        Ok(SimdUnpacker { kernels: Ok(Kernels::select()?), streamed: STREAMED })
    }

    /// Takes a certain tier.
    ///
    /// # Errors
    /// The machine or the build lacks it.
    pub fn with_isa(isa: Isa) -> Result<Self, IsaError> {
        Ok(SimdUnpacker { kernels: Ok(Kernels::for_isa(isa)?), streamed: STREAMED })
    }

    /// Sets the number of weights from which on they are written past the caches; `usize::MAX` for never.
    pub fn with_streaming_from(self, weights: usize) -> Self {
        SimdUnpacker { streamed: weights, ..self }
    }

    fn kernels(&self) -> Result<&'static Kernels, IsaError> {
        self.kernels.clone()
    }

    /// Returns what the machine offers.
    pub fn capabilities(&self) -> SimdCapabilities {
        let tier = self.kernels.as_ref().ok().map(|kernels| kernels.isa);
        let available: Vec<Isa> = Isa::available().collect();
        let has = |isa| available.contains(&isa);
        let alignment = match tier {
            Some(Isa::Avx512 | Isa::Avx512Vbmi | Isa::Amx) => Alignment::Bytes64,
            Some(Isa::Avx2 | Isa::AvxVnni) => Alignment::Bytes32,
            _ => Alignment::Bytes16,
        };
        SimdCapabilities {
            tier,
            sse2: has(Isa::Sse2),
            ssse3: has(Isa::Ssse3),
            avx2: has(Isa::Avx2),
            avx512: has(Isa::Avx512),
            avx512_vbmi: has(Isa::Avx512Vbmi),
            neon: has(Isa::Neon),
            alignment,
            non_temporal_stores: self.kernels.as_ref().is_ok_and(|kernels| kernels.flat.streams),
            available,
        }
    }

    /// Unpacks all weights.
    ///
    /// # Errors
    /// A forced tier is missing; there is no memory for the weights.
    pub fn unpack(&self, packed: &TernaryPackedWeights) -> Result<Vec<i8>, UnpackError> {
        let mut out = zeros(packed.len(), 0)?;
        self.unpack_into(packed, &mut out)?;
        Ok(out)
    }

    /// Unpacks all weights into a buffer that begins at a multiple of `alignment`.
    ///
    /// # Errors
    /// As [`unpack`](Self::unpack).
    pub fn unpack_aligned(
        &self,
        packed: &TernaryPackedWeights,
        alignment: Alignment,
    ) -> Result<AlignedWeights, UnpackError> {
        let mut values = zeros(packed.len(), alignment.bytes())?;
        let start = values.as_ptr().align_offset(alignment.bytes()).min(alignment.bytes());
        values.truncate(start + packed.len());
        self.unpack_into(packed, &mut values[start..])?;
        Ok(AlignedWeights { values, start })
    }

    /// Unpacks all weights into `out`.
    ///
    /// # Errors
    /// `out` has another length; a forced tier is missing.
    pub fn unpack_into(&self, packed: &TernaryPackedWeights, out: &mut [i8]) -> Result<(), UnpackError> {
        let kernels = self.kernels()?;
        if kernels.flat.streams && out.len() >= self.streamed {
            packed.unpack_streamed(kernels, out)?;
        } else {
            packed.unpack_into(kernels, out)?;
        }
        Ok(())
    }

    /// Unpacks the weights of a range, reading only the blocks or chunks that hold it.
    ///
    /// # Errors
    /// A range past the end; `out` has another length than the range; a forced tier is missing.
    pub fn unpack_range(
        &self,
        packed: &TernaryPackedWeights,
        range: Range<usize>,
        out: &mut [i8],
    ) -> Result<(), UnpackError> {
        Ok(packed.unpack_range(self.kernels()?, range, out)?)
    }

    /// Unpacks row `row` of a row-major matrix of `out.len()` columns.
    ///
    /// # Errors
    /// As [`unpack_range`](Self::unpack_range).
    pub fn unpack_row(
        &self,
        packed: &TernaryPackedWeights,
        row: usize,
        out: &mut [i8],
    ) -> Result<(), UnpackError> {
        let start = row.saturating_mul(out.len());
        self.unpack_range(packed, start..start.saturating_add(out.len()), out)
    }

    /// Reads the weights chunk by chunk.
    ///
    /// # Errors
    /// A forced tier is missing.
    pub fn chunks<'a>(&self, packed: &'a TernaryPackedWeights) -> Result<Chunks<'a>, UnpackError> {
        Ok(packed.chunks(self.kernels()?))
    }
}

/// Unpacks all weights by the best tier: [`SimdUnpacker::unpack`].
///
/// # Errors
/// As there.
pub fn simd_unpack_weights(packed: &TernaryPackedWeights) -> Result<Vec<i8>, UnpackError> {
    SimdUnpacker::new().unpack(packed)
}

fn zeros(values: usize, more: usize) -> Result<Vec<i8>, PackError> {
    let mut out = Vec::new();
    let length = values.checked_add(more).ok_or(PackError::Memory { values })?;
    out.try_reserve_exact(length).map_err(|_| PackError::Memory { values })?;
    out.resize(length, 0);
    Ok(out)
}

/// Unpacked weights that begin at a multiple of an [`Alignment`].
#[derive(Debug)]
pub struct AlignedWeights {
    values: Vec<i8>,
    start: usize,
}

impl Deref for AlignedWeights {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        &self.values[self.start..]
    }
}
