//! `dotprod-ternary-i8`: 20 vector operations for 128 weights and one token, 12.5 from four tokens on.
//!
//! Codes are separated as in `neon-ternary-i8`; `sdot` adds groups of four products into 32 bits. The
//! instruction is written out because its intrinsic is not stable.
//!
//! Bound: a step adds at most `4 * (2 * 16) * 128 = 2^14` to a lane, and `MAX_COLS / 16 = 2^16` steps reach
//! `2^30`.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::aarch64::neon::ternary::{WIDTH, padded_rest, quarters, split, subtract_sums};

/// Tokens that share one separation of the codes.
const TOKENS: usize = 4;

/// The contract of `scalar::ternary::row_quarters_i8`.
#[target_feature(enable = "neon,dotprod")]
pub fn row_quarters_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; 4]);
        return;
    }
    let cols = x.len() / tokens;
    for start in (0..tokens).step_by(TOKENS) {
        let x = &x[start * cols..];
        let end = tokens.min(start + TOKENS);
        for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
            let out = &mut out[start..end];
            match out.len() {
                1 => out.copy_from_slice(&products::<1>(line, x)),
                2 => out.copy_from_slice(&products::<2>(line, x)),
                3 => out.copy_from_slice(&products::<3>(line, x)),
                _ => out.copy_from_slice(&products::<TOKENS>(line, x)),
            }
        }
    }
    subtract_sums(sums, out);
}

/// Returns `sum(code * x)` of the four quarters for `T` tokens.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn products<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 4]; T] {
    let cols = codes.len();
    assert!(x.len() >= T * cols);
    let mut sums = [[vdupq_n_s32(0); 4]; T];
    let whole = cols / WIDTH * WIDTH;
    for at in (0..whole).step_by(WIDTH) {
        // SAFETY: `at + 16 <= whole <= cols`, and `x` holds `T` rows of `cols`, asserted.
        unsafe { add_step(&mut sums, codes.as_ptr().add(at), x.as_ptr().add(at), cols) };
    }
    if whole < cols {
        let (codes, x) = padded_rest::<T>(codes, x, whole);
        // SAFETY: 16 codes, and `T` rows of 16 activations.
        unsafe { add_step(&mut sums, codes.as_ptr(), x.as_flattened().as_ptr(), WIDTH) };
    }
    let mut out = [[0; 4]; T];
    for (out, sums) in out.iter_mut().zip(&sums) {
        *out = quarters(sums);
    }
    out
}

/// Adds one step of 16 columns.
///
/// # Safety
/// 16 bytes can be read at `codes`, at `x` and at each of the `T - 1` rows that follow at distance `cols`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_step<const T: usize>(
    sums: &mut [[int32x4_t; 4]; T],
    codes: *const u8,
    x: *const i8,
    cols: usize,
) {
    // SAFETY: by the contract.
    let quarters = unsafe { split(codes) };
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: by the contract; `vld1q` asks for no alignment.
        let x = unsafe { vld1q_s8(x.add(t * cols)) };
        for quarter in 0..4 {
            sums[quarter] = sdot(sums[quarter], quarters[quarter], x);
        }
    }
}

/// Adds to each lane of `sum` the products of the four lanes of `a` and `b` in its place.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes its registers only; the features are this function's own.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
