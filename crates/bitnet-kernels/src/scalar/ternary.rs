//! Ternary products on packed codes (`layout::row_quarters`), four output rows at a time.

use super::lanes::{LANES, Lanes};

/// Writes, for each token, the exact products of one packed row's four ternary rows with int8
/// activations.
///
/// # Shapes
/// `codes` `[cols]`, `x` `[tokens, cols]`, `sums` `[tokens]` the sums of the rows of `x`, `out`
/// `[tokens]` of the four quarters. Codes are 0, 1, 2; `cols` is at most
/// [`MAX_COLS`](crate::layout::row_quarters::MAX_COLS).
#[inline(always)]
pub fn ternary_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    for ((x, &sum), out) in x.chunks_exact(codes.len()).zip(sums).zip(out) {
        let mut acc = [0i32; 4];
        for (&byte, &x) in codes.iter().zip(x) {
            for (quarter, acc) in acc.iter_mut().enumerate() {
                *acc += i32::from(byte >> (2 * quarter) & 3) * i32::from(x);
            }
        }
        // Codes are values + 1, so the sum of the activations came along once.
        *out = acc.map(|acc| acc - sum);
    }
}

/// Writes, for each token, the products of one packed row's four ternary rows with f32 activations.
///
/// Each product with -1, 0 or +1 is exact; sums run over virtual lanes.
///
/// # Shapes
/// As [`ternary_i8`], `x` in f32.
#[inline(always)]
pub fn ternary_f32(codes: &[u8], x: &[f32], out: &mut [[f32; 4]]) {
    for (x, out) in x.chunks_exact(codes.len()).zip(out) {
        for (quarter, out) in out.iter_mut().enumerate() {
            *out = quarter_f32(codes, x, 2 * quarter as u32);
        }
    }
}

#[inline(always)]
fn quarter_f32(codes: &[u8], x: &[f32], shift: u32) -> f32 {
    let value = |byte: u8| (i32::from(byte >> shift & 3) - 1) as f32;
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
