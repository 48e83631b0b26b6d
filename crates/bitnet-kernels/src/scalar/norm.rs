//! Root-mean-square norm.

use super::lanes;

/// Writes `x / sqrt(mean(x^2) + eps) * weight`.
///
/// All in f32, as `BitNetRMSNorm` of `transformers/models/bitnet/modeling_bitnet.py`; the mean square is
/// a sum over virtual lanes. Slices have one length.
#[inline(always)]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = lanes::dot(x, x) / x.len() as f32;
    let inverse = 1.0 / (mean + eps).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = (x * inverse) * weight;
    }
}
