//! Benchmarks of BitNet Core: what `bitnet bench` and the criterion suites run.
//!
//! Every figure is a median over rounds, and stands beside the machine's own limit measured in the same
//! rounds ([`roofline`]): shared machines are noisy, ratios are what lasts. [`synthetic`] makes models of
//! published shapes in memory; [`kernels`] times products alone, [`speed`] prompts and decoding of
//! whole models, [`packing`] packing and quantisation.

pub mod busy;
pub mod conversion;
pub mod kernels;
pub mod memory;
pub mod packing;
pub mod roofline;
pub mod rounds;
pub mod shape;
pub mod speed;
pub mod statistics;
pub mod synthetic;

use bitnet_core::backend::BitNetError;
use bitnet_inference::EngineError;
use bitnet_kernels::{Isa, IsaError};

/// Why a benchmark gave no figure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The backend refused.
    #[error(transparent)]
    Backend(#[from] BitNetError),
    /// The tier is not available.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// Quantisation or packing refused.
    #[error(transparent)]
    Quant(bitnet_quant::QuantError),
    /// Unpacking refused.
    #[error(transparent)]
    Unpack(bitnet_quant::UnpackError),
    /// A tier computes something else than the scalar one.
    #[error(
        "logits of {tier} on {threads} threads: expected those of the scalar tier, found {found} where it has \
         {expected} at {at}"
    )]
    Differs {
        /// The tier.
        tier: String,
        /// Its threads.
        threads: usize,
        /// Index of the first difference.
        at: usize,
        /// The scalar tier's value.
        expected: f32,
        /// The other.
        found: f32,
    },
    /// A tier multiplies otherwise than the scalar one.
    #[error(
        "product {product}: expected that of the scalar tier, found bits {found:#010x} with {tier} where it has \
         {expected:#010x} at {at}"
    )]
    ProductDiffers {
        /// The tier.
        tier: Isa,
        /// Weights and sizes.
        product: String,
        /// Index of the first difference.
        at: usize,
        /// The scalar tier's bits.
        expected: u32,
        /// The others.
        found: u32,
    },
}
