//! `ssse3-sparse`: bitmap and signs by `pshufb`; the rest as on SSE2.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::layout::flat_sparse::{PLACES, VALUES, bitmap_len, sign_bits, unpack_from};
use crate::x86_64::sse2;

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels {
    // SAFETY: SSSE3 was detected before the table left the crate.
    unpack_sparse: |bitmap, signs, out| unsafe { unpack_sparse::<false>(bitmap, signs, out) },
    // SAFETY: as above.
    stream_sparse: Some(|bitmap, signs, out| unsafe { unpack_sparse::<true>(bitmap, signs, out) }),
    ..sse2::flat::ENTRIES
};

/// Returns the eight values of a byte of the bitmap, whose first sign is bit `at`.
///
/// The next eight signs as values, moved to the places that the bitmap names: a place with its top bit set gets 0.
#[inline]
#[target_feature(enable = "ssse3")]
fn eight(byte: u8, signs: &[u8], at: usize) -> __m128i {
    let values = &VALUES[(sign_bits(signs, at) & 0xff) as usize];
    let places = &PLACES[usize::from(byte)];
    // SAFETY: both tables have rows of 8 bytes.
    unsafe {
        let values = _mm_loadl_epi64(values.as_ptr().cast());
        _mm_shuffle_epi8(values, _mm_loadl_epi64(places.as_ptr().cast()))
    }
}

/// The contract of `layout::flat_sparse::unpack`; with `PAST`, past the caches where `out` begins at a multiple of 16
/// bytes.
#[target_feature(enable = "ssse3")]
pub fn unpack_sparse<const PAST: bool>(bitmap: &[u8], signs: &[u8], out: &mut [i8]) {
    assert_eq!(bitmap.len(), bitmap_len(out.len()), "bitmap of {} values", out.len());
    let past = PAST && out.as_ptr().align_offset(16) == 0;
    let (steps, rest) = out.as_chunks_mut::<16>();
    let (pairs, rest_bitmap) = bitmap.split_at(2 * steps.len());
    let mut at = 0;
    for (out, pair) in steps.iter_mut().zip(pairs.as_chunks::<2>().0) {
        let [first, second] = *pair;
        let low = eight(first, signs, at);
        at += first.count_ones() as usize;
        let high = eight(second, signs, at);
        at += second.count_ones() as usize;
        let values = _mm_unpacklo_epi64(low, high);
        // SAFETY: `out` holds 16 bytes, and begins at a multiple of 16 where the first does.
        unsafe {
            match past {
                true => _mm_stream_si128(out.as_mut_ptr().cast(), values),
                false => _mm_storeu_si128(out.as_mut_ptr().cast(), values),
            }
        }
    }
    unpack_from(rest_bitmap, signs, at, rest);
    if past {
        _mm_sfence();
    }
}
