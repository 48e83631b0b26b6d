//! `neon-int6-planes`: `smull`, `smlal` and their second halves on codes separated in registers.
//!
//! Bound: a code is at most 63 and a plane's value at most 64 in magnitude, so that eight products are at most
//! `8 * 63 * 64 = 32,256`, which 16 bits hold; their sums wrap in 32 bits, where only the total has to fit
//! (`scalar::int6`).

use std::arch::aarch64::*;

use crate::layout::int6_rows::{BIAS, BLOCK, BLOCK_BYTES, LANES};
use crate::scalar::int6::{Shape, combine};

/// Bytes of a register.
const WIDTH: usize = 16;
/// Tokens that share one separation of the codes.
const TOKENS: usize = 4;

/// The contract of `scalar::int6::int6_planes`.
#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn products<const T: usize>(row: &[u8], planes: &[i8], sums: &[i32], out: &mut [i32]) {
    let blocks = row.as_chunks::<BLOCK_BYTES>().0;
    let width = blocks.len() * BLOCK;
    assert!(planes.len() == 2 * T * width && sums.len() == T && out.len() == T);
    let mut totals = [[vdupq_n_s32(0); 2]; T];
    for (index, block) in blocks.iter().enumerate() {
        for part in (0..LANES).step_by(WIDTH) {
            let codes = separate(block, part);
            for (t, totals) in totals.iter_mut().enumerate() {
                for (plane, total) in totals.iter_mut().enumerate() {
                    let at = (2 * t + plane) * width + index * BLOCK + part;
                    // SAFETY: `part + 64 * 3 + 16 <= 256`, within block `index` of one of `2 T` planes of `width`,
                    // which `planes` has; `vld1q` asks for no alignment.
                    let x = [0, 1, 2, 3].map(|k| unsafe { vld1q_s8(planes.as_ptr().add(at + k * LANES)) });
                    let mut sum = vmull_s8(vget_low_s8(codes[0]), vget_low_s8(x[0]));
                    sum = vmlal_high_s8(sum, codes[0], x[0]);
                    for k in 1..4 {
                        sum = vmlal_s8(sum, vget_low_s8(codes[k]), vget_low_s8(x[k]));
                        sum = vmlal_high_s8(sum, codes[k], x[k]);
                    }
                    *total = vpadalq_s16(*total, sum);
                }
            }
        }
    }
    for ((out, [high, low]), &sum) in out.iter_mut().zip(totals).zip(sums) {
        let bias = BIAS.wrapping_mul(sum).wrapping_neg();
        *out = combine([vaddvq_s32(low), bias], vaddvq_s32(high));
    }
}

/// Returns the codes of 16 columns from each of `part`, `part + 64`, `part + 128` and `part + 192`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn separate(block: &[u8; BLOCK_BYTES], part: usize) -> [int8x16_t; 4] {
    assert!(part + WIDTH <= LANES);
    // SAFETY: 16 bytes from `part` of each of the three parts of 64, asserted.
    let [low, high, upper] = [0, 1, 2].map(|at| unsafe { vld1q_u8(block.as_ptr().add(at * LANES + part)) });
    let (nibble, crumb) = (vdupq_n_u8(0x0f), vdupq_n_u8(0x30));
    let joined = [
        vorrq_u8(vandq_u8(low, nibble), vandq_u8(vshlq_n_u8::<4>(upper), crumb)),
        vorrq_u8(vandq_u8(high, nibble), vandq_u8(vshlq_n_u8::<2>(upper), crumb)),
        vorrq_u8(vshrq_n_u8::<4>(low), vandq_u8(upper, crumb)),
        vorrq_u8(vshrq_n_u8::<4>(high), vandq_u8(vshrq_n_u8::<2>(upper), crumb)),
    ];
    joined.map(|codes| vreinterpretq_s8_u8(codes))
}
