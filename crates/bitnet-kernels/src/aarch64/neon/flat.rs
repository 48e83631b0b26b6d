//! `neon-sparse`: bitmap and signs by `tbl`; the rest is the scalar text, which is compiled for NEON as it stands.

use std::arch::aarch64::*;

use crate::FlatKernels;
use crate::flat::SCALAR;
use crate::layout::flat_sparse::{PLACES, VALUES, bitmap_len, sign_bits, unpack_from};

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels {
    // SAFETY: NEON was detected before the table left the crate.
    unpack_sparse: |bitmap, signs, out| unsafe { unpack_sparse(bitmap, signs, out) },
    ..SCALAR
};

/// The contract of `layout::flat_sparse::unpack`.
///
/// The next eight signs as values, moved to the places that the bitmap names: a place out of range gets 0.
#[target_feature(enable = "neon")]
fn unpack_sparse(bitmap: &[u8], signs: &[u8], out: &mut [i8]) {
    assert_eq!(bitmap.len(), bitmap_len(out.len()), "bitmap of {} values", out.len());
    let (eights, rest) = out.as_chunks_mut::<8>();
    let mut at = 0;
    for (out, &byte) in eights.iter_mut().zip(bitmap) {
        let values = &VALUES[(sign_bits(signs, at) & 0xff) as usize];
        let places = &PLACES[usize::from(byte)];
        // SAFETY: both tables have rows of 8 bytes, and `out` holds 8.
        unsafe {
            let values = vld1_s8(values.as_ptr());
            vst1_s8(out.as_mut_ptr(), vtbl1_s8(values, vreinterpret_s8_u8(vld1_u8(places.as_ptr()))));
        }
        at += byte.count_ones() as usize;
    }
    unpack_from(&bitmap[eights.len()..], signs, at, rest);
}
