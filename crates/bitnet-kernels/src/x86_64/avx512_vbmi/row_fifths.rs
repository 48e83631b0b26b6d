//! `avx512-vbmi-row-fifths-i8`: 16 vector operations for 320 weights and one token.
//!
//! The fifth code of a byte is found by two comparisons; what remains is below 81, which `vpermi2b` turns
//! into the other four codes, two bits each, as row quarters have them: they are masked where they stand, so
//! that code `i` carries a factor `4^i`, which is taken off each lane before the lanes are added.
//!
//! Bound: a step adds at most `4 * (2 * 64) * 128 = 2^16` to a lane, and `MAX_COLS / 64 = 2^14` steps reach
//! `2^30`. Without their factors all lanes together stay below `2 * 128 * 2^20 = 2^28`.

use std::arch::x86_64::*;

use crate::layout::row_fifths;

const WIDTH: usize = 64;
/// Tokens that share the separated codes: 20 of 32 registers are sums.
const TOKENS: usize = 4;
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 4096;

/// The lower four codes of every number below 81, two bits each.
static LOWER: [u8; 128] = {
    let mut table = [0; 128];
    let mut byte = 0;
    while byte < 81 {
        let [a, b, c, d, _] = row_fifths::codes(byte as u8);
        table[byte] = a | b << 2 | c << 4 | d << 6;
        byte += 1;
    }
    table
};

/// The contract of `scalar::ternary::row_fifths_i8`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512vbmi")]
pub fn row_fifths_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 5]]) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; 5]);
        return;
    }
    let cols = x.len() / tokens;
    for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
        for (x, out) in x.chunks(TOKENS * cols).zip(out.chunks_mut(TOKENS)) {
            match out.len() {
                1 => out.copy_from_slice(&tile::<1>(line, x)),
                2 => out.copy_from_slice(&tile::<2>(line, x)),
                3 => out.copy_from_slice(&tile::<3>(line, x)),
                _ => out.copy_from_slice(&tile::<TOKENS>(line, x)),
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
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512vbmi")]
fn tile<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 5]; T] {
    let cols = codes.len();
    assert!(x.len() == T * cols);
    let mut totals = [[_mm512_setzero_si512(); 5]; T];
    let whole = cols / WIDTH * WIDTH;
    let unrolled = cols / (2 * WIDTH) * (2 * WIDTH);
    for at in (0..unrolled).step_by(2 * WIDTH) {
        for step in [at, at + WIDTH] {
            _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(step + AHEAD).cast());
            // SAFETY: columns up to `step + 64` exist in the line and every token.
            unsafe { add_step(&mut totals, u64::MAX, codes.as_ptr(), x.as_ptr(), cols, step) };
        }
    }
    if unrolled < whole {
        // SAFETY: as above.
        unsafe { add_step(&mut totals, u64::MAX, codes.as_ptr(), x.as_ptr(), cols, unrolled) };
    }
    if whole < cols {
        // What lies past the row reads as activations of 0 and adds nothing.
        let mask = u64::MAX >> (WIDTH - (cols - whole));
        // SAFETY: the columns that the mask admits exist.
        unsafe { add_step(&mut totals, mask, codes.as_ptr(), x.as_ptr(), cols, whole) };
    }
    let mut out = [[0; 5]; T];
    for (out, [a, b, c, d, e]) in out.iter_mut().zip(totals) {
        *out = [
            _mm512_reduce_add_epi32(a),
            _mm512_reduce_add_epi32(_mm512_srai_epi32::<2>(b)),
            _mm512_reduce_add_epi32(_mm512_srai_epi32::<4>(c)),
            _mm512_reduce_add_epi32(_mm512_srai_epi32::<6>(d)),
            _mm512_reduce_add_epi32(e),
        ];
    }
    out
}

/// Adds the columns of `mask` from column `at`.
///
/// # Safety
/// `codes` has `cols` elements and `x` `T` rows of as many; the columns of the mask lie below `cols`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512vbmi")]
unsafe fn add_step<const T: usize>(
    totals: &mut [[__m512i; 5]; T],
    mask: u64,
    codes: *const u8,
    x: *const i8,
    cols: usize,
    at: usize,
) {
    // SAFETY: by the contract; a masked load touches no other byte.
    let packed = unsafe { _mm512_maskz_loadu_epi8(mask, codes.add(at).cast()) };
    let parts = split(packed);
    for (t, totals) in totals.iter_mut().enumerate() {
        // SAFETY: as above.
        let x = unsafe { _mm512_maskz_loadu_epi8(mask, x.add(t * cols + at)) };
        for (total, &part) in totals.iter_mut().zip(&parts) {
            *total = _mm512_dpbusd_epi32(*total, part, x);
        }
    }
}

/// Separates the five codes: four where they stand in two bits each, the fifth plain.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn split(packed: __m512i) -> [__m512i; 5] {
    let (lower, fifth) = separate(packed);
    let mut parts = [fifth; 5];
    for (part, mask) in parts.iter_mut().zip([0x03, 0x0c, 0x30, 0xc0u8]) {
        *part = _mm512_and_si512(lower, _mm512_set1_epi8(mask as i8));
    }
    parts
}

/// Returns the lower four codes of every byte, two bits each, and the fifth.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub fn separate(packed: __m512i) -> (__m512i, __m512i) {
    // SAFETY: two halves of a table of 128 bytes.
    let (low, high) = unsafe {
        (_mm512_loadu_si512(LOWER.as_ptr().cast()), _mm512_loadu_si512(LOWER.as_ptr().add(WIDTH).cast()))
    };
    let place = _mm512_set1_epi8(81);
    let one = _mm512_set1_epi8(1);
    let first = _mm512_cmpge_epu8_mask(packed, place);
    let second = _mm512_cmpge_epu8_mask(packed, _mm512_set1_epi8(162u8 as i8));
    let rest = _mm512_mask_sub_epi8(packed, first, packed, place);
    let rest = _mm512_mask_sub_epi8(rest, second, rest, place);
    let fifth = _mm512_maskz_mov_epi8(first, one);
    let fifth = _mm512_mask_add_epi8(fifth, second, fifth, one);
    (_mm512_permutex2var_epi8(low, rest, high), fifth)
}
