//! `avx-vnni-ternary-i8`: 8 vector operations for 128 weights and one token.
//!
//! As `avx512-ternary-i8` on 32 bytes: quarters are masked where they stand, `vpdpbusd` adds groups of four
//! products into 32 bits, and the factor `4^i` of quarter `i` is taken off each lane at the end. From three
//! tokens on a line is read twice, for two quarters each, which leaves registers for five tokens.
//!
//! Two instructions start in a cycle and each waits for the one before on its sum, so at least ten sums are
//! wanted: few tokens take two sets of them in turn, and tiles of four tokens are avoided.
//!
//! Bound: a step adds at most `4 * (2 * 64) * 128 = 2^16` to a lane, and `MAX_COLS / 32 = 2^15` steps reach
//! `2^31` only if every code is 2 and every activation -128, where the sum is `-2^31` and fits; with
//! activations of at most 127 the positive side stays below. Two sets of sums share the steps; together
//! they are that lane.

use std::arch::x86_64::*;
use std::slice;

use crate::x86_64::avx2::ternary::add_lanes;
use crate::x86_64::streams::two_streams;

const WIDTH: usize = 32;
/// Tokens that share the separated codes: ten of 16 registers are sums of two quarters, five hold the operands.
const TOKENS: usize = 5;
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
    if let [sum] = *sums {
        return one_token(codes, x, sum, out);
    }
    let mut start = 0;
    while start < tokens {
        let count = tile_tokens(tokens - start);
        let range = start..start + count;
        let (x, sums) = (&x[start * cols..], &sums[range.clone()]);
        // Activations of a tile stay in the first-level cache while all lines pass.
        for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
            let out = &mut out[range.clone()];
            // A function of its own for every count, so that each has all registers to itself.
            match count {
                1 => few::<1, true>(line, x, sums, out),
                2 => few::<2, false>(line, x, sums, out),
                3 => tile::<3, true>(line, x, sums, out),
                4 => tile::<4, false>(line, x, sums, out),
                _ => tile::<TOKENS, false>(line, x, sums, out),
            }
        }
        start = range.end;
    }
}

/// Returns how many of the tokens that are left the next tile takes: five or three wherever they add up.
fn tile_tokens(left: usize) -> usize {
    match left {
        7 => 4,
        0..=5 => left,
        _ if matches!(left % TOKENS, 0 | 3) => TOKENS,
        _ => 3,
    }
}

/// Writes the products of one token.
#[target_feature(enable = "avx2,avxvnni")]
fn one_token(codes: &[u8], x: &[i8], sum: i32, out: &mut [[i32; 4]]) {
    let (pairs, last) = two_streams(codes, x.len(), out);
    for (lines, [a_out, b_out]) in pairs {
        let [a, b] = pair(lines, x);
        write(slice::from_mut(a_out), &[sum], [a]);
        write(slice::from_mut(b_out), &[sum], [b]);
    }
    if let Some((line, out)) = last {
        few::<1, true>(line, x, &[sum], slice::from_mut(out));
    }
}

/// Returns the lanes of `sum(code * 4^i * x)` of the quarters of two lines of one length.
#[inline(never)]
#[target_feature(enable = "avx2,avxvnni")]
fn pair(lines: [&[u8]; 2], x: &[i8]) -> [[__m256i; 4]; 2] {
    let cols = x.len();
    assert!(lines.iter().all(|line| line.len() == cols));
    let mut sums = [[[_mm256_setzero_si256(); 4]; 1]; 2];
    let unrolled = cols / (UNROLL * WIDTH) * (UNROLL * WIDTH);
    for start in (0..unrolled).step_by(UNROLL * WIDTH) {
        for at in (start..start + UNROLL * WIDTH).step_by(WIDTH) {
            for (sums, line) in sums.iter_mut().zip(lines) {
                if at % (2 * WIDTH) == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(at + AHEAD).cast());
                }
                // SAFETY: columns up to `at + 32` exist in the lines and the token.
                unsafe { add_step::<1, 4, 0>(sums, line.as_ptr().add(at), x.as_ptr().add(at), cols) };
            }
        }
    }
    for (sums, line) in sums.iter_mut().zip(lines) {
        // Fewer columns than a turn of the loop above.
        let [rest] = pass::<1, 4, 0, false>(&line[unrolled..], &x[unrolled..]);
        for (sum, rest) in sums[0].iter_mut().zip(rest) {
            *sum = _mm256_add_epi32(*sum, rest);
        }
    }
    sums.map(|[sums]| sums)
}

