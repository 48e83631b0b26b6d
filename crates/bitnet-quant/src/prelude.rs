//! The names of packing, unpacking and quantisation that a program usually needs.

pub use crate::packing::{
    PackError, PackingReport, TernaryPackWriter, TernaryPackedWeights, TernaryPacker, TernaryPackerFactory,
    TernaryPackingConfig, TernaryPackingStrategy,
};
pub use crate::unpack::{Alignment, SimdCapabilities, SimdUnpacker, UnpackError, simd_unpack_weights};
pub use crate::{FloatMatrix, QuantError, absmean};
