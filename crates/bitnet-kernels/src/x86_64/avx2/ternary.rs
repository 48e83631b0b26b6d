//! `avx2-ternary-i8`: 13 vector operations for 128 weights and one token, 9 and a quarter from four tokens on.
//!
//! A line is read twice, for the lower and the upper two quarters of its bytes: one load of 32 bytes gives
//! 2 x 32 codes, masked where they stand after at most one shift, so that one of two carries a factor of 4,
//! which is taken off the finished sum. `vpmaddubsw` multiplies unsigned codes by signed activations and adds
//! pairs in 16 bits. Two passes leave registers for four tokens, which share the codes.

use std::arch::asm;
use std::arch::x86_64::*;

use super::panel;

/// Steps of 32 columns whose 16-bit sums provably fit.
///
/// A pair is `2 * code * factor * |x| <= 2 * 2 * 4 * 128 = 2048`, so 16 steps reach at most
/// `16 * 2048 = 2^15`; the positive side stays below since `x <= 127` (`16 * 2032 = 32512`), the
/// negative side meets `i16::MIN` exactly.
const STEPS: usize = 16;
/// Steps between two jumps: taken branches are dear beside a loop this short.
const UNROLL: usize = 8;
/// Bytes of a register.
pub const WIDTH: usize = 32;
/// Tokens that share one separation of the codes.
const TOKENS: usize = 4;
/// Tokens from which spreading the codes into a panel pays.
const PANEL_TOKENS: usize = 64;
/// Bytes by which codes are prefetched ahead of their use, into the second-level cache. Arithmetic keeps the processor
/// from running ahead by itself, and on small pages each page's translation is fetched along.
const AHEAD: usize = 32_768;

/// The contract of `scalar::ternary::row_quarters_i8`.
#[target_feature(enable = "avx2")]
pub fn row_quarters_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; 4]);
        return;
    }
    let cols = x.len() / tokens;
    if tokens >= PANEL_TOKENS {
        return panel::products(codes, cols, x, sums, out);
    }
    let mut start = 0;
    while start < tokens {
        // Tiles of nearly one size, so that none of a few tokens is left over.
        let left = tokens - start;
        let range = start..start + left.div_ceil(left.div_ceil(TOKENS));
        let (x, sums) = (&x[start * cols..], &sums[range.clone()]);
        for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
            let out = &mut out[range.clone()];
            match out.len() {
                // Few enough sums for one pass.
                1 => write(out, sums, pass::<1, 4, 0>(line, x)),
                2 => products::<2>(line, x, sums, out),
                3 => products::<3>(line, x, sums, out),
                _ => products::<TOKENS>(line, x, sums, out),
            }
        }
        start = range.end;
    }
}

/// Writes the products of the four quarters for `T` tokens.
#[inline]
#[target_feature(enable = "avx2")]
fn products<const T: usize>(line: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let lower = pass::<T, 2, 0>(line, x);
    let upper = pass::<T, 2, 2>(line, x);
    let mut totals = [[_mm256_setzero_si256(); 4]; T];
    for ((totals, lower), upper) in totals.iter_mut().zip(lower).zip(upper) {
        *totals = [lower[0], lower[1], upper[0], upper[1]];
    }
    write(out, sums, totals);
}

/// Adds the lanes of each quarter, takes the factors off and writes them.
#[inline]
#[target_feature(enable = "avx2")]
fn write<const T: usize>(out: &mut [[i32; 4]], sums: &[i32], totals: [[__m256i; 4]; T]) {
    // Every second quarter carries the factor 4 of its place.
    let places = _mm_setr_epi32(0, 2, 0, 2);
    for ((out, &sum), totals) in out.iter_mut().zip(sums).zip(totals) {
        let products = _mm_srav_epi32(add_lanes(totals), places);
        // Codes are values + 1, so the sum of the activations came along once.
        let products = _mm_sub_epi32(products, _mm_set1_epi32(sum));
        // SAFETY: an array of 16 bytes; `storeu` asks for no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), products) };
    }
}

