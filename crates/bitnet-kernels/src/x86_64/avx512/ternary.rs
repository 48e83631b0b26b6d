//! `avx512-ternary-i8`: 8 vector operations for 256 weights and one token.
//!
//! One load of 64 packed bytes gives 4 x 64 codes. The four quarters are masked where they stand in the byte,
//! so that quarter `i` carries a factor `4^i`; `vpdpbusd` multiplies unsigned codes by signed activations and
//! adds groups of four straight into 32 bits. The factor is taken off each lane before the lanes are added.
//!
//! Bound: a step adds at most `4 * (2 * 64) * 128 = 2^16` to a lane, and `MAX_COLS / 64 = 2^14` steps reach
//! `2^30`. Without their factors all lanes together stay below `2 * 128 * 2^20 = 2^28`.

use std::arch::x86_64::*;
use std::slice;

use crate::x86_64::streams::two_streams;

const WIDTH: usize = 64;
/// Tokens that share the separated codes: half of the 32 registers are sums.
const TOKENS: usize = 4;
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 4096;

/// The contract of `scalar::ternary::row_quarters_i8`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn row_quarters_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; 4]);
        return;
    }
    let cols = x.len() / tokens;
    if let [sum] = *sums {
        return one_token(codes, x, sum, out);
    }
    let mut start = 0;
    while start < tokens {
        // Tiles of nearly one size, so that none of a few tokens is left over.
        let left = tokens - start;
        let range = start..start + left.div_ceil(left.div_ceil(TOKENS));
        let (x, sums) = (&x[start * cols..], &sums[range.clone()]);
        // Activations of a tile stay in the first-level cache while all lines pass.
        for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
            let out = &mut out[range.clone()];
            // One or two tokens have too few sums to hide the latency of the instruction: each step of two
            // gets its own.
            match out.len() {
                1 => tile::<1, true>(line, x, sums, out),
                2 => tile::<2, true>(line, x, sums, out),
                3 => tile::<3, false>(line, x, sums, out),
                _ => tile::<TOKENS, false>(line, x, sums, out),
            }
        }
        start = range.end;
    }
}

/// Writes the products of one token.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn one_token(codes: &[u8], x: &[i8], sum: i32, out: &mut [[i32; 4]]) {
    let (pairs, last) = two_streams(codes, x.len(), out);
    for (lines, [a, b]) in pairs {
        [*a, *b] = pair(lines, x, sum);
    }
    if let Some((line, out)) = last {
        tile::<1, true>(line, x, &[sum], slice::from_mut(out));
    }
}

/// Returns the products of the four quarters of two lines of one length with one token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn pair(lines: [&[u8]; 2], x: &[i8], sum: i32) -> [[i32; 4]; 2] {
    let cols = x.len();
    assert!(lines.iter().all(|line| line.len() == cols));
    let mut totals = [[[_mm512_setzero_si512(); 4]; 1]; 2];
    let unrolled = cols / (2 * WIDTH) * (2 * WIDTH);
    for at in (0..unrolled).step_by(2 * WIDTH) {
        for step in [at, at + WIDTH] {
            for (totals, line) in totals.iter_mut().zip(lines) {
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(step + AHEAD).cast());
                // SAFETY: columns up to `at + 128` exist in the lines and the token.
                unsafe { add_step(totals, u64::MAX, line.as_ptr(), x.as_ptr(), cols, step) };
            }
        }
    }
    for at in (unrolled..cols).step_by(WIDTH) {
        // The last step may be short: what lies past the row reads as 0 and adds nothing.
        let mask = u64::MAX >> (WIDTH - WIDTH.min(cols - at));
        for (totals, line) in totals.iter_mut().zip(lines) {
            // SAFETY: the columns that the mask admits exist.
            unsafe { add_step(totals, mask, line.as_ptr(), x.as_ptr(), cols, at) };
        }
    }
    let mut out = [[0; 4]; 2];
    for (out, [totals]) in out.iter_mut().zip(totals) {
        // Codes are values + 1, so the sum of the activations came along once.
        let products = _mm_sub_epi32(add_lanes(totals), _mm_set1_epi32(sum));
        // SAFETY: an array of 16 bytes; `storeu` asks for no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), products) };
    }
    out
}

