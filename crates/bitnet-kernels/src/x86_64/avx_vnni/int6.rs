//! `avx-vnni-int6-planes`: as `avx2-int6-planes`, with `vpdpbusd` in the place of three instructions.
//!
//! Sums wrap in 32 bits, where only the total has to fit (`scalar::int6`).

use std::arch::x86_64::*;

use crate::layout::int6_rows::{BIAS, BLOCK, BLOCK_BYTES, LANES};
use crate::scalar::int6::{Shape, combine};
use crate::x86_64::avx2::int6::separate;
use crate::x86_64::avx2::ternary::horizontal_sum;
use crate::x86_64::streams::two_streams;

/// Tokens that share one separation of the codes.
const TOKENS: usize = 3;
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 4096;

/// The contract of `scalar::int6::int6_planes`.
#[target_feature(enable = "avx2,avxvnni")]
pub fn int6_planes(rows: &[u8], planes: &[i8], sums: &[i32], out: &mut [i32]) {
    let Some(shape) = Shape::of(planes, sums) else { return out.fill(0) };
    if sums.len() == 1 {
        let (pairs, last) = two_streams(rows, shape.row_bytes, out);
        for ([a, b], [first, second]) in pairs {
            products::<1>(a, planes, sums, std::slice::from_mut(first));
            products::<1>(b, planes, sums, std::slice::from_mut(second));
        }
        if let Some((row, out)) = last {
            products::<1>(row, planes, sums, std::slice::from_mut(out));
        }
        return;
    }
    for (row, out) in rows.chunks_exact(shape.row_bytes).zip(out.chunks_exact_mut(sums.len())) {
        let tiles = planes.chunks(2 * TOKENS * shape.width).zip(sums.chunks(TOKENS));
        for ((planes, sums), out) in tiles.zip(out.chunks_mut(TOKENS)) {
            match sums.len() {
                1 => products::<1>(row, planes, sums, out),
                2 => products::<2>(row, planes, sums, out),
                _ => products::<TOKENS>(row, planes, sums, out),
            }
        }
    }
}

/// Writes the products of a row with `T` tokens.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn products<const T: usize>(row: &[u8], planes: &[i8], sums: &[i32], out: &mut [i32]) {
    let blocks = row.as_chunks::<BLOCK_BYTES>().0;
    let width = blocks.len() * BLOCK;
    assert!(planes.len() == 2 * T * width && sums.len() == T && out.len() == T);
    // Two sums of each plane in turn: each instruction waits for the one before on its sum.
    let mut totals = [[[_mm256_setzero_si256(); 2]; 2]; T];
    for (index, block) in blocks.iter().enumerate() {
        for line in [0, 64, 128] {
            _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(AHEAD + line).cast());
        }
        for half in [0, LANES / 2] {
            let codes = separate(block, half);
            for (t, totals) in totals.iter_mut().enumerate() {
                for (plane, totals) in totals.iter_mut().enumerate() {
                    let at = (2 * t + plane) * width + index * BLOCK + half;
                    for (k, &codes) in codes.iter().enumerate() {
                        // SAFETY: `half + 64 * 3 + 32 <= 256`, within block `index` of one of `2 T` planes of
                        // `width`, which `planes` has; `loadu` asks for no alignment.
                        let x = unsafe { _mm256_loadu_si256(planes.as_ptr().add(at + k * LANES).cast()) };
                        totals[k % 2] = _mm256_dpbusd_avx_epi32(totals[k % 2], codes, x);
                    }
                }
            }
        }
    }
    for ((out, totals), &sum) in out.iter_mut().zip(totals).zip(sums) {
        let [high, low] = totals.map(|[a, b]| horizontal_sum(_mm256_add_epi32(a, b)));
        *out = combine([low, BIAS.wrapping_mul(sum).wrapping_neg()], high);
    }
}
