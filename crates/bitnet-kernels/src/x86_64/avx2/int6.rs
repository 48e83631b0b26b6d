//! `avx2-int6-planes`: 35 vector operations for 128 codes and one token.
//!
//! Bound: a code is at most 63 and a plane's value at most 64 in magnitude, so `vpmaddubsw` gives at most
//! `2 * 63 * 64 = 8,064` and four of them `32,256`, which 16 bits hold; their sums wrap in 32 bits, where only the
//! total has to fit (`scalar::int6`).

use std::arch::x86_64::*;

use super::ternary::horizontal_sum;
use crate::layout::int6_rows::{BIAS, BLOCK, BLOCK_BYTES, LANES};
use crate::scalar::int6::{Shape, combine};

/// Bytes of a register.
const WIDTH: usize = 32;
/// Tokens that share one separation of the codes.
const TOKENS: usize = 4;
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 8192;

/// The contract of `scalar::int6::int6_planes`.
#[target_feature(enable = "avx2")]
pub fn int6_planes(rows: &[u8], planes: &[i8], sums: &[i32], out: &mut [i32]) {
    let Some(shape) = Shape::of(planes, sums) else { return out.fill(0) };
    for (row, out) in rows.chunks_exact(shape.row_bytes).zip(out.chunks_exact_mut(sums.len())) {
        let tiles = planes.chunks(2 * TOKENS * shape.width).zip(sums.chunks(TOKENS));
        for ((planes, sums), out) in tiles.zip(out.chunks_mut(TOKENS)) {
            match sums.len() {
                1 => products::<1>(row, planes, sums, out),
                2 => products::<2>(row, planes, sums, out),
                3 => products::<3>(row, planes, sums, out),
                _ => products::<TOKENS>(row, planes, sums, out),
            }
        }
    }
}

/// Writes the products of a row with `T` tokens.
#[inline]
#[target_feature(enable = "avx2")]
fn products<const T: usize>(row: &[u8], planes: &[i8], sums: &[i32], out: &mut [i32]) {
    let blocks = row.as_chunks::<BLOCK_BYTES>().0;
    let width = blocks.len() * BLOCK;
    assert!(planes.len() == 2 * T * width && sums.len() == T && out.len() == T);
    let mut totals = [[_mm256_setzero_si256(); 2]; T];
    for (index, block) in blocks.iter().enumerate() {
        for line in [0, 64, 128] {
            _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(AHEAD + line).cast());
        }
        for half in [0, WIDTH] {
            let codes = separate(block, half);
            for (t, totals) in totals.iter_mut().enumerate() {
                for (plane, total) in totals.iter_mut().enumerate() {
                    let at = (2 * t + plane) * width + index * BLOCK + half;
                    let mut products = [_mm256_setzero_si256(); 4];
                    for (k, product) in products.iter_mut().enumerate() {
                        // SAFETY: `half + 64 * 3 + 32 <= 256`, within block `index` of one of `2 T` planes of
                        // `width`, which `planes` has; `loadu` asks for no alignment.
                        let x = unsafe { _mm256_loadu_si256(planes.as_ptr().add(at + k * LANES).cast()) };
                        *product = _mm256_maddubs_epi16(codes[k], x);
                    }
                    let [a, b, c, d] = products;
                    let sum = _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
                    *total = _mm256_add_epi32(*total, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
                }
            }
        }
    }
    for ((out, [high, low]), &sum) in out.iter_mut().zip(totals).zip(sums) {
        let bias = BIAS.wrapping_mul(sum).wrapping_neg();
        *out = combine([horizontal_sum(low), bias], horizontal_sum(high));
    }
}

/// Returns the codes of 32 columns from each of `half`, `half + 64`, `half + 128` and `half + 192`.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::x86_64) fn separate(block: &[u8; BLOCK_BYTES], half: usize) -> [__m256i; 4] {
    assert!(half + WIDTH <= LANES);
    // SAFETY: 32 bytes from `half` of each of the three parts of 64, asserted.
    let [low, high, upper] =
        [0, 1, 2].map(|part| unsafe { _mm256_loadu_si256(block.as_ptr().add(part * LANES + half).cast()) });
    let (nibble, crumb) = (_mm256_set1_epi8(0x0f), _mm256_set1_epi8(0x30));
    let join = |low, upper| _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(upper, crumb));
    [
        join(low, _mm256_slli_epi16::<4>(upper)),
        join(high, _mm256_slli_epi16::<2>(upper)),
        join(_mm256_srli_epi16::<4>(low), upper),
        join(_mm256_srli_epi16::<4>(high), _mm256_srli_epi16::<2>(upper)),
    ]
}
