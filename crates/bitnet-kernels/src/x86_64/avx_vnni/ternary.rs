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
    for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
        for (index, out) in out.chunks_mut(2).enumerate() {
            let x = &x[2 * index * cols..];
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
#[target_feature(enable = "avx2,avxvnni")]
fn tile<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 4]; T] {
    let cols = codes.len();
    assert!(x.len() >= T * cols);
    let mut totals = [[_mm256_setzero_si256(); 4]; T];
    let whole = cols / WIDTH * WIDTH;
    for at in (0..whole).step_by(WIDTH) {
        // SAFETY: 32 bytes from `at` lie within the row; `loadu` asks for no alignment.
        let packed = unsafe { _mm256_loadu_si256(codes.as_ptr().add(at).cast()) };
        _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(at + AHEAD).cast());
        let quarters = split(packed);
        for t in 0..T {
            // SAFETY: as above, within the row of token `t`.
            let x = unsafe { _mm256_loadu_si256(x.as_ptr().add(t * cols + at).cast()) };
            add(&mut totals[t], quarters, x);
        }
    }
    if whole < cols {
        // The rest of a row, padded by codes and activations of 0, which add nothing.
        let quarters = split(padded(&codes[whole..]));
        for t in 0..T {
            let rest = x[t * cols + whole..(t + 1) * cols].iter().map(|&x| x as u8);
            let mut bytes = [0u8; WIDTH];
            bytes.iter_mut().zip(rest).for_each(|(byte, x)| *byte = x);
            add(&mut totals[t], quarters, padded(&bytes));
        }
    }
    totals.map(|[a, b, c, d]| {
        [
            horizontal_sum(a),
            horizontal_sum(_mm256_srai_epi32::<2>(b)),
            horizontal_sum(_mm256_srai_epi32::<4>(c)),
            horizontal_sum(_mm256_srai_epi32::<6>(d)),
        ]
    })
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn add(totals: &mut [__m256i; 4], quarters: [__m256i; 4], x: __m256i) {
    for i in 0..4 {
        totals[i] = _mm256_dpbusd_avx_epi32(totals[i], quarters[i], x);
    }
}

/// Separates the four quarters, each where it stands in the byte.
#[inline]
#[target_feature(enable = "avx2")]
fn split(packed: __m256i) -> [__m256i; 4] {
    [0x03, 0x0c, 0x30, 0xc0u8].map(|mask| _mm256_and_si256(packed, _mm256_set1_epi8(mask as i8)))
}

/// Loads up to 32 bytes, zeros after them.
#[inline]
#[target_feature(enable = "avx2")]
fn padded(bytes: &[u8]) -> __m256i {
    let mut whole = [0u8; WIDTH];
    whole[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: an array of 32 bytes; `loadu` asks for no alignment.
    unsafe { _mm256_loadu_si256(whole.as_ptr().cast()) }
}
