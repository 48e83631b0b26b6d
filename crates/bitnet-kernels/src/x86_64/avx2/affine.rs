//! Integer schemes: the scalar text compiled for 256 bits.

use crate::AffineKernels;
use crate::scalar::affine::{self, AffineSteps, FloatRange};

/// The entries of this tier.
pub const ENTRIES: AffineKernels = AffineKernels {
    // SAFETY: for each entry, AVX2 was detected before the table left the crate.
    range: |values| unsafe { range(values) },
    // SAFETY: as above.
    codes: |values, steps, out| unsafe { codes(values, steps, out) },
    // SAFETY: as above.
    values: |codes, steps, out| unsafe { values(codes, steps, out) },
    // SAFETY: as above.
    split: |nibbles, out| unsafe { split(nibbles, out) },
};

#[target_feature(enable = "avx2")]
fn range(values: &[f32]) -> Option<FloatRange> {
    affine::range(values)
}

#[target_feature(enable = "avx2")]
fn codes(values: &[f32], steps: AffineSteps, out: &mut [i8]) {
    affine::codes(values, steps, out);
}

#[target_feature(enable = "avx2")]
fn values(codes: &[i8], steps: AffineSteps, out: &mut [f32]) {
    affine::values(codes, steps, out);
}

#[target_feature(enable = "avx2")]
fn split(nibbles: &[u8], out: &mut [i8]) {
    affine::split(nibbles, out);
}