/// Writes the products of the four quarters for `T` tokens, in one or `TWO` sets of sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn tile<const T: usize, const TWO: bool>(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let cols = codes.len();
    assert!(x.len() >= T * cols && sums.len() == T && out.len() == T);
    let (mut totals, mut odd) = ([[_mm512_setzero_si512(); 4]; T], [[_mm512_setzero_si512(); 4]; T]);
    let unrolled = cols / (2 * WIDTH) * (2 * WIDTH);
    for at in (0..unrolled).step_by(2 * WIDTH) {
        for line in [at, at + WIDTH] {
            _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(line + AHEAD).cast());
        }
        let odd = if TWO { &mut odd } else { &mut totals };
        // SAFETY: columns up to `at + 128` exist in the row and every token.
        unsafe {
            add_step(odd, u64::MAX, codes.as_ptr(), x.as_ptr(), cols, at + WIDTH);
            add_step(&mut totals, u64::MAX, codes.as_ptr(), x.as_ptr(), cols, at);
        }
    }
    for at in (unrolled..cols).step_by(WIDTH) {
        // The last step may be short: what lies past the row reads as 0 and adds nothing.
        let mask = u64::MAX >> (WIDTH - WIDTH.min(cols - at));
        // SAFETY: the columns that the mask admits exist.
        unsafe { add_step(&mut totals, mask, codes.as_ptr(), x.as_ptr(), cols, at) };
    }
    for (total, &odd) in totals.as_flattened_mut().iter_mut().zip(odd.as_flattened()) {
        *total = _mm512_add_epi32(*total, odd);
    }
    for ((out, &sum), totals) in out.iter_mut().zip(sums).zip(totals) {
        // Codes are values + 1, so the sum of the activations came along once.
        let products = _mm_sub_epi32(add_lanes(totals), _mm_set1_epi32(sum));
        // SAFETY: an array of 16 bytes; `storeu` asks for no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), products) };
    }
}

/// Takes the factors off and adds the lanes of each quarter: four at a time, since one after the other costs
/// more instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_lanes([a, b, c, d]: [__m512i; 4]) -> __m128i {
    let (b, c, d) = (_mm512_srai_epi32::<2>(b), _mm512_srai_epi32::<4>(c), _mm512_srai_epi32::<6>(d));
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
    _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

/// Adds the columns of `mask` from column `at`.
///
/// # Safety
/// `codes` has `cols` elements and `x` `T` rows of as many; the columns of the mask lie below `cols`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_step<const T: usize>(
    totals: &mut [[__m512i; 4]; T],
    mask: u64,
    codes: *const u8,
    x: *const i8,
    cols: usize,
    at: usize,
) {
    // SAFETY: by the contract; a masked load touches no other byte.
    let packed = unsafe { _mm512_maskz_loadu_epi8(mask, codes.add(at).cast()) };
    let quarters = split(packed);
    for (t, totals) in totals.iter_mut().enumerate() {
        // SAFETY: as above.
        let x = unsafe { _mm512_maskz_loadu_epi8(mask, x.add(t * cols + at)) };
        for (total, &quarter) in totals.iter_mut().zip(&quarters) {
            *total = _mm512_dpbusd_epi32(*total, quarter, x);
        }
    }
}

/// Separates the four quarters, each where it stands in the byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split(packed: __m512i) -> [__m512i; 4] {
    let mut quarters = [packed; 4];
    for (quarter, mask) in quarters.iter_mut().zip([0x03, 0x0c, 0x30, 0xc0u8]) {
        *quarter = _mm512_and_si512(packed, _mm512_set1_epi8(mask as i8));
    }
    quarters
}
