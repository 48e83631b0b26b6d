//! `ssse3-ternary-i8`: 13 vector operations for 64 weights and one token, 10 and a half beside a second one.
//!
//! As `avx2-ternary-i8` on 16 bytes: one load gives 4 x 16 codes, masked where they stand after at most one
//! shift, so that quarters 1 and 3 carry a factor of 4, which is taken off the finished sum. `pmaddubsw`
//! multiplies unsigned codes by signed activations and adds pairs in 16 bits.

use std::arch::x86_64::*;

use crate::x86_64::sse2::ternary::{horizontal_sum, prefetch};

/// Bytes of a register.
const WIDTH: usize = 16;
/// Steps of 16 columns whose 16-bit sums provably fit.
///
/// A pair is `2 * code * factor * |x| <= 2 * 2 * 4 * 128 = 2048`, so 16 steps reach at most
/// `16 * 2048 = 2^15`; the positive side stays below since `x <= 127` (`16 * 2032 = 32512`), the
/// negative side meets `i16::MIN` exactly.
const STEPS: usize = 16;
/// Steps between two jumps, and two prefetches: a line of the cache.
const UNROLL: usize = 4;
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 4096;

/// The contract of `scalar::ternary::row_quarters_i8`.
#[target_feature(enable = "ssse3")]
pub fn row_quarters_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; 4]);
        return;
    }
    let cols = x.len() / tokens;
    for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
        for (x, out) in x.chunks(2 * cols).zip(out.chunks_mut(2)) {
            match out.len() {
                1 => out.copy_from_slice(&tile::<1>(line, x)),
                _ => out.copy_from_slice(&tile::<2>(line, x)),
            }
        }
        for (out, &sum) in out.iter_mut().zip(sums) {
            // Codes are values + 1, so the sum of the activations came along once.
            *out = out.map(|acc| acc - sum);
        }
    }
}

/// Returns `sum(code * x)` of the four quarters for `T` tokens.
#[inline]
#[target_feature(enable = "ssse3")]
fn tile<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 4]; T] {
    let cols = codes.len();
    assert!(x.len() == T * cols);
    let mut totals = [[_mm_setzero_si128(); 4]; T];
    let (blocks, rest) = codes.as_chunks::<{ STEPS * WIDTH }>();
    for (index, block) in blocks.iter().enumerate() {
        let mut sums = [[_mm_setzero_si128(); 4]; T];
        let (runs, _) = block.as_chunks::<{ UNROLL * WIDTH }>();
        for (run, codes) in runs.iter().enumerate() {
            prefetch(codes, AHEAD);
            let at = (index * STEPS + run * UNROLL) * WIDTH;
            for (step, codes) in codes.as_chunks().0.iter().enumerate() {
                // SAFETY: the blocks end within the line, and so within every row of `x`.
                unsafe { add_step(&mut sums, codes, x.as_ptr().add(at + step * WIDTH), cols) };
            }
        }
        widen(&mut totals, &sums);
    }
    if !rest.is_empty() {
        let mut sums = [[_mm_setzero_si128(); 4]; T];
        let at = cols - rest.len();
        let (steps, last) = rest.as_chunks();
        for (step, codes) in steps.iter().enumerate() {
            // SAFETY: as above.
            unsafe { add_step(&mut sums, codes, x.as_ptr().add(at + step * WIDTH), cols) };
        }
        if !last.is_empty() {
            // The last of a row, padded by codes and activations of 0, which add nothing.
            let mut codes = [0u8; WIDTH];
            codes[..last.len()].copy_from_slice(last);
            let mut padded = [[0i8; WIDTH]; T];
            for (t, padded) in padded.iter_mut().enumerate() {
                padded[..last.len()].copy_from_slice(&x[(t + 1) * cols - last.len()..(t + 1) * cols]);
            }
            // SAFETY: `padded` is rows of 16 elements.
            unsafe { add_step(&mut sums, &codes, padded.as_flattened().as_ptr(), WIDTH) };
        }
        widen(&mut totals, &sums);
    }
    let mut out = [[0; 4]; T];
    for (out, totals) in out.iter_mut().zip(totals) {
        for (quarter, (out, total)) in out.iter_mut().zip(totals).enumerate() {
            // Quarters 1 and 3 carry the factor 4 of their place in the byte.
            *out = horizontal_sum(total) >> (2 * (quarter % 2));
        }
    }
    out
}

/// Adds 16-bit sums to 32-bit totals.
#[inline]
#[target_feature(enable = "ssse3")]
fn widen<const T: usize>(totals: &mut [[__m128i; 4]; T], sums: &[[__m128i; 4]; T]) {
    let ones = _mm_set1_epi16(1);
    for (total, &sum) in totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
        *total = _mm_add_epi32(*total, _mm_madd_epi16(sum, ones));
    }
}

/// Adds one step of 16 columns.
///
/// # Safety
/// 16 elements can be read at `x` and at each of the `T - 1` rows that follow at distance `cols`.
#[inline]
#[target_feature(enable = "ssse3")]
unsafe fn add_step<const T: usize>(
    sums: &mut [[__m128i; 4]; T],
    codes: &[u8; WIDTH],
    x: *const i8,
    cols: usize,
) {
    // SAFETY: an array of 16 bytes; `loadu` asks for no alignment.
    let packed = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
    let (low, high) = (_mm_set1_epi8(0x03), _mm_set1_epi8(0x0c));
    // A 16-bit shift: bits that cross from the upper byte land above the masks.
    let shifted = _mm_srli_epi16::<4>(packed);
    let quarters = [
        _mm_and_si128(packed, low),
        _mm_and_si128(packed, high),
        _mm_and_si128(shifted, low),
        _mm_and_si128(shifted, high),
    ];
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: by the contract; `loadu` asks for no alignment.
        let x = unsafe { _mm_loadu_si128(x.add(t * cols).cast()) };
        for (sum, codes) in sums.iter_mut().zip(quarters) {
            *sum = _mm_add_epi16(*sum, _mm_maddubs_epi16(codes, x));
        }
    }
}
