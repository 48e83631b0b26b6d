//! Products of six-bit rows (`layout::int6_rows`) with activations in two planes of seven bits.
//!
//! An activation of up to 13 bits and its sign is `128 h + l`, `h` and `l` in `-64..=63`: instructions that multiply
//! unsigned bytes by signed ones take codes and planes as they are. The sum is an integer, the same on every tier.

use crate::layout::int6_rows::{BIAS, BLOCK, BLOCK_BYTES, MAX_CODE, biased_codes, padded};

/// Returns the greatest magnitude of a quantised activation such that both planes hold it and `cols` products with
/// six-bit codes cannot overflow 32 bits.
pub const fn limit(cols: usize) -> i32 {
    const PLANES: i32 = 63 * 128 + 63;
    match (i32::MAX as usize / MAX_CODE as usize).checked_div(cols) {
        Some(most) if most < PLANES as usize => most as i32,
        _ => PLANES,
    }
}

/// Splits a row of quantised activations within [`limit`] into its planes, `h` before `l`, and returns its sum.
///
/// # Panics
/// When `planes` is not twice the padded length of `x`.
pub fn split(x: &[i16], planes: &mut [i8]) -> i32 {
    let width = padded(x.len());
    assert_eq!(planes.len(), 2 * width, "two planes of a row");
    let (high, low) = planes.split_at_mut(width);
    let mut sum = 0;
    for ((&x, high), low) in x.iter().zip(&mut *high).zip(&mut *low) {
        let rest = ((x + 64) & 127) - 64;
        (*high, *low) = (((x - rest) >> 7) as i8, rest as i8);
        sum += i32::from(x);
    }
    high[x.len()..].fill(0);
    low[x.len()..].fill(0);
    sum
}

/// Writes, for each row and token, the exact product.
///
/// # Shapes
/// `rows` `[rows, blocks, 192]`, `planes` `[tokens, 2, 256 * blocks]` and `sums` `[tokens]` as [`split`] gives them,
/// `out` `[rows, tokens]`.
#[inline(always)]
pub fn int6_planes(rows: &[u8], planes: &[i8], sums: &[i32], out: &mut [i32]) {
    let Some(shape) = Shape::of(planes, sums) else { return out.fill(0) };
    for (row, out) in rows.chunks_exact(shape.row_bytes).zip(out.chunks_exact_mut(sums.len())) {
        out.fill(0);
        for (index, block) in row.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            let codes = biased_codes(block);
            for (planes, out) in planes.chunks_exact(2 * shape.width).zip(&mut *out) {
                let (high, low) = planes.split_at(shape.width);
                let at = index * BLOCK..(index + 1) * BLOCK;
                let dot = |plane: &[i8]| -> i32 {
                    codes.iter().zip(plane).map(|(&c, &x)| i32::from(i16::from(c) * i16::from(x))).sum()
                };
                *out = combine([*out, dot(&low[at.clone()])], dot(&high[at]));
            }
        }
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = combine([*out, BIAS.wrapping_mul(sum).wrapping_neg()], 0);
        }
    }
}

/// The lengths that a call's slices imply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Columns of a padded row.
    pub width: usize,
    /// Bytes of a row of codes.
    pub row_bytes: usize,
}

impl Shape {
    /// Returns the shape; `None` without tokens or columns.
    ///
    /// # Panics
    /// When the planes are not whole blocks.
    #[inline(always)]
    pub(crate) fn of(planes: &[i8], sums: &[i32]) -> Option<Shape> {
        let width = planes.len().checked_div(2 * sums.len())?;
        assert!(
            width.is_multiple_of(BLOCK) && planes.len() == 2 * width * sums.len(),
            "planes of whole blocks"
        );
        (width > 0).then_some(Shape { width, row_bytes: width / BLOCK * BLOCK_BYTES })
    }
}

/// Returns the sum of `low` and of 128 times `high`, of which only the total has to fit 32 bits.
#[inline(always)]
pub(crate) fn combine(low: [i32; 2], high: i32) -> i32 {
    low[0].wrapping_add(low[1]).wrapping_add(high.wrapping_mul(128))
}
