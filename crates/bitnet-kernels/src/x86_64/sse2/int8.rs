//! `sse2-int8-i16`: int8 rows widened in registers, `pmaddwd` with 16-bit activations.
//!
//! Any partial sum is a sum of some of the products, each term of which is bounded by `127 * limit(cols)`
//! (`scalar::int8`): no order of additions can overflow 32 bits.

use std::arch::x86_64::*;

use super::ternary::{horizontal_sum, prefetch, widen};

/// Columns of a step.
const WIDTH: usize = 16;
/// Tokens that share one widening of a row.
const TOKENS: usize = 4;
/// Bytes by which a row is prefetched ahead of its use.
const AHEAD: usize = 4096;

/// The contract of `scalar::int8::int8_i16`.
#[target_feature(enable = "sse2")]
pub fn int8_i16(rows: &[i8], cols: usize, x: &[i16], out: &mut [i32]) {
    if cols == 0 || x.is_empty() {
        out.fill(0);
        return;
    }
    for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(x.len() / cols)) {
        for (x, out) in x.chunks(TOKENS * cols).zip(out.chunks_mut(TOKENS)) {
            match out.len() {
                1 => out.copy_from_slice(&products::<1>(row, x)),
                2 => out.copy_from_slice(&products::<2>(row, x)),
                3 => out.copy_from_slice(&products::<3>(row, x)),
                _ => out.copy_from_slice(&products::<TOKENS>(row, x)),
            }
        }
    }
}

/// Returns the products of a row with `T` tokens.
#[inline]
#[target_feature(enable = "sse2")]
fn products<const T: usize>(row: &[i8], x: &[i16]) -> [i32; T] {
    let cols = row.len();
    assert!(x.len() == T * cols);
    // Two sums a token: a chain of additions would wait for each other.
    let mut sums = [[_mm_setzero_si128(); 2]; T];
    let (steps, rest) = row.as_chunks::<WIDTH>();
    for (step, codes) in steps.iter().enumerate() {
        prefetch(codes, AHEAD);
        // SAFETY: an array of 16 bytes; `loadu` asks for no alignment.
        let (low, high) = widen(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) });
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: 16 columns from `step * 16` lie within token `t`, two vectors of eight.
            let (x_low, x_high) = unsafe {
                let at = x.as_ptr().add(t * cols + step * WIDTH);
                (_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(WIDTH / 2).cast()))
            };
            sums[0] = _mm_add_epi32(sums[0], _mm_madd_epi16(low, x_low));
            sums[1] = _mm_add_epi32(sums[1], _mm_madd_epi16(high, x_high));
        }
    }
    let mut out = [0; T];
    for (t, (out, sums)) in out.iter_mut().zip(sums).enumerate() {
        let rest = rest.iter().zip(&x[(t + 1) * cols - rest.len()..]);
        let rest: i32 = rest.map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
        *out = horizontal_sum(_mm_add_epi32(sums[0], sums[1])) + rest;
    }
    out
}
