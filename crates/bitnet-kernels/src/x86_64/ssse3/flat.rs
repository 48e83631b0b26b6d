//! `ssse3-sparse`: bitmap and signs by `pshufb`; the rest as on SSE2.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::layout::flat_sparse::{PLACES, VALUES, bitmap_len, sign_bits, unpack_from};
use crate::x86_64::sse2;

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels {
    // SAFETY: SSSE3 was detected before the table left the crate.
    unpack_sparse: |bitmap, signs, out| unsafe { unpack_sparse(bitmap, signs, out) },
    ..sse2::flat::ENTRIES
};

/// The contract of `layout::flat_sparse::unpack`.
///
/// The next eight signs as values, moved to the places that the bitmap names: a place with its top bit set gets 0.
#[target_feature(enable = "ssse3")]
pub fn unpack_sparse(bitmap: &[u8], signs: &[u8], out: &mut [i8]) {
    assert_eq!(bitmap.len(), bitmap_len(out.len()), "bitmap of {} values", out.len());
    let (eights, rest) = out.as_chunks_mut::<8>();
    let mut at = 0;
    for (out, &byte) in eights.iter_mut().zip(bitmap) {
        let values = &VALUES[(sign_bits(signs, at) & 0xff) as usize];
        let places = &PLACES[usize::from(byte)];
        // SAFETY: both tables have rows of 8 bytes, and `out` holds 8.
        unsafe {
            let values = _mm_loadl_epi64(values.as_ptr().cast());
            let places = _mm_loadl_epi64(places.as_ptr().cast());
            _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_shuffle_epi8(values, places));
        }
        at += byte.count_ones() as usize;
    }
    unpack_from(&bitmap[eights.len()..], signs, at, rest);
}
