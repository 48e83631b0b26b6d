//! `avx512-int6-planes`: 21 vector operations for 256 codes and one token.
//!
//! Sums wrap in 32 bits, where only the total has to fit (`scalar::int6`).

use std::arch::x86_64::*;
use std::slice;

use crate::layout::int6_rows::{BIAS, BLOCK, BLOCK_BYTES, LANES};
use crate::scalar::int6::{Shape, combine};
use crate::x86_64::streams::two_streams;

/// Tokens that share one separation of the codes.
const TOKENS: usize = 4;
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 4096;

/// The contract of `scalar::int6::int6_planes`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn int6_planes(rows: &[u8], planes: &[i8], sums: &[i32], out: &mut [i32]) {
    let Some(shape) = Shape::of(planes, sums) else { return out.fill(0) };
    if sums.len() == 1 {
        let (pairs, last) = two_streams(rows, shape.row_bytes, out);
        for (rows, [a, b]) in pairs {
            products::<2, 1>(rows, planes, sums, [slice::from_mut(a), slice::from_mut(b)]);
        }
        if let Some((row, out)) = last {
            products::<1, 1>([row], planes, sums, [slice::from_mut(out)]);
        }
        return;
    }
    for (row, out) in rows.chunks_exact(shape.row_bytes).zip(out.chunks_exact_mut(sums.len())) {
        let tiles = planes.chunks(2 * TOKENS * shape.width).zip(sums.chunks(TOKENS));
        for ((planes, sums), out) in tiles.zip(out.chunks_mut(TOKENS)) {
            match sums.len() {
                1 => products::<1, 1>([row], planes, sums, [out]),
                2 => products::<1, 2>([row], planes, sums, [out]),
                3 => products::<1, 3>([row], planes, sums, [out]),
                _ => products::<1, TOKENS>([row], planes, sums, [out]),
            }
        }
    }
}

/// Writes the products of `R` rows of one length with `T` tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn products<const R: usize, const T: usize>(
    rows: [&[u8]; R],
    planes: &[i8],
    sums: &[i32],
    out: [&mut [i32]; R],
) {
    let rows = rows.map(|row| row.as_chunks::<BLOCK_BYTES>().0);
    let blocks = rows[0].len();
    let width = blocks * BLOCK;
    assert!(rows.iter().all(|row| row.len() == blocks));
    assert!(planes.len() == 2 * T * width && sums.len() == T && out.iter().all(|out| out.len() == T));
    // Two sums of each plane in turn: each instruction waits for the one before on its sum.
    let mut totals = [[[[_mm512_setzero_si512(); 2]; 2]; T]; R];
    for index in 0..blocks {
        for (row, totals) in rows.iter().zip(&mut totals) {
            let block = &row[index];
            for line in [0, 64, 128] {
                _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(AHEAD + line).cast());
            }
            let codes = separate(block);
            for (t, totals) in totals.iter_mut().enumerate() {
                for (plane, totals) in totals.iter_mut().enumerate() {
                    let at = (2 * t + plane) * width + index * BLOCK;
                    for (k, &codes) in codes.iter().enumerate() {
                        // SAFETY: `64 * 3 + 64 = 256` columns, block `index` of one of `2 T` planes of `width`, which
                        // `planes` has; `loadu` asks for no alignment.
                        let x = unsafe { _mm512_loadu_si512(planes.as_ptr().add(at + k * LANES).cast()) };
                        totals[k % 2] = _mm512_dpbusd_epi32(totals[k % 2], codes, x);
                    }
                }
            }
        }
    }
    for (out, totals) in out.into_iter().zip(totals) {
        for ((out, totals), &sum) in out.iter_mut().zip(totals).zip(sums) {
            let [high, low] = totals.map(|[a, b]| _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)));
            *out = combine([low, BIAS.wrapping_mul(sum).wrapping_neg()], high);
        }
    }
}

/// Returns the codes of a block, 64 columns a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn separate(block: &[u8; BLOCK_BYTES]) -> [__m512i; 4] {
    // SAFETY: three parts of 64 bytes; `loadu` asks for no alignment.
    let [low, high, upper] =
        [0, 1, 2].map(|part| unsafe { _mm512_loadu_si512(block.as_ptr().add(part * LANES).cast()) });
    let (nibble, crumb) = (_mm512_set1_epi8(0x0f), _mm512_set1_epi8(0x30));
    // `upper & crumb | low & nibble`.
    const AND_OR: i32 = 0xea;
    let join = |low, upper| _mm512_ternarylogic_epi32::<AND_OR>(upper, crumb, _mm512_and_si512(low, nibble));
    [
        join(low, _mm512_slli_epi16::<4>(upper)),
        join(high, _mm512_slli_epi16::<2>(upper)),
        join(_mm512_srli_epi16::<4>(low), upper),
        join(_mm512_srli_epi16::<4>(high), _mm512_srli_epi16::<2>(upper)),
    ]
}
