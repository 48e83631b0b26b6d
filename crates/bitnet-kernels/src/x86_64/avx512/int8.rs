//! `avx512-int8-i16`: int8 rows widened in registers, `vpdpwssd` with 16-bit activations.
//!
//! Any partial sum is a sum of some of the products, whose magnitudes together are bounded by
//! `127 * limit(cols) * cols` (`scalar::int8`): no order of additions can overflow 32 bits.

use std::arch::x86_64::*;

use crate::x86_64::streams::two_streams;

/// Columns of a step.
const WIDTH: usize = 32;
/// Steps between two jumps.
const UNROLL: usize = 4;
/// Tokens that share one widening of a row.
const TOKENS: usize = 4;
/// Bytes by which a row is prefetched ahead of its use.
const AHEAD: usize = 4096;

/// The contract of `scalar::int8::int8_i16`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn int8_i16(rows: &[i8], cols: usize, x: &[i16], out: &mut [i32]) {
    if cols == 0 || x.is_empty() {
        out.fill(0);
        return;
    }
    if x.len() == cols {
        return one_token(rows, x, out);
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

/// Writes the products of one token.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn one_token(rows: &[i8], x: &[i16], out: &mut [i32]) {
    let (pairs, last) = two_streams(rows, x.len(), out);
    for (rows, [a, b]) in pairs {
        [*a, *b] = pair(rows, x);
    }
    if let Some((row, out)) = last {
        [*out] = products::<1>(row, x);
    }
}

/// Returns the products of two rows of one length with a token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn pair(rows: [&[i8]; 2], x: &[i16]) -> [i32; 2] {
    let cols = x.len();
    assert!(rows.iter().all(|row| row.len() == cols));
    let mut sums = [[[_mm512_setzero_si512(); 2]; 1]; 2];
    let unrolled = cols / (UNROLL * WIDTH) * (UNROLL * WIDTH);
    for start in (0..unrolled).step_by(UNROLL * WIDTH) {
        for step in 0..UNROLL {
            let at = start + step * WIDTH;
            for (sums, row) in sums.iter_mut().zip(rows) {
                if step % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at + AHEAD));
                }
                // SAFETY: 32 columns from `at` exist in the rows and the token.
                unsafe { add_step(sums, step % 2, row.as_ptr(), x.as_ptr(), cols, at) };
            }
        }
    }
    let mut out = [0; 2];
    for ((out, row), [sums]) in out.iter_mut().zip(rows).zip(sums) {
        // Fewer columns than a turn of the loop above.
        let [rest] = products::<1>(&row[unrolled..], &x[unrolled..]);
        *out = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])) + rest;
    }
    out
}

/// Returns the products of a row with `T` tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn products<const T: usize>(row: &[i8], x: &[i16]) -> [i32; T] {
    let cols = row.len();
    assert!(x.len() == T * cols);
    // Two sums a token: a chain of additions would wait for each other.
    let mut sums = [[_mm512_setzero_si512(); 2]; T];
    let unrolled = cols / (UNROLL * WIDTH) * (UNROLL * WIDTH);
    for at in (0..unrolled).step_by(UNROLL * WIDTH) {
        for line in [0, 64] {
            _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at + AHEAD + line));
        }
        for step in 0..UNROLL {
            // SAFETY: columns up to `at + step * 32 + 32` exist in the row and every token.
            unsafe { add_step(&mut sums, step % 2, row.as_ptr(), x.as_ptr(), cols, at + step * WIDTH) };
        }
    }
    let whole = cols / WIDTH * WIDTH;
    for at in (unrolled..whole).step_by(WIDTH) {
        // SAFETY: as above.
        unsafe { add_step(&mut sums, 0, row.as_ptr(), x.as_ptr(), cols, at) };
    }
    if whole < cols {
        // The rest of a row, padded by zeros, which add nothing.
        let rest = cols - whole;
        let mut weights = [0i8; WIDTH];
        weights[..rest].copy_from_slice(&row[whole..]);
        let mut padded = [[0i16; WIDTH]; T];
        for (t, padded) in padded.iter_mut().enumerate() {
            padded[..rest].copy_from_slice(&x[t * cols + whole..(t + 1) * cols]);
        }
        // SAFETY: one step of 32 columns.
        unsafe { add_step(&mut sums, 0, weights.as_ptr(), padded.as_flattened().as_ptr(), WIDTH, 0) };
    }
    let mut out = [0; T];
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]));
    }
    out
}

/// Adds 32 columns from column `at` to one sum of every token.
///
/// # Safety
/// `row` has `cols` elements and `x` `T` rows of as many, and `at + 32 <= cols`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_step<const T: usize>(
    sums: &mut [[__m512i; 2]; T],
    sum: usize,
    row: *const i8,
    x: *const i16,
    cols: usize,
    at: usize,
) {
    // SAFETY: by the contract; `loadu` asks for no alignment.
    let codes = _mm512_cvtepi8_epi16(unsafe { _mm256_loadu_si256(row.add(at).cast()) });
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        let x = unsafe { _mm512_loadu_si512(x.add(t * cols + at).cast()) };
        sums[sum] = _mm512_dpwssd_epi32(sums[sum], codes, x);
    }
}
