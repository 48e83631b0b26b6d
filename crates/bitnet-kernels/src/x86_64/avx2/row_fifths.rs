//! `avx2-row-fifths-i8`: base-3 codes separated by comparisons, 37 vector operations for 160 weights and one
//! token.

use std::arch::x86_64::*;

use super::ternary::{WIDTH, horizontal_sum, load, load_i8};

/// Steps of 32 columns whose 16-bit sums provably fit.
///
/// A pair is at most `2 * 2 * 128 = 512` in magnitude, so 64 steps reach at most `2^15`; the positive side
/// stays below since `x <= 127`, the negative side meets `i16::MIN` exactly.
const STEPS: usize = 64;
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 4096;

/// The contract of `scalar::ternary::row_fifths_i8`.
#[target_feature(enable = "avx2")]
pub fn row_fifths_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 5]]) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; 5]);
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

/// Returns `sum(code * x)` of the five rows for `T` tokens.
#[inline]
#[target_feature(enable = "avx2")]
fn tile<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 5]; T] {
    let cols = codes.len();
    assert!(x.len() == T * cols);
    let mut totals = [[_mm256_setzero_si256(); 5]; T];
    for (index, block) in codes.chunks(STEPS * WIDTH).enumerate() {
        let mut sums = [[_mm256_setzero_si256(); 5]; T];
        let start = index * STEPS * WIDTH;
        let (steps, rest) = block.as_chunks::<WIDTH>();
        for (step, codes) in steps.iter().enumerate() {
            let at = start + step * WIDTH;
            _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(AHEAD).cast());
            let parts = split(load(codes));
            for (t, sums) in sums.iter_mut().enumerate() {
                add(sums, &parts, load_i8(&x[t * cols + at..]));
            }
        }
        if !rest.is_empty() {
            // The rest of a row, padded by codes and activations of 0, which add nothing.
            let at = start + steps.len() * WIDTH;
            let mut padded = [0; WIDTH];
            padded[..rest.len()].copy_from_slice(rest);
            let parts = split(load(&padded));
            for (t, sums) in sums.iter_mut().enumerate() {
                let mut padded = [0; WIDTH];
                padded[..rest.len()].copy_from_slice(&x[t * cols + at..][..rest.len()]);
                add(sums, &parts, load_i8(&padded));
            }
        }
        let ones = _mm256_set1_epi16(1);
        for (total, &sum) in totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            *total = _mm256_add_epi32(*total, _mm256_madd_epi16(sum, ones));
        }
    }
    let mut out = [[0; 5]; T];
    for (out, &total) in out.as_flattened_mut().iter_mut().zip(totals.as_flattened()) {
        *out = horizontal_sum(total);
    }
    out
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(sums: &mut [__m256i; 5], parts: &[__m256i; 5], x: __m256i) {
    for (sum, &part) in sums.iter_mut().zip(parts) {
        *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(part, x));
    }
}

/// Separates the five codes of every byte.
#[inline]
#[target_feature(enable = "avx2")]
fn split(packed: __m256i) -> [__m256i; 5] {
    let zero = _mm256_setzero_si256();
    let set = |value: u8| _mm256_set1_epi8(value as i8);
    // The highest place needs unsigned comparisons; what remains after it is below 81.
    let first = _mm256_cmpeq_epi8(_mm256_max_epu8(packed, set(81)), packed);
    let second = _mm256_cmpeq_epi8(_mm256_max_epu8(packed, set(162)), packed);
    // A comparison is -1 where it holds.
    let count = _mm256_add_epi8(first, second);
    let mut parts = [_mm256_sub_epi8(zero, count); 5];
    let mut rest = _mm256_sub_epi8(packed, _mm256_and_si256(first, set(81)));
    rest = _mm256_sub_epi8(rest, _mm256_and_si256(second, set(81)));
    for (place, part) in [(27, 3), (9, 2), (3, 1)] {
        let first = _mm256_cmpgt_epi8(rest, set(place - 1));
        let second = _mm256_cmpgt_epi8(rest, set(2 * place - 1));
        parts[part] = _mm256_sub_epi8(zero, _mm256_add_epi8(first, second));
        rest = _mm256_sub_epi8(rest, _mm256_and_si256(first, set(place)));
        rest = _mm256_sub_epi8(rest, _mm256_and_si256(second, set(place)));
    }
    parts[0] = rest;
    parts
}
