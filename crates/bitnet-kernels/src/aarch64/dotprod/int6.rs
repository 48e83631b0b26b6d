//! `dotprod-int6-planes`: as `neon-int6-planes`, with `sdot` for every sixteen products.
//!
//! Sums wrap in 32 bits, where only the total has to fit (`scalar::int6`).

use std::arch::aarch64::*;

use super::ternary::sdot;
use crate::aarch64::neon::int6::separate;
use crate::layout::int6_rows::{BIAS, BLOCK, BLOCK_BYTES, LANES};
use crate::scalar::int6::{Shape, combine};

/// Bytes of a register.
const WIDTH: usize = 16;
/// Tokens that share one separation of the codes.
const TOKENS: usize = 4;

/// The contract of `scalar::int6::int6_planes`.
#[target_feature(enable = "neon,dotprod")]
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
#[target_feature(enable = "neon,dotprod")]
fn products<const T: usize>(row: &[u8], planes: &[i8], sums: &[i32], out: &mut [i32]) {
    let blocks = row.as_chunks::<BLOCK_BYTES>().0;
    let width = blocks.len() * BLOCK;
    assert!(planes.len() == 2 * T * width && sums.len() == T && out.len() == T);
    // Two sums of each plane in turn: each instruction waits for the one before on its sum.
    let mut totals = [[[vdupq_n_s32(0); 2]; 2]; T];
    for (index, block) in blocks.iter().enumerate() {
        for part in (0..LANES).step_by(WIDTH) {
            let codes = separate(block, part);
            for (t, totals) in totals.iter_mut().enumerate() {
                for (plane, totals) in totals.iter_mut().enumerate() {
                    let at = (2 * t + plane) * width + index * BLOCK + part;
                    for (k, &codes) in codes.iter().enumerate() {
                        // SAFETY: `part + 64 * 3 + 16 <= 256`, within block `index` of one of `2 T` planes of
                        // `width`, which `planes` has; `vld1q` asks for no alignment.
                        let x = unsafe { vld1q_s8(planes.as_ptr().add(at + k * LANES)) };
                        totals[k % 2] = sdot(totals[k % 2], codes, x);
                    }
                }
            }
        }
    }
    for ((out, totals), &sum) in out.iter_mut().zip(totals).zip(sums) {
        let [high, low] = totals.map(|[a, b]| vaddvq_s32(vaddq_s32(a, b)));
        *out = combine([low, BIAS.wrapping_mul(sum).wrapping_neg()], high);
    }
}
