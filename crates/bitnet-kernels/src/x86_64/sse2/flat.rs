//! `sse2-base3`, and what goes past the caches; the rest is the scalar text, compiled for SSE2 as it stands.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::flat::SCALAR;
use crate::layout::{flat_base3, flat_two_bit};
use crate::scalar::flat::Pieces;

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels {
    // SAFETY: for each entry, SSE2 is part of x86-64.
    unpack_base3: |packed, out| unsafe { unpack_base3::<false>(packed, out) },
    // SAFETY: as above.
    stream_two_bit: Some(|packed, out| unsafe { stream_two_bit(packed, out) }),
    // SAFETY: as above.
    stream_base3: Some(|packed, out| unsafe { unpack_base3::<true>(packed, out) }),
    stream,
    streams: true,
    ..SCALAR
};

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

/// Reads a block's 32 bytes as two registers.
#[inline]
#[target_feature(enable = "sse2")]
fn read(bytes: &[u8; 32]) -> [__m128i; 2] {
    // SAFETY: 32 bytes are read in two halves.
    unsafe { [_mm_loadu_si128(bytes.as_ptr().cast()), _mm_loadu_si128(bytes.as_ptr().add(16).cast())] }
}

/// Writes 16 values; with `PAST`, past the caches, and a fence has to follow.
///
/// # Safety
/// With `PAST`, `out` begins at a multiple of 16 bytes.
#[inline]
#[target_feature(enable = "sse2")]
unsafe fn write<const PAST: bool>(out: &mut [i8; 16], values: __m128i) {
    // SAFETY: `out` holds 16 bytes, and begins where it has to by the contract.
    unsafe {
        match PAST {
            true => _mm_stream_si128(out.as_mut_ptr().cast(), values),
            false => _mm_storeu_si128(out.as_mut_ptr().cast(), values),
        }
    }
}

/// The contract of `layout::flat_two_bit::unpack`, past the caches where `out` begins at a multiple of 16 bytes.
#[target_feature(enable = "sse2")]
fn stream_two_bit(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), flat_two_bit::packed_len(out.len()), "packed bytes of {} values", out.len());
    if out.as_ptr().align_offset(16) != 0 {
        return flat_two_bit::unpack(packed, out);
    }
    let (blocks, rest) = out.as_chunks_mut::<{ flat_two_bit::BLOCK }>();
    let (whole, tail) = packed.split_at(blocks.len() * flat_two_bit::BLOCK_BYTES);
    let (mask, one) = (_mm_set1_epi8(3), _mm_set1_epi8(1));
    for (out, bytes) in blocks.iter_mut().zip(whole.as_chunks::<32>().0) {
        let mut codes = read(bytes);
        for plane in out.as_chunks_mut::<32>().0 {
            for (out, codes) in plane.as_chunks_mut::<16>().0.iter_mut().zip(&mut codes) {
                let values = _mm_sub_epi8(_mm_and_si128(*codes, mask), one);
                // SAFETY: every 16th value begins where the first does, at a multiple of 16.
                unsafe { write::<true>(out, values) };
                *codes = _mm_srli_epi16::<2>(*codes);
            }
        }
    }
    flat_two_bit::unpack(tail, rest);
    _mm_sfence();
}

/// The contract of `layout::flat_base3::unpack`; with `PAST`, past the caches where `out` begins at a multiple of 16
/// bytes.
#[target_feature(enable = "sse2")]
fn unpack_base3<const PAST: bool>(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), flat_base3::packed_len(out.len()), "packed bytes of {} values", out.len());
    if PAST && out.as_ptr().align_offset(16) != 0 {
        return unpack_base3::<false>(packed, out);
    }
    let (blocks, rest) = out.as_chunks_mut::<{ flat_base3::BLOCK }>();
    let (whole, tail) = packed.split_at(blocks.len() * flat_base3::BLOCK_BYTES);
    let (centre, high, low) = (_mm_set1_epi8(-128), _mm_set1_epi8(42), _mm_set1_epi8(-42));
    for (out, bytes) in blocks.iter_mut().zip(whole.as_chunks::<32>().0) {
        let [first, second] = read(bytes);
        let mut fractions = [_mm_xor_si128(first, centre), _mm_xor_si128(second, centre)];
        for plane in out.as_chunks_mut::<32>().0 {
            for (out, fraction) in plane.as_chunks_mut::<16>().0.iter_mut().zip(&mut fractions) {
                let (below, above) = (_mm_cmpgt_epi8(low, *fraction), _mm_cmpgt_epi8(*fraction, high));
                // SAFETY: with `PAST` every 16th value begins where the first does, at a multiple of 16.
                unsafe { write::<PAST>(out, _mm_sub_epi8(below, above)) };
                *fraction = _mm_add_epi8(*fraction, _mm_add_epi8(*fraction, *fraction));
            }
        }
    }
    flat_base3::unpack(tail, rest);
    if PAST {
        _mm_sfence();
    }
}
