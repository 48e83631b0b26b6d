//! The kernels of integer schemes: ranges, codes and values.

use crate::scalar::affine::{self, AffineSteps, FloatRange};

/// Passes over floats and integer codes of one tier. Contracts stand at the functions of
/// [`scalar::affine`](crate::scalar::affine).
#[derive(Debug, Clone, Copy)]
pub struct AffineKernels {
    /// [`affine::range`].
    pub range: fn(values: &[f32]) -> Option<FloatRange>,
    /// [`affine::codes`].
    pub codes: fn(values: &[f32], steps: AffineSteps, out: &mut [i8]),
    /// [`affine::values`].
    pub values: fn(codes: &[i8], steps: AffineSteps, out: &mut [f32]),
    /// [`affine::split`].
    pub split: fn(nibbles: &[u8], out: &mut [i8]),
}

/// The scalar text.
pub(crate) const SCALAR: AffineKernels = AffineKernels {
    range: affine::range,
    codes: affine::codes,
    values: affine::values,
    split: affine::split,
};
