//! `neon-casts`: binary16 by `fcvtn` and `fcvtl`; the rest is the scalar text, which is compiled for NEON as it stands.

use std::arch::aarch64::*;

use crate::CastKernels;
use crate::casts::SCALAR;
use crate::scalar::casts as scalar;

/// The entries of this tier.
pub const ENTRIES: CastKernels = CastKernels {
    // SAFETY: for each entry, NEON was detected before the table left the crate.
    f32_to_f16: |x, out, _| unsafe { f32_to_f16(x, out) },
    // SAFETY: as above.
    f16_to_f32: |x, out, _| unsafe { f16_to_f32(x, out) },
    ..SCALAR
};

/// The contract of `scalar::casts::f32_to_f16`: four a step.
#[target_feature(enable = "neon")]
fn f32_to_f16(x: &[[u8; 4]], out: &mut [[u8; 2]]) {
    assert_eq!(x.len(), out.len(), "elements and their casts");
    let (fours, rest) = x.as_chunks::<4>();
    let (halves, rest_out) = out.as_chunks_mut::<4>();
    for (x, out) in fours.iter().zip(halves) {
        // SAFETY: four elements are read and four written, which `vld1` and `vst1` do at any address.
        unsafe {
            let narrow = vcvt_f16_f32(vreinterpretq_f32_u8(vld1q_u8(x.as_ptr().cast())));
            vst1_u8(out.as_mut_ptr().cast(), vreinterpret_u8_f16(narrow));
        }
    }
    scalar::f32_to_f16(rest, rest_out, false);
}

/// The contract of `scalar::casts::f16_to_f32`: four a step.
#[target_feature(enable = "neon")]
fn f16_to_f32(x: &[[u8; 2]], out: &mut [[u8; 4]]) {
    assert_eq!(x.len(), out.len(), "elements and their casts");
    let (fours, rest) = x.as_chunks::<4>();
    let (wide, rest_out) = out.as_chunks_mut::<4>();
    for (x, out) in fours.iter().zip(wide) {
        // SAFETY: as in `f32_to_f16`.
        unsafe {
            let wide = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(x.as_ptr().cast())));
            vst1q_u8(out.as_mut_ptr().cast(), vreinterpretq_u8_f32(wide));
        }
    }
    scalar::f16_to_f32(rest, rest_out, false);
}
