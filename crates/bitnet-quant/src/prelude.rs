//! The names of packing, unpacking and quantisation that a program usually needs.

pub use crate::bit_linear::{BitLinear, Gradients, RmsNorm};
pub use crate::packing::{
    PackError, PackingReport, TernaryPackWriter, TernaryPackedWeights, TernaryPacker, TernaryPackerFactory,
    TernaryPackingConfig, TernaryPackingStrategy,
};
pub use crate::quality::{ActivationStatistics, LayerReport};
pub use crate::scheme::{
    AffineParams, Bits, Calibration, ErrorMetrics, Granularity, Observer, QuantOptions, QuantizedMatrix,
    Scheme, Symmetry, ValueRange,
};
pub use crate::unpack::{Alignment, SimdCapabilities, SimdUnpacker, UnpackError, simd_unpack_weights};
pub use crate::{FloatMatrix, QuantError, absmean};
