//! `avx-vnni-ternary-i8`: 8 vector operations for 128 weights and one token.
//!
//! As `avx512-ternary-i8` on 32 bytes: quarters are masked where they stand, `vpdpbusd` adds groups of four
//! products into 32 bits, and the factor `4^i` of quarter `i` is taken off each lane at the end.
//!
//! Bound: a step adds at most `4 * (2 * 64) * 128 = 2^16` to a lane, and `MAX_COLS / 32 = 2^15` steps reach
//! `2^31` only if every code is 2 and every activation -128, where the sum is `-2^31` and fits; with
//! activations of at most 127 the positive side stays below.

use std::arch::x86_64::*;

use crate::x86_64::avx2::ternary::horizontal_sum;

const WIDTH: usize = 32;
/// Tokens that share the separated codes: eight of 16 registers are sums.
const TOKENS: usize = 2;
/// Steps between two jumps.
const UNROLL: usize = 4;
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 4096;

/// The contract of `scalar::ternary::row_quarters_i8`.
#[target_feature(enable = "avx2,avxvnni")]
pub fn row_quarters_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; 4]);
        return;
    }
    let cols = x.len() / tokens;
    // Activations of a tile stay in the first-level cache while all lines pass.
    for start in (0..tokens).step_by(TOKENS) {
        let x = &x[start * cols..];
        for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
            let out = &mut out[start..tokens.min(start + TOKENS)];
            match out.len() {
                1 => out.copy_from_slice(&tile::<1>(line, x)),
                _ => out.copy_from_slice(&tile::<TOKENS>(line, x)),
            }
        }
    }
    for out in out.chunks_exact_mut(tokens) {
        for (out, &sum) in out.iter_mut().zip(sums) {
            // Codes are values + 1, so the sum of the activations came along once.
            *out = out.map(|acc| acc - sum);
        }
    }
}

/// Returns `sum(code * x)` of the four quarters for `T` tokens.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn tile<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 4]; T] {
    let cols = codes.len();
    assert!(x.len() >= T * cols);
    let mut totals = [[_mm256_setzero_si256(); 4]; T];
    let whole = cols / WIDTH * WIDTH;
    let unrolled = cols / (UNROLL * WIDTH) * (UNROLL * WIDTH);
    for at in (0..unrolled).step_by(UNROLL * WIDTH) {
        for step in 0..UNROLL {
            if step % 2 == 0 {
                _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(at + step * WIDTH + AHEAD).cast());
            }
            // SAFETY: columns up to `at + step * 32 + 32` exist in the row and every token.
            unsafe { add_step(&mut totals, codes.as_ptr(), x.as_ptr(), cols, at + step * WIDTH) };
        }
    }
    for at in (unrolled..whole).step_by(WIDTH) {
        // SAFETY: as above.
        unsafe { add_step(&mut totals, codes.as_ptr(), x.as_ptr(), cols, at) };
    }
    if whole < cols {
        // The rest of a row, padded by codes and activations of 0, which add nothing.
        let rest = cols - whole;
        let mut padded_codes = [0u8; WIDTH];
        padded_codes[..rest].copy_from_slice(&codes[whole..]);
        let mut padded = [[0i8; WIDTH]; T];
        for (t, padded) in padded.iter_mut().enumerate() {
            padded[..rest].copy_from_slice(&x[t * cols + whole..(t + 1) * cols]);
        }
        // SAFETY: one step of 32 columns.
        unsafe { add_step(&mut totals, padded_codes.as_ptr(), padded.as_flattened().as_ptr(), WIDTH, 0) };
    }
    let mut out = [[0; 4]; T];
    for (out, [a, b, c, d]) in out.iter_mut().zip(totals) {
        *out = [
            horizontal_sum(a),
            horizontal_sum(_mm256_srai_epi32::<2>(b)),
            horizontal_sum(_mm256_srai_epi32::<4>(c)),
            horizontal_sum(_mm256_srai_epi32::<6>(d)),
        ];
    }
    out
}

/// Adds one step of 32 columns from column `at`.
///
/// # Safety
/// `codes` has `cols` elements and `x` `T` rows of as many, and `at + 32 <= cols`.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn add_step<const T: usize>(
    totals: &mut [[__m256i; 4]; T],
    codes: *const u8,
    x: *const i8,
    cols: usize,
    at: usize,
) {
    // SAFETY: by the contract; `loadu` asks for no alignment.
    let packed = unsafe { _mm256_loadu_si256(codes.add(at).cast()) };
    for (t, totals) in totals.iter_mut().enumerate() {
        // SAFETY: as above.
        let x = unsafe { _mm256_loadu_si256(x.add(t * cols + at).cast()) };
        for (total, mask) in totals.iter_mut().zip([0x03, 0x0c, 0x30, 0xc0u8]) {
            // Each quarter where it stands in the byte.
            let quarter = _mm256_and_si256(packed, _mm256_set1_epi8(mask as i8));
            *total = _mm256_dpbusd_avx_epi32(*total, quarter, x);
        }
    }
}