/// Writes the products of the four quarters for one or two tokens: few enough sums for one pass.
#[inline(never)]
#[target_feature(enable = "avx2,avxvnni")]
fn few<const T: usize, const TWO: bool>(line: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    write(out, sums, pass::<T, 4, 0, TWO>(line, x));
}

/// Writes the products of the four quarters for `T` tokens, in one or `TWO` sets of sums.
#[inline(never)]
#[target_feature(enable = "avx2,avxvnni")]
fn tile<const T: usize, const TWO: bool>(line: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let lower = pass::<T, 2, 0, TWO>(line, x);
    let upper = pass::<T, 2, 2, TWO>(line, x);
    let mut totals = [[_mm256_setzero_si256(); 4]; T];
    for ((totals, lower), upper) in totals.iter_mut().zip(lower).zip(upper) {
        *totals = [lower[0], lower[1], upper[0], upper[1]];
    }
    write(out, sums, totals);
}

/// Takes the factors off, adds the lanes of each quarter and writes them.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn write<const T: usize>(out: &mut [[i32; 4]], sums: &[i32], totals: [[__m256i; 4]; T]) {
    for ((out, &sum), [a, b, c, d]) in out.iter_mut().zip(sums).zip(totals) {
        let quarters = [a, _mm256_srai_epi32::<2>(b), _mm256_srai_epi32::<4>(c), _mm256_srai_epi32::<6>(d)];
        // Codes are values + 1, so the sum of the activations came along once.
        let products = _mm_sub_epi32(add_lanes(quarters), _mm_set1_epi32(sum));
        // SAFETY: an array of 16 bytes; `storeu` asks for no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), products) };
    }
}

/// Returns the lanes of `sum(code * 4^i * x)` of `Q` quarters from quarter `FIRST`, for `T` tokens, from one
/// or `TWO` sets of sums.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn pass<const T: usize, const Q: usize, const FIRST: usize, const TWO: bool>(
    codes: &[u8],
    x: &[i8],
) -> [[__m256i; Q]; T] {
    let cols = codes.len();
    assert!(x.len() >= T * cols);
    let (mut sums, mut odd) = ([[_mm256_setzero_si256(); Q]; T], [[_mm256_setzero_si256(); Q]; T]);
    let whole = cols / WIDTH * WIDTH;
    let unrolled = cols / (UNROLL * WIDTH) * (UNROLL * WIDTH);
    for at in (0..unrolled).step_by(UNROLL * WIDTH) {
        for pair in (0..UNROLL).step_by(2) {
            let at = at + pair * WIDTH;
            if FIRST == 0 {
                _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(at + AHEAD).cast());
            }
            let odd = if TWO { &mut odd } else { &mut sums };
            // SAFETY: columns up to `at + 64` exist in the row and every token.
            unsafe {
                let (codes, x) = (codes.as_ptr().add(at), x.as_ptr().add(at));
                add_step::<T, Q, FIRST>(odd, codes.add(WIDTH), x.add(WIDTH), cols);
                add_step::<T, Q, FIRST>(&mut sums, codes, x, cols);
            }
        }
    }
    for at in (unrolled..whole).step_by(WIDTH) {
        // SAFETY: as above.
        unsafe { add_step::<T, Q, FIRST>(&mut sums, codes.as_ptr().add(at), x.as_ptr().add(at), cols) };
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
        unsafe {
            let x = padded.as_flattened().as_ptr();
            add_step::<T, Q, FIRST>(&mut sums, padded_codes.as_ptr(), x, WIDTH)
        };
    }
    for (sum, &odd) in sums.as_flattened_mut().iter_mut().zip(odd.as_flattened()) {
        *sum = _mm256_add_epi32(*sum, odd);
    }
    sums
}

/// Adds one step of 32 columns.
///
/// # Safety
/// 32 elements can be read at `codes`, at `x` and at each of the `T - 1` rows that follow at distance `cols`.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn add_step<const T: usize, const Q: usize, const FIRST: usize>(
    sums: &mut [[__m256i; Q]; T],
    codes: *const u8,
    x: *const i8,
    cols: usize,
) {
    // SAFETY: by the contract; `loadu` asks for no alignment.
    let packed = unsafe { _mm256_loadu_si256(codes.cast()) };
    let mut quarters = [packed; Q];
    for (index, quarter) in quarters.iter_mut().enumerate() {
        // Each quarter where it stands in the byte.
        *quarter = _mm256_and_si256(packed, _mm256_set1_epi8(3 << (2 * (FIRST + index))));
    }
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        let x = unsafe { _mm256_loadu_si256(x.add(t * cols).cast()) };
        for (sum, &quarter) in sums.iter_mut().zip(&quarters) {
            *sum = _mm256_dpbusd_avx_epi32(*sum, quarter, x);
        }
    }
}
