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
/// Tokens that share one widening of a row.
const TOKENS: usize = 4;
/// Bytes by which a row is prefetched ahead of its use. Rows are read one after the other: several at once
/// are several streams, which memory serves at half the speed.
const AHEAD: usize = 8192;

/// The contract of `scalar::int8::int8_i16`.
#[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
fn products<const T: usize>(row: &[i8], x: &[i16]) -> [i32; T] {
    let cols = row.len();
    assert!(x.len() == T * cols);
    // Two sums a token: a chain of additions would wait for each other.
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    let whole = cols / WIDTH * WIDTH;
    let unrolled = whole / (UNROLL * WIDTH) * (UNROLL * WIDTH);
    for at in (0..unrolled).step_by(UNROLL * WIDTH) {
        _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at + AHEAD));
        for step in 0..UNROLL {
            // SAFETY: columns up to `at + step * 16 + 16 <= whole` exist in the row and every token.
            unsafe { add_step(&mut sums, step % 2, row.as_ptr(), x.as_ptr(), cols, at + step * WIDTH) };
        }
    }
    for at in (unrolled..whole).step_by(WIDTH) {
        // SAFETY: as above.
        unsafe { add_step(&mut sums, 0, row.as_ptr(), x.as_ptr(), cols, at) };
    }
    let mut out = [0; T];
    for (t, (out, sums)) in out.iter_mut().zip(sums).enumerate() {
        let rest = row[whole..].iter().zip(&x[t * cols + whole..]);
        let rest: i32 = rest.map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
        *out = horizontal_sum(_mm256_add_epi32(sums[0], sums[1])) + rest;
    }
    out
}

/// Adds 16 columns from column `at` to one sum of every token.
///
/// # Safety
/// `row` has `cols` elements and `x` `T` rows of as many, and `at + 16 <= cols`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_step<const T: usize>(
    sums: &mut [[__m256i; 2]; T],
    sum: usize,
    row: *const i8,
    x: *const i16,
    cols: usize,
    at: usize,
) {
    // SAFETY: by the contract; `loadu` asks for no alignment.
    let codes = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(row.add(at).cast()) });
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        let x = unsafe { _mm256_loadu_si256(x.add(t * cols + at).cast()) };
        sums[sum] = _mm256_add_epi32(sums[sum], _mm256_madd_epi16(codes, x));
    }
}
