//! Dense rows: the LM head, the embedding, and matrices that a checkpoint keeps in floats.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::lanes::{LANES, Lanes};

/// One row of a dense matrix, or rows one after the other.
#[derive(Debug, Clone, Copy)]
pub enum DenseRow<'a> {
    /// binary32.
    F32(&'a [f32]),
    /// binary16.
    F16(&'a [f16]),
    /// Upper half of binary32.
    BF16(&'a [bf16]),
}

impl DenseRow<'_> {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        match self {
            DenseRow::F32(row) => row.len(),
            DenseRow::F16(row) => row.len(),
            DenseRow::BF16(row) => row.len(),
        }
    }

    /// Reports whether the row has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Elements widened at a time; a multiple of the lanes.
const PIECE: usize = 8 * LANES;
/// Tokens that share a widened piece.
const TOKENS: usize = 8;

/// Writes the elements as f32, exactly.
#[inline(always)]
pub fn widen(row: DenseRow<'_>, out: &mut [f32]) {
    match row {
        DenseRow::F32(row) => out.copy_from_slice(row),
        DenseRow::F16(row) => row.convert_to_f32_slice(out),
        DenseRow::BF16(row) => {
            for (out, &value) in out.iter_mut().zip(row) {
                *out = f32::from_bits(u32::from(value.to_bits()) << 16);
            }
        }
    }
}

/// Writes the inner product of `row` with each of the rows of `x` (`[out.len(), row.len()]`).
///
/// Sums run over virtual lanes, so a token's product does not depend on the tokens beside it.
#[inline(always)]
pub fn dense(row: DenseRow<'_>, x: &[f32], out: &mut [f32]) {
    let cols = row.len();
    for (x, out) in x.chunks(TOKENS * cols).zip(out.chunks_mut(TOKENS)) {
        match row {
            DenseRow::F32(row) => tile(row, x, out, |piece, wide| wide.copy_from_slice(piece)),
            DenseRow::F16(row) => tile(row, x, out, |piece, wide| piece.convert_to_f32_slice(wide)),
            DenseRow::BF16(row) => tile(row, x, out, |piece, wide| widen(DenseRow::BF16(piece), wide)),
        }
    }
}

/// As [`dense`] for each of some rows of `cols` elements, one after the other in `rows`.
///
/// # Shapes
/// `x` `[tokens, cols]`, `out` `[rows, tokens]`.
#[inline(always)]
pub fn dense_rows(rows: DenseRow<'_>, cols: usize, x: &[f32], out: &mut [f32]) {
    each_row(rows, cols, x, out, dense);
}

/// Hands the rows to a kernel of one row.
#[inline(always)]
pub fn each_row(
    rows: DenseRow<'_>,
    cols: usize,
    x: &[f32],
    out: &mut [f32],
    one: impl Fn(DenseRow<'_>, &[f32], &mut [f32]),
) {
    if cols == 0 || x.is_empty() {
        out.fill(0.0);
        return;
    }
    for (index, out) in out.chunks_exact_mut(x.len() / cols).enumerate() {
        let at = index * cols..(index + 1) * cols;
        let row = match rows {
            DenseRow::F32(rows) => DenseRow::F32(&rows[at]),
            DenseRow::F16(rows) => DenseRow::F16(&rows[at]),
            DenseRow::BF16(rows) => DenseRow::BF16(&rows[at]),
        };
        one(row, x, out);
    }
}

#[inline(always)]
fn tile<T>(row: &[T], x: &[f32], out: &mut [f32], widen: impl Fn(&[T], &mut [f32])) {
    let cols = row.len();
    let mut lanes = [Lanes::ZERO; TOKENS];
    let mut wide = [0.0f32; PIECE];
    for (index, piece) in row.chunks(PIECE).enumerate() {
        let wide = &mut wide[..piece.len()];
        widen(piece, wide);
        for (token, lanes) in lanes.iter_mut().enumerate().take(out.len()) {
            let x = &x[token * cols + index * PIECE..][..piece.len()];
            lanes.multiply_add_all(wide, x);
        }
    }
    for (out, lanes) in out.iter_mut().zip(lanes) {
        *out = lanes.reduce();
    }
}
