//! Flat sequences: the scalar text is compiled for SSE2 as it stands; copies go past the caches.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::flat::SCALAR;

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels { copy_streamed, streams: true, ..SCALAR };

/// Bytes of a line of the cache: what one write past the caches fills.
const LINE: usize = 64;

/// The contract of `scalar::flat::copy_streamed`.
pub fn copy_streamed(source: &[i8], out: &mut [i8]) {
    assert_eq!(source.len(), out.len(), "lengths of a copy");
    let head = out.as_ptr().align_offset(LINE).min(out.len());
    out[..head].copy_from_slice(&source[..head]);
    let (source, out) = (&source[head..], &mut out[head..]);
    let (from, rest) = source.as_chunks::<LINE>();
    let (to, end) = out.as_chunks_mut::<LINE>();
    for (from, to) in from.iter().zip(to) {
        for at in (0..LINE).step_by(16) {
            // SAFETY: 16 bytes at `at` lie in both lines, and `to` is aligned to its size.
            unsafe {
                let values = _mm_loadu_si128(from.as_ptr().add(at).cast());
                _mm_stream_si128(to.as_mut_ptr().add(at).cast(), values);
            }
        }
    }
    end.copy_from_slice(rest);
    // SAFETY: SSE is part of x86-64. It orders streamed writes before what follows, as plain ones are.
    unsafe { _mm_sfence() };
}
