//! The kernel table: one entry a tier, resolved once.

use std::sync::OnceLock;

use crate::affine::{self, AffineKernels};
use crate::casts::{self, CastKernels};
use crate::flat::{self, FlatKernels};
use crate::layout::narrow_rows::{self, NarrowRow};
use crate::scalar::attention::{self, AttentionBlock, AttentionState};
use crate::scalar::dense::{self, DenseRow};
use crate::scalar::narrow::{self, RowFacts, TokenFacts};
use crate::scalar::quantize::{self, QuantizedRow};
use crate::scalar::{dequantize, exp, gate, int6, int8, norm, rope, ternary};
use crate::{Isa, IsaError};

/// The products of one ternary layout whose lines hold `N` rows each.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::type_complexity, reason = "the names of the arguments say more than an alias would")]
pub struct TernaryKernels<const N: usize> {
    /// Int8 activations, exactly: [`ternary::row_quarters_i8`], [`ternary::row_fifths_i8`].
    pub i8: fn(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; N]]),
    /// Float activations: [`ternary::row_quarters_f32`], [`ternary::row_fifths_f32`].
    pub f32: fn(codes: &[u8], cols: usize, x: &[f32], out: &mut [[f32; N]]),
}

/// The kernels of one tier. Contracts and shapes stand at the functions of [`scalar`](crate::scalar).
///
/// A table is handed out only after its tier was detected, so that its entries are safe to call.
#[derive(Debug)]
#[expect(clippy::type_complexity, reason = "the names of the arguments say more than an alias would")]
pub struct Kernels {
    /// The tier.
    pub isa: Isa,
    /// Products of [`layout::row_quarters`](crate::layout::row_quarters).
    pub row_quarters: TernaryKernels<4>,
    /// Products of [`layout::row_fifths`](crate::layout::row_fifths).
    pub row_fifths: TernaryKernels<5>,
    /// Flat packed sequences, and the passes that make them.
    pub flat: FlatKernels,
    /// Integer schemes.
    pub affine: AffineKernels,
    /// Casts between element types.
    pub casts: CastKernels,
    /// [`int8::int8_i16`].
    pub int8_i16: fn(rows: &[i8], cols: usize, x: &[i16], out: &mut [i32]),
    /// [`int6::int6_planes`].
    pub int6_planes: fn(rows: &[u8], planes: &[i8], sums: &[i32], out: &mut [i32]),
    /// [`narrow::narrow_logits`].
    pub narrow_logits: fn(acc: &[i32], steps: &[f32], token_step: f32, out: &mut [f32]) -> f32,
    /// [`narrow::narrow_candidates`].
    pub narrow_candidates: fn(logits: &[f32], rows: RowFacts<'_>, token: TokenFacts, floor: f32) -> usize,
    /// [`narrow_rows::quantize_row`].
    pub quantize_row: fn(row: &[f32], most: i8, out: &mut [i8]) -> NarrowRow,
    /// [`int8::quantize_i16`].
    pub quantize_i16: fn(x: &[f32], most: i32, q: &mut [i16]) -> f32,
    /// [`dense::dense`].
    pub dense: fn(row: DenseRow<'_>, x: &[f32], out: &mut [f32]),
    /// [`dense::dense_rows`].
    pub dense_rows: fn(rows: DenseRow<'_>, cols: usize, x: &[f32], out: &mut [f32]),
    /// [`dense::widen`].
    pub widen: fn(row: DenseRow<'_>, out: &mut [f32]),
    /// [`norm::rms_norm`].
    pub rms_norm: fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
    /// [`quantize::quantize`].
    pub quantize: fn(x: &[f32], q: &mut [i8]) -> QuantizedRow,
    /// [`gate::squared_relu`].
    pub squared_relu: fn(gate: &[f32], up: &[f32], out: &mut [f32]),
    /// [`gate::silu`].
    pub silu: fn(gate: &[f32], up: &[f32], out: &mut [f32]),
    /// [`exp::exponentiate`].
    pub exponentiate: fn(values: &mut [f32], greatest: f32, temperature: f32) -> f64,
    /// [`rope::rotate`].
    pub rotate: fn(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]),
    /// [`attention::attend`].
    pub attend: fn(
        block: AttentionBlock<'_>,
        counts: &[usize],
        queries: &[f32],
        states: &mut [AttentionState],
        out: &mut [f32],
        scratch: &mut [f32],
    ),
    /// [`attention::merge`].
    pub merge: fn(own: &[AttentionState], values: &[f32], states: &mut [AttentionState], out: &mut [f32]),
    /// [`attention::finish`].
    pub finish: fn(states: &[AttentionState], out: &mut [f32]),
    /// [`dequantize::dequantize`]. The outputs come by reference: an array that is copied right after it was written
    /// waits for the stores before it.
    pub dequantize:
        fn(acc: &[[i32; 4]], step: usize, scale: (f32, f32), accumulate: bool, out: &mut [&mut [f32]; 4]),
}

/// The scalar table, for tiers to take over what they do not replace.
pub(crate) const SCALAR: Kernels = Kernels {
    isa: Isa::Scalar,
    row_quarters: TernaryKernels { i8: ternary::row_quarters_i8, f32: ternary::row_quarters_f32 },
    row_fifths: TernaryKernels { i8: ternary::row_fifths_i8, f32: ternary::row_fifths_f32 },
    flat: flat::SCALAR,
    affine: affine::SCALAR,
    casts: casts::SCALAR,
    int8_i16: int8::int8_i16,
    int6_planes: int6::int6_planes,
    narrow_logits: narrow::narrow_logits,
    narrow_candidates: narrow::narrow_candidates,
    quantize_row: narrow_rows::quantize_row,
    quantize_i16: int8::quantize_i16,
    dense: dense::dense,
    dense_rows: dense::dense_rows,
    widen: dense::widen,
    rms_norm: norm::rms_norm,
    quantize: quantize::quantize,
    squared_relu: gate::squared_relu,
    silu: gate::silu,
    exponentiate: exp::exponentiate,
    rotate: rope::rotate,
    attend: attention::attend,
    merge: attention::merge,
    finish: attention::finish,
    dequantize: dequantize::dequantize,
};

impl Kernels {
    /// The scalar table, which every machine has.
    pub const SCALAR: &Kernels = &SCALAR;

    /// Returns the table of a tier.
    ///
    /// # Errors
    /// The machine or the build lacks the tier.
    pub fn for_isa(isa: Isa) -> Result<&'static Kernels, IsaError> {
        if let Some(reason) = isa.missing() {
            return Err(IsaError::Unavailable { isa, reason });
        }
        match isa {
            Isa::Scalar => Ok(&SCALAR),
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            Isa::Sse2 => Ok(&crate::x86_64::sse2::KERNELS),
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            Isa::Ssse3 => Ok(&crate::x86_64::ssse3::KERNELS),
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            Isa::Avx2 => Ok(&crate::x86_64::avx2::KERNELS),
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            Isa::AvxVnni => Ok(&crate::x86_64::avx_vnni::KERNELS),
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            Isa::Avx512 => Ok(&crate::x86_64::avx512::KERNELS),
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            Isa::Avx512Vbmi => Ok(&crate::x86_64::avx512_vbmi::KERNELS),
            #[cfg(all(feature = "simd", target_arch = "x86_64"))]
            Isa::Amx => Ok(&crate::x86_64::amx::KERNELS),
            #[cfg(all(feature = "simd", target_arch = "aarch64"))]
            Isa::Neon => Ok(&crate::aarch64::neon::KERNELS),
            #[cfg(all(feature = "simd", target_arch = "aarch64"))]
            Isa::Dotprod => Ok(&crate::aarch64::dotprod::KERNELS),
            #[cfg(all(feature = "simd", target_arch = "aarch64"))]
            Isa::I8mm => Ok(&crate::aarch64::i8mm::KERNELS),
            // Tiers of other architectures.
            _ => Err(IsaError::Unavailable { isa, reason: "this build has no kernels for it" }),
        }
    }

    /// Returns the table of the tier that `BITNET_ISA` forces, or of the best one here: decided by the first call of
    /// the process and kept, an error too, so that whoever asks for no tier by name gets one and the same.
    ///
    /// # Errors
    /// As [`Isa::select`].
    pub fn select() -> Result<&'static Kernels, IsaError> {
        static SELECTED: OnceLock<Result<&'static Kernels, IsaError>> = OnceLock::new();
        SELECTED.get_or_init(|| Kernels::for_isa(Isa::select()?)).clone()
    }
}
