//! `avx512-ternary-i8`: 8 vector operations for 256 weights and one token.
//!
//! One load of 64 packed bytes gives 4 x 64 codes. The four quarters are masked where they stand in the byte,
//! so that quarter `i` carries a factor `4^i`; `vpdpbusd` multiplies unsigned codes by signed activations and
//! adds groups of four straight into 32 bits. The factor is taken off each lane before the lanes are added.
//!
//! Bound: a step adds at most `4 * (2 * 64) * 128 = 2^16` to a lane, and `MAX_COLS / 64 = 2^14` steps reach
//! `2^30`. Without their factors all lanes together stay below `2 * 128 * 2^20 = 2^28`.

use std::arch::x86_64::*;

const WIDTH: usize = 64;
/// Tokens that share the separated codes; six, with 24 of 32 registers as sums, measured a sixth slower.
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
    // Activations of a tile stay in the first-level cache while all lines pass.
    for start in (0..tokens).step_by(TOKENS) {
        let x = &x[start * cols..];
        for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
            let out = &mut out[start..tokens.min(start + TOKENS)];
            match out.len() {
                1 => out.copy_from_slice(&tile::<1>(line, x)),
                2 => out.copy_from_slice(&tile::<2>(line, x)),
                3 => out.copy_from_slice(&tile::<3>(line, x)),
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
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn tile<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 4]; T] {
    let cols = codes.len();
    assert!(x.len() >= T * cols);
    let mut totals = [[_mm512_setzero_si512(); 4]; T];
    let unrolled = cols / (2 * WIDTH) * (2 * WIDTH);
    for at in (0..unrolled).step_by(2 * WIDTH) {
        for step in [at, at + WIDTH] {
            _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(step + AHEAD).cast());
            // SAFETY: columns up to `step + 64` exist in the row and every token.
            unsafe { add_step(&mut totals, u64::MAX, codes.as_ptr(), x.as_ptr(), cols, step) };
        }
    }
    for at in (unrolled..cols).step_by(WIDTH) {
        // The last step may be short: what lies past the row reads as 0 and adds nothing.
        let mask = u64::MAX >> (WIDTH - WIDTH.min(cols - at));
        // SAFETY: the columns that the mask admits exist.
        unsafe { add_step(&mut totals, mask, codes.as_ptr(), x.as_ptr(), cols, at) };
    }
    let mut out = [[0; 4]; T];
    for (out, [a, b, c, d]) in out.iter_mut().zip(totals) {
        *out = [
            _mm512_reduce_add_epi32(a),
            _mm512_reduce_add_epi32(_mm512_srai_epi32::<2>(b)),
            _mm512_reduce_add_epi32(_mm512_srai_epi32::<4>(c)),
            _mm512_reduce_add_epi32(_mm512_srai_epi32::<6>(d)),
        ];
    }
    out
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
