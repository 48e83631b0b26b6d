//! `avx2-int8-i16`: int8 rows widened in registers, `vpmaddwd` with 16-bit activations.
//!
//! Any partial sum is a sum of some of the products, each term of which is bounded by `127 * limit(cols)`
//! (`scalar::int8`): no order of additions can overflow 32 bits.

use std::arch::x86_64::*;

use super::ternary::horizontal_sum;

/// Columns of a step.
const WIDTH: usize = 16;
/// Steps between two jumps.
const UNROLL: usize = 4;
/// Rows that share one reading of the activations.
const ROWS: usize = 4;
/// Tokens that share one widening of a row.
const TOKENS: usize = 2;
/// Bytes by which a row is prefetched ahead of its use.
const AHEAD: usize = 2048;

/// The contract of `scalar::int8::int8_i16`.
#[target_feature(enable = "avx2")]
pub fn int8_i16(rows: &[i8], cols: usize, x: &[i16], out: &mut [i32]) {
    if cols == 0 || x.is_empty() {
        out.fill(0);
        return;
    }
    let tokens = x.len() / cols;
    for (rows, out) in rows.chunks(ROWS * cols).zip(out.chunks_mut(ROWS * tokens)) {
        let mut token = 0;
        while token < tokens {
            let count = TOKENS.min(tokens - token);
            let x = &x[token * cols..][..count * cols];
            if rows.len() == ROWS * cols && count == TOKENS {
                put(&products::<ROWS, TOKENS>(rows, cols, x), token, tokens, out);
            } else if rows.len() == ROWS * cols {
                put(&products::<ROWS, 1>(rows, cols, x), token, tokens, out);
            } else {
                for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
                    for (x, out) in x.chunks_exact(cols).zip(&mut out[token..]) {
                        [[*out]] = products::<1, 1>(row, cols, x);
                    }
                }
            }
            token += count;
        }
    }
}

fn put<const R: usize, const T: usize>(sums: &[[i32; T]; R], token: usize, tokens: usize, out: &mut [i32]) {
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(tokens)) {
        out[token..token + T].copy_from_slice(sums);
    }
}

/// Returns the products of `R` rows with `T` tokens.
#[inline]
#[target_feature(enable = "avx2")]
fn products<const R: usize, const T: usize>(rows: &[i8], cols: usize, x: &[i16]) -> [[i32; T]; R] {
    assert!(rows.len() == R * cols && x.len() == T * cols);
    let mut sums = [[_mm256_setzero_si256(); T]; R];
    let whole = cols / WIDTH * WIDTH;
    let unrolled = whole / (UNROLL * WIDTH) * (UNROLL * WIDTH);
    for at in (0..unrolled).step_by(UNROLL * WIDTH) {
        for row in 0..R {
            _mm_prefetch::<_MM_HINT_T0>(rows.as_ptr().wrapping_add(row * cols + at + AHEAD));
        }
        for step in 0..UNROLL {
            // SAFETY: columns up to `at + step * 16 + 16 <= whole` exist in every row and token.
            unsafe { add_step(&mut sums, rows.as_ptr(), x.as_ptr(), cols, at + step * WIDTH) };
        }
    }
    for at in (unrolled..whole).step_by(WIDTH) {
        // SAFETY: as above.
        unsafe { add_step(&mut sums, rows.as_ptr(), x.as_ptr(), cols, at) };
    }
    let mut out = [[0; T]; R];
    for row in 0..R {
        for t in 0..T {
            let rest = rows[row * cols + whole..(row + 1) * cols].iter().zip(&x[t * cols + whole..]);
            let rest: i32 = rest.map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
            out[row][t] = horizontal_sum(sums[row][t]) + rest;
        }
    }
    out
}

/// Adds 16 columns from column `at`.
///
/// # Safety
/// `rows` is `R` rows and `x` `T` rows of `cols` elements, and `at + 16 <= cols`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_step<const R: usize, const T: usize>(
    sums: &mut [[__m256i; T]; R],
    rows: *const i8,
    x: *const i16,
    cols: usize,
    at: usize,
) {
    let mut activations = [_mm256_setzero_si256(); T];
    for (t, activations) in activations.iter_mut().enumerate() {
        // SAFETY: by the contract; `loadu` asks for no alignment.
        *activations = unsafe { _mm256_loadu_si256(x.add(t * cols + at).cast()) };
    }
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        let codes = unsafe { _mm_loadu_si128(rows.add(row * cols + at).cast()) };
        let codes = _mm256_cvtepi8_epi16(codes);
        for (sum, &x) in sums.iter_mut().zip(&activations) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(codes, x));
        }
    }
}
