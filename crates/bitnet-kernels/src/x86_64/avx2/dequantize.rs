//! `avx2-dequantize`: eight lines of four rows at a time, transposed in registers.

use std::arch::x86_64::*;

use crate::scalar::dequantize as scalar;

/// Lines of a step.
const LINES: usize = 8;

/// The contract of `scalar::dequantize::dequantize`.
#[target_feature(enable = "avx2,f16c")]
pub fn dequantize(
    acc: &[[i32; 4]],
    step: usize,
    scale: (f32, f32),
    accumulate: bool,
    out: &mut [&mut [f32]; 4],
) {
    scalar::check(acc, step, out);
    let whole = out.iter().map(|out| out.len()).min().unwrap_or(0) / LINES * LINES;
    let (divisor, factor) = (_mm256_set1_ps(scale.0), _mm256_set1_ps(scale.1));
    for line in (0..whole).step_by(LINES) {
        // SAFETY: lines below `whole` were checked to exist; each is 16 bytes.
        let pair = |l: usize| unsafe {
            let at = |l: usize| _mm_loadu_ps(acc.as_ptr().add((line + l) * step).cast());
            _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(at(l)), at(l + 4))
        };
        let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
        let (low_ab, high_ab) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (low_cd, high_cd) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let parts = [
            _mm256_shuffle_ps::<0x44>(low_ab, low_cd),
            _mm256_shuffle_ps::<0xee>(low_ab, low_cd),
            _mm256_shuffle_ps::<0x44>(high_ab, high_cd),
            _mm256_shuffle_ps::<0xee>(high_ab, high_cd),
        ];
        for (part, out) in parts.iter().zip(out.iter_mut()) {
            let value = _mm256_cvtepi32_ps(_mm256_castps_si256(*part));
            let mut value = _mm256_mul_ps(_mm256_div_ps(value, divisor), factor);
            let out = &mut out[line..line + LINES];
            // SAFETY: eight floats of the slice above, read and written.
            unsafe {
                if accumulate {
                    value = _mm256_add_ps(_mm256_loadu_ps(out.as_ptr()), value);
                }
                _mm256_storeu_ps(out.as_mut_ptr(), value);
            }
        }
    }
    if out.iter().any(|out| out.len() > whole) {
        let mut rest = out.each_mut().map(|out| &mut out[whole..]);
        scalar::dequantize(&acc[whole * step..], step, scale, accumulate, &mut rest);
    }
}
