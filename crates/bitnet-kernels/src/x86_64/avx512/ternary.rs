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
/// Tokens that share the separated codes: 24 of 32 registers are sums.
const TOKENS: usize = 6;
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
    for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
        for (index, out) in out.chunks_mut(TOKENS).enumerate() {
            let x = &x[index * TOKENS * cols..];
            match out.len() {
                1 => out.copy_from_slice(&tile::<1>(line, x)),
                2 => out.copy_from_slice(&tile::<2>(line, x)),
                3 => out.copy_from_slice(&tile::<3>(line, x)),
                4 => out.copy_from_slice(&tile::<4>(line, x)),
                5 => out.copy_from_slice(&tile::<5>(line, x)),
                _ => out.copy_from_slice(&tile::<TOKENS>(line, x)),
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
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn tile<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 4]; T] {
    let cols = codes.len();
    assert!(x.len() >= T * cols);
    let mut totals = [[_mm512_setzero_si512(); 4]; T];
    let mut at = 0;
    while at < cols {
        // The last step may be short: what lies past the row reads as 0 and adds nothing.
        let lanes = WIDTH.min(cols - at);
        let mask = u64::MAX >> (WIDTH - lanes);
        // SAFETY: the mask admits `lanes` bytes, which lie within the row; a masked load touches no other.
        let packed = unsafe { _mm512_maskz_loadu_epi8(mask, codes.as_ptr().add(at).cast()) };
        _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(at + AHEAD).cast());
        let quarters = split(packed);
        for t in 0..T {
            // SAFETY: as above, within the row of token `t`.
            let x = unsafe { _mm512_maskz_loadu_epi8(mask, x.as_ptr().add(t * cols + at)) };
            for i in 0..4 {
                totals[t][i] = _mm512_dpbusd_epi32(totals[t][i], quarters[i], x);
            }
        }
        at += WIDTH;
    }
    totals.map(|[a, b, c, d]| {
        [
            _mm512_reduce_add_epi32(a),
            _mm512_reduce_add_epi32(_mm512_srai_epi32::<2>(b)),
            _mm512_reduce_add_epi32(_mm512_srai_epi32::<4>(c)),
            _mm512_reduce_add_epi32(_mm512_srai_epi32::<6>(d)),
        ]
    })
}

/// Separates the four quarters, each where it stands in the byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split(packed: __m512i) -> [__m512i; 4] {
    [0x03, 0x0c, 0x30, 0xc0u8].map(|mask| _mm512_and_si512(packed, _mm512_set1_epi8(mask as i8)))
}
