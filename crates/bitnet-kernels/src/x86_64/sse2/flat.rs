//! Flat sequences: the scalar text is compiled for SSE2 as it stands; streams of pieces go past the caches.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::flat::SCALAR;
use crate::scalar::flat::Pieces;

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels { stream, streams: true, ..SCALAR };

/// Bytes of a line of the cache: what one write past the caches fills.
const LINE: usize = 64;

/// The contract of `scalar::flat::stream`.
///
/// Only whole lines are written past the caches: what a piece leaves of a line waits for the next piece.
fn stream(pieces: &mut dyn Pieces, out: &mut [i8]) -> usize {
    let head = out.as_ptr().align_offset(LINE).min(out.len());
    let (mut line, mut waiting, mut at) = ([0i8; LINE], 0, 0);
    while let Some(piece) = pieces.next() {
        let mut rest = &piece[..piece.len().min(out.len() - at - waiting)];
        if at < head {
            let (now, later) = rest.split_at(rest.len().min(head - at));
            out[at..at + now.len()].copy_from_slice(now);
            at += now.len();
            rest = later;
        }
        if waiting > 0 {
            let (now, later) = rest.split_at(rest.len().min(LINE - waiting));
            line[waiting..waiting + now.len()].copy_from_slice(now);
            waiting += now.len();
            rest = later;
            if waiting < LINE {
                continue;
            }
            write_lines(&line, &mut out[at..at + LINE]);
            at += LINE;
        }
        let (whole, end) = rest.split_at(rest.len() / LINE * LINE);
        write_lines(whole, &mut out[at..at + whole.len()]);
        at += whole.len();
        line[..end.len()].copy_from_slice(end);
        waiting = end.len();
    }
    out[at..at + waiting].copy_from_slice(&line[..waiting]);
    // SAFETY: SSE is part of x86-64. It orders streamed writes before what follows, as plain ones are.
    unsafe { _mm_sfence() };
    at + waiting
}

/// Writes whole lines to a destination that begins at one; a fence has to follow.
#[inline(always)]
fn write_lines(source: &[i8], out: &mut [i8]) {
    assert!(source.len() == out.len() && out.as_ptr().align_offset(LINE) == 0 || out.is_empty());
    for (from, to) in source.as_chunks::<LINE>().0.iter().zip(out.as_chunks_mut::<LINE>().0) {
        for at in (0..LINE).step_by(16) {
            // SAFETY: 16 bytes at `at` lie in both lines, and `to` is aligned to its size.
            unsafe {
                let values = _mm_loadu_si128(from.as_ptr().add(at).cast());
                _mm_stream_si128(to.as_mut_ptr().add(at).cast(), values);
            }
        }
    }
}