/// Returns the lanes of `sum(code * factor * x)` of `Q` quarters from quarter `FIRST`, for `T` tokens.
#[inline]
#[target_feature(enable = "avx2")]
fn pass<const T: usize, const Q: usize, const FIRST: usize>(codes: &[u8], x: &[i8]) -> [[__m256i; Q]; T] {
    let cols = codes.len();
    assert!(x.len() >= T * cols);
    let mut totals = [[_mm256_setzero_si256(); Q]; T];
    let (blocks, rest) = codes.as_chunks::<{ STEPS * WIDTH }>();
    for (index, block) in blocks.iter().enumerate() {
        let mut sums = [[_mm256_setzero_si256(); Q]; T];
        let (runs, _) = block.as_chunks::<{ UNROLL * WIDTH }>();
        for (run, codes) in runs.iter().enumerate() {
            for step in 0..UNROLL {
                let at = (index * STEPS + run * UNROLL + step) * WIDTH;
                // SAFETY: 32 columns from `at` end within the blocks, which end within every row of `x`.
                unsafe {
                    add_step::<T, Q, FIRST>(&mut sums, &codes[step * WIDTH..], x.as_ptr().add(at), cols)
                };
                if FIRST == 0 && step % 2 == 0 {
                    prefetch(codes, step * WIDTH + AHEAD);
                }
            }
        }
        widen(&mut totals, &sums);
    }
    if !rest.is_empty() {
        let mut sums = [[_mm256_setzero_si256(); Q]; T];
        let start = cols - rest.len();
        let (steps, last) = rest.as_chunks::<WIDTH>();
        for (step, codes) in steps.iter().enumerate() {
            // SAFETY: as above, within `rest`.
            unsafe { add_step::<T, Q, FIRST>(&mut sums, codes, x.as_ptr().add(start + step * WIDTH), cols) };
            if FIRST == 0 && step % 2 == 0 {
                prefetch(codes, AHEAD);
            }
        }
        if !last.is_empty() {
            // The rest of a row, padded by codes and activations of 0, which add nothing.
            let mut codes = [0u8; WIDTH];
            codes[..last.len()].copy_from_slice(last);
            let mut padded = [[0i8; WIDTH]; T];
            for (t, padded) in padded.iter_mut().enumerate() {
                padded[..last.len()].copy_from_slice(&x[(t + 1) * cols - last.len()..(t + 1) * cols]);
            }
            // SAFETY: `padded` is rows of 32 elements.
            unsafe { add_step::<T, Q, FIRST>(&mut sums, &codes, padded.as_flattened().as_ptr(), WIDTH) };
        }
        widen(&mut totals, &sums);
    }
    totals
}

/// Adds one step of 32 columns.
///
/// # Safety
/// 32 elements can be read at `x` and at each of the `T - 1` rows that follow at distance `cols`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_step<const T: usize, const Q: usize, const FIRST: usize>(
    sums: &mut [[__m256i; Q]; T],
    codes: &[u8],
    x: *const i8,
    cols: usize,
) {
    let packed = load(codes);
    let mut quarters = [packed; Q];
    for (index, quarter) in quarters.iter_mut().enumerate() {
        // A 16-bit shift: bits that cross from the upper byte land above the masks.
        let shifted = if FIRST + index >= 2 { _mm256_srli_epi16::<4>(packed) } else { packed };
        let mask = if index % 2 == 0 { 0x03 } else { 0x0c };
        *quarter = _mm256_and_si256(shifted, _mm256_set1_epi8(mask));
    }
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: by the contract; `loadu` asks for no alignment.
        let x = unsafe { _mm256_loadu_si256(x.add(t * cols).cast()) };
        for (sum, &codes) in sums.iter_mut().zip(&quarters) {
            *sum = in_order(_mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, x)));
        }
    }
}

/// Returns `sum`, to which the compiler then adds the next product as written: it would add the products of
/// several steps to each other first, for which there are not enough registers.
#[inline]
#[target_feature(enable = "avx2")]
pub fn in_order(mut sum: __m256i) -> __m256i {
    // SAFETY: no instruction at all; the register keeps its value.
    unsafe { asm!("/* {0} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}

/// Adds 16-bit sums to 32-bit totals.
#[inline]
#[target_feature(enable = "avx2")]
fn widen<const T: usize, const Q: usize>(totals: &mut [[__m256i; Q]; T], sums: &[[__m256i; Q]; T]) {
    let ones = _mm256_set1_epi16(1);
    for (totals, sums) in totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
        *totals = _mm256_add_epi32(*totals, _mm256_madd_epi16(*sums, ones));
    }
}

/// Separates the four quarters into plain codes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn split_unscaled(packed: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(0x03);
    // 16-bit shifts: bits that cross from the upper byte land above the mask.
    [
        _mm256_and_si256(packed, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(packed), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(packed), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(packed), mask),
    ]
}

/// Adds the lanes of each of four vectors, all four at once.
#[inline]
#[target_feature(enable = "avx2")]
pub fn add_lanes([a, b, c, d]: [__m256i; 4]) -> __m128i {
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let all = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all))
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn horizontal_sum(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
    _mm_cvtsi128_si32(v)
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn load(bytes: &[u8]) -> __m256i {
    assert!(bytes.len() >= WIDTH);
    // SAFETY: 32 readable bytes, asserted; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn load_i8(values: &[i8]) -> __m256i {
    assert!(values.len() >= WIDTH);
    // SAFETY: 32 readable bytes, asserted; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

/// Asks for the line at `offset`, which may lie past the row: the next rows follow in memory.
#[inline]
#[target_feature(enable = "avx2")]
fn prefetch(codes: &[u8], offset: usize) {
    _mm_prefetch::<_MM_HINT_T1>(codes.as_ptr().wrapping_add(offset).cast());
}
