//! `neon-ternary-i8`: 29 vector operations for 128 weights and one token, 21 from four tokens on.
//!
//! One load of 16 bytes gives 4 x 16 codes. The first three quarters are masked where they stand and carry
//! the factors 1, 4 and 16 of their places, which are taken off the finished sums; the last is shifted down,
//! so that all codes are non-negative as signed bytes. `smlal` and `smlal2` add the products of the two halves
//! into 16 bits, `sadalp` widens those to 32.

use std::arch::aarch64::*;

/// Bytes of a register.
pub const WIDTH: usize = 16;
/// Steps of 16 columns whose 16-bit sums provably fit for the factors 1 and 4.
///
/// A lane takes two products a step, each `code * factor * x` of magnitude at most `2 * 4 * 128 = 2^10`, so
/// 16 steps reach at most `16 * 2 * 2^10 = 2^15`: the negative side meets `i16::MIN` exactly, the positive
/// one stays below since `x <= 127`.
const STEPS: usize = 16;
/// Steps whose 16-bit sums provably fit for the factor 16: a fourth of [`STEPS`].
const RUN: usize = 4;
/// The quarter that carries the factor 16.
const WIDEST: usize = 2;
/// Tokens that share one separation of the codes.
const TOKENS: usize = 4;

/// The contract of `scalar::ternary::row_quarters_i8`.
#[target_feature(enable = "neon")]
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

/// Takes off what codes add: they are values + 1, so the sum of the activations came along once.
pub fn subtract_sums(sums: &[i32], out: &mut [[i32; 4]]) {
    for out in out.chunks_exact_mut(sums.len()) {
        for (out, &sum) in out.iter_mut().zip(sums) {
            for out in out {
                *out -= sum;
            }
        }
    }
}

/// Running sums of the four quarters for `T` tokens.
///
/// A 32-bit lane takes a fourth of the columns of a row, at most `MAX_COLS / 4 = 2^18` terms of at most
/// `2 * 16 * 128 = 2^12`.
struct Sums<const T: usize> {
    narrow: [[int16x8_t; 4]; T],
    wide: [[int32x4_t; 4]; T],
}

/// Returns `sum(code * x)` of the four quarters for `T` tokens.
#[inline]
#[target_feature(enable = "neon")]
fn products<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 4]; T] {
    let cols = codes.len();
    assert!(x.len() >= T * cols);
    let mut sums = Sums::<T> { narrow: [[vdupq_n_s16(0); 4]; T], wide: [[vdupq_n_s32(0); 4]; T] };
    let whole = cols / WIDTH * WIDTH;
    let blocks = cols / (STEPS * WIDTH) * (STEPS * WIDTH);
    for block in (0..blocks).step_by(STEPS * WIDTH) {
        for run in (block..block + STEPS * WIDTH).step_by(RUN * WIDTH) {
            for step in 0..RUN {
                let at = run + step * WIDTH;
                // SAFETY: `at + 16 <= blocks <= cols`, and `x` holds `T` rows of `cols`, asserted.
                unsafe { add_step(&mut sums.narrow, codes.as_ptr().add(at), x.as_ptr().add(at), cols) };
            }
            widen_quarter(&mut sums, WIDEST);
        }
        for quarter in [0, 1, 3] {
            widen_quarter(&mut sums, quarter);
        }
    }
    // Less than a block is left; widening all quarters at each run stays within their bounds.
    for run in (blocks..whole).step_by(RUN * WIDTH) {
        for at in (run..whole.min(run + RUN * WIDTH)).step_by(WIDTH) {
            // SAFETY: `at + 16 <= whole <= cols`, and `x` holds `T` rows of `cols`, asserted.
            unsafe { add_step(&mut sums.narrow, codes.as_ptr().add(at), x.as_ptr().add(at), cols) };
        }
        widen_all(&mut sums);
    }
    if whole < cols {
        let (codes, x) = padded_rest::<T>(codes, x, whole);
        // SAFETY: 16 codes, and `T` rows of 16 activations.
        unsafe { add_step(&mut sums.narrow, codes.as_ptr(), x.as_flattened().as_ptr(), WIDTH) };
        widen_all(&mut sums);
    }
    let mut out = [[0; 4]; T];
    for (out, wide) in out.iter_mut().zip(&sums.wide) {
        *out = quarters(wide);
    }
    out
}

/// Copies the columns from `whole` on, fewer than 16, padded by codes and activations of 0, which add nothing.
#[inline]
pub fn padded_rest<const T: usize>(codes: &[u8], x: &[i8], whole: usize) -> ([u8; WIDTH], [[i8; WIDTH]; T]) {
    let cols = codes.len();
    let rest = cols - whole;
    let (mut last, mut rows) = ([0; WIDTH], [[0; WIDTH]; T]);
    last[..rest].copy_from_slice(&codes[whole..]);
    for (t, row) in rows.iter_mut().enumerate() {
        row[..rest].copy_from_slice(&x[t * cols + whole..(t + 1) * cols]);
    }
    (last, rows)
}

/// Separates 16 bytes into the four quarters, which carry the factors 1, 4, 16 and 1.
///
/// # Safety
/// 16 bytes can be read at `codes`.
#[inline]
#[target_feature(enable = "neon")]
pub unsafe fn split(codes: *const u8) -> [int8x16_t; 4] {
    // SAFETY: by the contract; `vld1q` asks for no alignment.
    let packed = unsafe { vld1q_u8(codes) };
    [
        vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(0x03))),
        vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(0x0c))),
        vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(0x30))),
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(packed)),
    ]
}

/// Adds one step of 16 columns.
///
/// # Safety
/// 16 bytes can be read at `codes`, at `x` and at each of the `T - 1` rows that follow at distance `cols`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_step<const T: usize>(
    sums: &mut [[int16x8_t; 4]; T],
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
            let low = vmlal_s8(sums[quarter], vget_low_s8(quarters[quarter]), vget_low_s8(x));
            sums[quarter] = vmlal_high_s8(low, quarters[quarter], x);
        }
    }
}

/// Moves the 16-bit sums of one quarter to its 32-bit sums.
#[inline]
#[target_feature(enable = "neon")]
fn widen_quarter<const T: usize>(sums: &mut Sums<T>, quarter: usize) {
    for t in 0..T {
        sums.wide[t][quarter] = vpadalq_s16(sums.wide[t][quarter], sums.narrow[t][quarter]);
        sums.narrow[t][quarter] = vdupq_n_s16(0);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_all<const T: usize>(sums: &mut Sums<T>) {
    for quarter in 0..4 {
        widen_quarter(sums, quarter);
    }
}

/// Takes the factors of [`split`] off the lanes, which are multiples of them, and adds the lanes up.
#[inline]
#[target_feature(enable = "neon")]
pub fn quarters(sums: &[int32x4_t; 4]) -> [i32; 4] {
    [
        vaddvq_s32(sums[0]),
        vaddvq_s32(vshrq_n_s32::<2>(sums[1])),
        vaddvq_s32(vshrq_n_s32::<4>(sums[2])),
        vaddvq_s32(sums[3]),
    ]
}
