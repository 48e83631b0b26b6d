//! Ternary products on packed lines: `N` output rows at a time, by the layout.
//!
//! A line is one packed row of a layout of [`crate::layout`]: a byte a column, and in every byte one code of
//! each of `N` rows. A code is the value + 1.

use super::lanes::{LANES, Lanes};
use crate::layout::{row_fifths, row_quarters};

/// Columns widened at a time for float activations; a multiple of the lanes.
const PIECE: usize = 8 * LANES;
/// Tokens that share a widened piece.
const TOKENS: usize = 8;

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
/// Each product with -1, 0 or +1 is exact; sums run over virtual lanes, so a token's product does not depend on the
/// tokens beside it.
///
/// # Shapes
/// `codes` `[lines, cols]`, `x` `[tokens, cols]`, `out` `[lines, tokens]` of the rows of a line.
#[inline(always)]
pub fn row_quarters_f32(codes: &[u8], cols: usize, x: &[f32], out: &mut [[f32; 4]]) {
    products_f32(codes, cols, x, out, |piece, wide| widen(piece, wide));
}

/// As [`row_quarters_f32`] for five rows a line; bytes are below 243.
#[inline(always)]
pub fn row_fifths_f32(codes: &[u8], cols: usize, x: &[f32], out: &mut [[f32; 5]]) {
    products_f32(codes, cols, x, out, |piece, wide| {
        let (mut lower, mut fifth) = ([0; PIECE], [0; PIECE]);
        let (lower, fifth) = (&mut lower[..piece.len()], &mut fifth[..piece.len()]);
        row_fifths::separate(piece, lower, fifth);
        widen(lower, &mut wide[..4]);
        widen(fifth, &mut wide[4..]);
    });
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
    widen: impl Fn(&[u8], &mut [[f32; PIECE]; N]),
) {
    if cols == 0 || x.is_empty() {
        out.fill([0.0; N]);
        return;
    }
    for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(x.len() / cols)) {
        for (x, out) in x.chunks(TOKENS * cols).zip(out.chunks_mut(TOKENS)) {
            let mut lanes = [[Lanes::ZERO; N]; TOKENS];
            let mut wide = [[0.0; PIECE]; N];
            for (index, piece) in line.chunks(PIECE).enumerate() {
                widen(piece, &mut wide);
                for (token, lanes) in lanes.iter_mut().enumerate().take(out.len()) {
                    let x = &x[token * cols + index * PIECE..][..piece.len()];
                    for (lanes, wide) in lanes.iter_mut().zip(&wide) {
                        lanes.multiply_add_all(&wide[..piece.len()], x);
                    }
                }
            }
            for (out, lanes) in out.iter_mut().zip(lanes) {
                *out = lanes.map(Lanes::reduce);
            }
        }
    }
}

/// Writes the values of row `i`, whose codes are bits `2 i` of each byte.
#[inline(always)]
pub(crate) fn widen<const WIDTH: usize>(codes: &[u8], rows: &mut [[f32; WIDTH]]) {
    for (row, wide) in rows.iter_mut().enumerate() {
        for (wide, &byte) in wide.iter_mut().zip(codes) {
            *wide = f32::from(byte >> (2 * row) & 3) - 1.0;
        }
    }
}
