//! CPU arithmetic on plain slices, and the in-memory layouts of weights.
//!
//! [`Kernels`] is the table of one instruction-set tier; [`Kernels::select`] picks the best that the
//! machine has, or the one that the environment variable `BITNET_ISA` names. The modules under
//! [`scalar`] are the truth: every other tier gives the same bits. Integers are exact; floating-point
//! sums run over 32 fixed virtual lanes and one reduction tree, with neither contraction nor a platform's
//! `exp`, so that they do not depend on the width of a register.
//!
//! Nothing here allocates. To add a tier, see `docs/adding-an-isa.md`.

#[cfg(all(feature = "simd", target_arch = "aarch64"))]
mod aarch64;
mod affine;
mod casts;
mod dispatch;
mod flat;
mod isa;
pub mod layout;
mod prefetch;
pub mod probe;
pub mod scalar;
pub mod ticks;
#[cfg(all(feature = "simd", target_arch = "x86_64"))]
mod x86_64;

pub use affine::AffineKernels;
pub use casts::CastKernels;
pub use dispatch::{Kernels, TernaryKernels};
pub use flat::FlatKernels;
pub use isa::{Isa, IsaError};
pub use prefetch::prefetch;
pub use scalar::affine::{AffineSteps, FloatRange};
pub use scalar::attention::{AttentionBlock, AttentionState, KvRows};
pub use scalar::casts::{CodeRule, Extent};
pub use scalar::dense::DenseRow;
pub use scalar::flat::Pieces;
pub use scalar::quantize::QuantizedRow;
