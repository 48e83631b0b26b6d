//! `neon-int8-i16`: int8 rows widened in registers, `smlal` and `smlal2` with 16-bit activations.
//!
//! Any partial sum is a sum of some of the products, each term of which is bounded by `127 * limit(cols)`
//! (`scalar::int8`): no order of additions can overflow 32 bits.

use std::arch::aarch64::*;

/// Columns of a step.
const WIDTH: usize = 16;
/// Rows that share one reading of the activations.
const ROWS: usize = 4;
/// Tokens that share one widening of a row.
const TOKENS: usize = 2;

/// The contract of `scalar::int8::int8_i16`.
#[target_feature(enable = "neon")]
pub fn int8_i16(rows: &[i8], cols: usize, x: &[i16], out: &mut [i32]) {
    if cols == 0 || x.is_empty() {
        out.fill(0);
        return;
    }
    let tokens = x.len() / cols;
    for (rows, out) in rows.chunks(ROWS * cols).zip(out.chunks_mut(ROWS * tokens)) {
        for token in (0..tokens).step_by(TOKENS) {
            let count = TOKENS.min(tokens - token);
            let x = &x[token * cols..][..count * cols];
            if rows.len() == ROWS * cols && count == TOKENS {
                put(&products::<ROWS, TOKENS>(rows, cols, x), token, tokens, out);
            } else if rows.len() == ROWS * cols {
                put(&products::<ROWS, 1>(rows, cols, x), token, tokens, out);
            } else {
                for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
                    for (x, out) in x.chunks_exact(cols).zip(&mut out[token..]) {
                        [[*out]] = products::<1, 1>(row, cols, x);
                    }
                }
            }
        }
    }
}

fn put<const R: usize, const T: usize>(sums: &[[i32; T]; R], token: usize, tokens: usize, out: &mut [i32]) {
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(tokens)) {
        out[token..token + T].copy_from_slice(sums);
    }
}

/// Returns the products of `R` rows with `T` tokens.
#[inline]
#[target_feature(enable = "neon")]
fn products<const R: usize, const T: usize>(rows: &[i8], cols: usize, x: &[i16]) -> [[i32; T]; R] {
    assert!(rows.len() == R * cols && x.len() == T * cols);
    let mut sums = [[vdupq_n_s32(0); T]; R];
    let whole = cols / WIDTH * WIDTH;
    for at in (0..whole).step_by(WIDTH) {
        // SAFETY: `at + 16 <= whole <= cols`; rows and tokens are whole, asserted.
        unsafe { add_step(&mut sums, rows.as_ptr().add(at), x.as_ptr().add(at), cols) };
    }
    let mut out = [[0; T]; R];
    for row in 0..R {
        for t in 0..T {
            let mut sum = vaddvq_s32(sums[row][t]);
            for at in whole..cols {
                sum += i32::from(rows[row * cols + at]) * i32::from(x[t * cols + at]);
            }
            out[row][t] = sum;
        }
    }
    out
}

/// Adds 16 columns.
///
/// # Safety
/// 16 elements can be read at `rows`, at `x`, and at the rows that follow each at distance `cols`: `R` and `T`
/// in all.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_step<const R: usize, const T: usize>(
    sums: &mut [[int32x4_t; T]; R],
    rows: *const i8,
    x: *const i16,
    cols: usize,
) {
    let mut activations = [[vdupq_n_s16(0); 2]; T];
    for (t, activations) in activations.iter_mut().enumerate() {
        // SAFETY: by the contract; `vld1q` asks for no alignment.
        *activations = unsafe { [vld1q_s16(x.add(t * cols)), vld1q_s16(x.add(t * cols + WIDTH / 2))] };
    }
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        let codes = unsafe { vld1q_s8(rows.add(row * cols)) };
        let wide = [vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes)];
        for (sum, x) in sums.iter_mut().zip(&activations) {
            for half in 0..2 {
                *sum = vmlal_s16(*sum, vget_low_s16(wide[half]), vget_low_s16(x[half]));
                *sum = vmlal_high_s16(*sum, wide[half], x[half]);
            }
        }
    }
}
