//! `avx2-ternary-i8`: 13 vector operations for 128 weights and one token.
//!
//! One load of 32 packed bytes gives 4 x 32 codes. Two quarters are masked where they stand and two
//! after one shift, so that two of the four carry a factor of 4, which is taken off the finished sum.
//! `vpmaddubsw` multiplies unsigned codes by signed activations and adds pairs in 16 bits.

use std::arch::x86_64::*;

/// Steps of 32 columns whose 16-bit sums provably fit.
///
/// A pair is `2 * code * factor * |x| <= 2 * 2 * 4 * 128 = 2048`, so 16 steps reach at most
/// `16 * 2048 = 2^15`; the positive side stays below since `x <= 127` (`16 * 2032 = 32512`), the
/// negative side meets `i16::MIN` exactly.
const STEPS: usize = 16;
const WIDTH: usize = 32;
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 4096;

/// The contract of `scalar::ternary::row_quarters_i8`.
#[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
fn tile<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 4]; T] {
    let cols = codes.len();
    let mut totals = [[_mm256_setzero_si256(); 4]; T];
    let whole = cols / WIDTH;
    let mut step = 0;
    while step < whole {
        let end = whole.min(step + STEPS);
        let mut sums = [[_mm256_setzero_si256(); 4]; T];
        while step < end {
            let at = step * WIDTH;
            let packed = load(&codes[at..at + WIDTH]);
            prefetch(codes, at + AHEAD);
            let quarters = split(packed);
            for t in 0..T {
                add(&mut sums[t], quarters, load_i8(&x[t * cols + at..t * cols + at + WIDTH]));
            }
            step += 1;
        }
        widen(&mut totals, &sums);
    }
    if whole * WIDTH < cols {
        let mut sums = [[_mm256_setzero_si256(); 4]; T];
        // The rest of a row, padded by codes and activations of 0, which add nothing.
        let (at, rest) = (whole * WIDTH, cols - whole * WIDTH);
        let mut padded = [0u8; WIDTH];
        padded[..rest].copy_from_slice(&codes[at..]);
        let quarters = split(load(&padded));
        for t in 0..T {
            let mut padded = [0i8; WIDTH];
            padded[..rest].copy_from_slice(&x[t * cols + at..][..rest]);
            add(&mut sums[t], quarters, load_i8(&padded));
        }
        widen(&mut totals, &sums);
    }
    totals.map(|total| {
        let [a, b, c, d] = total.map(|sum| horizontal_sum(sum));
        // Quarters 1 and 3 carry the factor 4 of their place in the byte.
        [a, b >> 2, c, d >> 2]
    })
}

/// Separates the four quarters; the second and fourth stay scaled by 4.
#[inline]
#[target_feature(enable = "avx2")]
fn split(packed: __m256i) -> [__m256i; 4] {
    let (low, high) = (_mm256_set1_epi8(0x03), _mm256_set1_epi8(0x0c));
    // A 16-bit shift: bits that cross from the upper byte land above the masks.
    let shifted = _mm256_srli_epi16::<4>(packed);
    [
        _mm256_and_si256(packed, low),
        _mm256_and_si256(packed, high),
        _mm256_and_si256(shifted, low),
        _mm256_and_si256(shifted, high),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(sums: &mut [__m256i; 4], quarters: [__m256i; 4], x: __m256i) {
    for i in 0..4 {
        sums[i] = _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(quarters[i], x));
    }
}

/// Adds 16-bit sums to 32-bit totals.
#[inline]
#[target_feature(enable = "avx2")]
fn widen<const T: usize>(totals: &mut [[__m256i; 4]; T], sums: &[[__m256i; 4]; T]) {
    let ones = _mm256_set1_epi16(1);
    for t in 0..T {
        for i in 0..4 {
            totals[t][i] = _mm256_add_epi32(totals[t][i], _mm256_madd_epi16(sums[t][i], ones));
        }
    }
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
fn load(bytes: &[u8]) -> __m256i {
    assert!(bytes.len() >= WIDTH);
    // SAFETY: 32 readable bytes, asserted; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i8(values: &[i8]) -> __m256i {
    assert!(values.len() >= WIDTH);
    // SAFETY: 32 readable bytes, asserted; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

/// Asks for the line at `offset`, which may lie past the row: the next rows follow in memory.
#[inline]
#[target_feature(enable = "avx2")]
fn prefetch(codes: &[u8], offset: usize) {
    _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(offset).cast());
}
