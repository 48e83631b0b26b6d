//! Ternary products on packed lines: `N` output rows at a time, by the layout.
//!
//! A line is one packed row of a layout of [`crate::layout`]: a byte a column, and in every byte one code of
//! each of `N` rows. A code is the value + 1.

use super::lanes::{LANES, Lanes};
use crate::layout::{row_fifths, row_quarters};

/// Writes, for each line and token, the exact products of the line's four ternary rows with int8
/// activations; codes in row quarters.
///
/// # Shapes
/// `codes` `[lines, cols]`, `x` `[tokens, cols]`, `sums` `[tokens]` the sums of the rows of `x`, `out`
/// `[lines, tokens]` of the rows of a line. Codes are 0, 1, 2; `cols` is at most
/// [`MAX_COLS`](row_quarters::MAX_COLS).
#[inline(always)]
pub fn row_quarters_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    products_i8(codes, x, sums, out, row_quarters::codes);
}

/// As [`row_quarters_i8`] for five rows a line; bytes are below 243.
#[inline(always)]
pub fn row_fifths_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 5]]) {
    products_i8(codes, x, sums, out, row_fifths::codes);
}

/// Writes, for each line and token, the products of the line's four ternary rows with f32 activations;
/// codes in row quarters.
///
/// Each product with -1, 0 or +1 is exact; sums run over virtual lanes.
///
/// # Shapes
/// `codes` `[lines, cols]`, `x` `[tokens, cols]`, `out` `[lines, tokens]` of the rows of a line.
#[inline(always)]
pub fn row_quarters_f32(codes: &[u8], cols: usize, x: &[f32], out: &mut [[f32; 4]]) {
    products_f32(codes, cols, x, out, row_quarters::codes);
}

/// As [`row_quarters_f32`] for five rows a line; bytes are below 243.
#[inline(always)]
pub fn row_fifths_f32(codes: &[u8], cols: usize, x: &[f32], out: &mut [[f32; 5]]) {
    products_f32(codes, cols, x, out, row_fifths::codes);
}

#[inline(always)]
fn products_i8<const N: usize>(
    codes: &[u8],
    x: &[i8],
    sums: &[i32],
    out: &mut [[i32; N]],
    unpack: impl Fn(u8) -> [u8; N],
) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; N]);
        return;
    }
    let cols = x.len() / tokens;
    for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
        for ((x, &sum), out) in x.chunks_exact(cols).zip(sums).zip(out) {
            let mut acc = [0i32; N];
            for (&byte, &x) in line.iter().zip(x) {
                let codes = unpack(byte);
                for (acc, code) in acc.iter_mut().zip(codes) {
                    *acc += i32::from(code) * i32::from(x);
                }
            }
            // Codes are values + 1, so the sum of the activations came along once.
            *out = acc.map(|acc| acc - sum);
        }
    }
}

#[inline(always)]
fn products_f32<const N: usize>(
    codes: &[u8],
    cols: usize,
    x: &[f32],
    out: &mut [[f32; N]],
    unpack: impl Fn(u8) -> [u8; N] + Copy,
) {
    if cols == 0 || x.is_empty() {
        out.fill([0.0; N]);
        return;
    }
    for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(x.len() / cols)) {
        for (x, out) in x.chunks_exact(cols).zip(out) {
            for (row, out) in out.iter_mut().enumerate() {
                *out = dot(line, x, |byte| f32::from(unpack(byte)[row]) - 1.0);
            }
        }
    }
}

#[inline(always)]
fn dot(codes: &[u8], x: &[f32], value: impl Fn(u8) -> f32) -> f32 {
    let mut lanes = Lanes::ZERO;
    let (codes_whole, codes_rest) = codes.as_chunks::<LANES>();
    let (x_whole, x_rest) = x.as_chunks::<LANES>();
    for (codes, x) in codes_whole.iter().zip(x_whole) {
        let values: [f32; LANES] = std::array::from_fn(|l| value(codes[l]));
        lanes.multiply_add(&values, x);
    }
    for (index, (&byte, &x)) in codes_rest.iter().zip(x_rest).enumerate() {
        lanes.add(index, value(byte) * x);
    }
    lanes.reduce()
}
