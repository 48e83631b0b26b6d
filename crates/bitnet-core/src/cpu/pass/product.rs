//! Products with matrices.

use std::ops::Range;

use bitnet_backend::WeightScale;
use bitnet_kernels::TernaryKernels;

use super::{Input, Pass, SUMS, TERNARY_TOKENS, dense_rows, tiles};
use crate::cpu::shared::SharedSlice;
use crate::cpu::turn::Turn;
use crate::cpu::weights::{Elements, Matrix, TernaryLayout};

/// Rows and tokens of a block of a dense product: the tokens' activations stay in the second-level cache.
const DENSE: usize = 32;

/// Where a product goes: row-major `[tokens, width]`.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    pub rows: SharedSlice<'a, f32>,
    pub width: usize,
    pub accumulate: bool,
}

impl Output<'_> {
    /// Writes or adds one element.
    ///
    /// # Safety
    /// No other worker touches this element in this stage.
    pub unsafe fn put(&self, token: usize, row: usize, value: f32) {
        let at = token * self.width + row;
        // SAFETY: exclusive by this function's contract.
        let element = unsafe { &mut self.rows.get_mut(at..at + 1)[0] };
        *element = if self.accumulate { *element + value } else { value };
    }
}

impl Pass<'_> {
    pub(super) fn product(&self, matrix: &Matrix, x: Input<'_>, out: Output<'_>, turn: Turn<'_>) {
        match (&matrix.elements, x) {
            (Elements::Ternary(TernaryLayout::RowQuarters, codes, scale), x) => {
                self.ternary(&self.kernels.row_quarters, matrix, (codes, *scale), x, out, turn);
            }
            (Elements::Ternary(TernaryLayout::RowFifths, codes, scale), x) => {
                self.ternary(&self.kernels.row_fifths, matrix, (codes, *scale), x, out, turn);
            }
            (Elements::Dense(..), Input::F32(x)) => self.dense(matrix, x, self.tokens(), out, turn),
            (Elements::Dense(..) | Elements::Narrow(..), _) => {
                unreachable!("CpuBackend::load_graph refuses this pair of weights and activations")
            }
        }
    }

    /// Multiplies ternary codes whose lines hold `N` rows each.
    fn ternary<const N: usize>(
        &self,
        kernels: &TernaryKernels<N>,
        matrix: &Matrix,
        (codes, scale): (&[u8], WeightScale),
        x: Input<'_>,
        out: Output<'_>,
        turn: Turn<'_>,
    ) {
        let cols = matrix.cols;
        // SAFETY: taken once in this stage.
        let scratch = unsafe { self.scratch(turn.worker) };
        // With many tokens a block that is not full reads their activations for too few lines.
        let unit = match self.tokens() {
            0..8 => 1,
            tokens => SUMS / N / tokens.min(TERNARY_TOKENS),
        };
        for piece in turn.pieces(matrix.lines(), matrix.cost_of_line(self.tokens()), unit) {
            for tokens in tiles(self.tokens(), TERNARY_TOKENS) {
                // A piece goes to the kernel in blocks whose sums fit the scratch.
                let block = (SUMS / N / tokens.len()).max(1);
                for first in piece.clone().step_by(block) {
                    let lines = first..piece.end.min(first + block);
                    let codes = &codes[lines.start * cols..lines.end * cols];
                    let sums = &mut scratch[..lines.len() * tokens.len() * N];
                    match x {
                        Input::Int8 { values, scales, sums: token_sums } => {
                            let acc: &mut [i32] = bytemuck::cast_slice_mut(sums);
                            let acc = acc.as_chunks_mut::<N>().0;
                            let values = &values[tokens.start * cols..tokens.end * cols];
                            (kernels.i8)(codes, values, &token_sums[tokens.clone()], acc);
                            let scales = &scales[tokens.clone()];
                            match acc.as_flattened().as_chunks::<4>() {
                                (quarters, []) if N == 4 && matrix.bias.is_none() => {
                                    self.put_quarters(matrix, lines, &tokens, quarters, (scales, scale), out);
                                }
                                _ => self.put_lines(matrix, lines, &tokens, acc, out, |t, acc| {
                                    dequantize(acc, scales[t], scale)
                                }),
                            }
                        }
                        Input::F32(x) => {
                            let acc = sums.as_chunks_mut::<N>().0;
                            (kernels.f32)(codes, cols, &x[tokens.start * cols..tokens.end * cols], acc);
                            self.put_lines(matrix, lines, &tokens, acc, out, |_, acc| match scale {
                                WeightScale::Multiply(scale) => acc * scale,
                                WeightScale::Divide(scale) => acc / scale,
                            });
                        }
                    }
                }
            }
        }
    }

    /// Puts the outputs of a block of lines of four rows: `acc` is `[lines, tokens]` of the rows of a line.
    fn put_quarters(
        &self,
        matrix: &Matrix,
        lines: Range<usize>,
        tokens: &Range<usize>,
        acc: &[[i32; 4]],
        (scales, scale): (&[f32], WeightScale),
        out: Output<'_>,
    ) {
        let total = matrix.rows.div_ceil(4);
        for (t, &token_scale) in scales.iter().enumerate() {
            let scale = match scale {
                WeightScale::Multiply(factor) => (token_scale, factor),
                // A multiplication by one changes nothing.
                WeightScale::Divide(divisor) => (token_scale * divisor, 1.0),
            };
            let at = (tokens.start + t) * out.width;
            let row = |part: usize, line: usize| matrix.rows.min(part * total + line);
            let part = |part: usize| {
                let rows = at + row(part, lines.start)..at + row(part, lines.end);
                // SAFETY: lines are shared out disjointly, and each row belongs to one of them.
                unsafe { out.rows.get_mut(rows) }
            };
            let mut parts = [part(0), part(1), part(2), part(3)];
            (self.kernels.dequantize)(&acc[t..], tokens.len(), scale, out.accumulate, &mut parts);
        }
    }

    /// Puts the outputs of a block of lines: `acc` is `[lines, tokens]` of the rows of a line.
    fn put_lines<T: Copy, const N: usize>(
        &self,
        matrix: &Matrix,
        lines: Range<usize>,
        tokens: &Range<usize>,
        acc: &[[T; N]],
        out: Output<'_>,
        value: impl Fn(usize, T) -> f32,
    ) {
        let total = matrix.rows.div_ceil(N);
        for part in 0..N {
            // One part of neighbouring lines is neighbouring rows; of the last part some or all may be absent.
            let row = |line: usize| matrix.rows.min(part * total + line);
            let rows = row(lines.start)..row(lines.end);
            let bias = matrix.bias.as_ref().and_then(|bias| bias.get(rows.clone()));
            for t in 0..tokens.len() {
                let at = (tokens.start + t) * out.width;
                // SAFETY: lines are shared out disjointly, and each row belongs to one of them.
                let row = unsafe { out.rows.get_mut(at + rows.start..at + rows.end) };
                let values = acc[t..].iter().step_by(tokens.len()).map(|acc| value(t, acc[part]));
                match (bias, out.accumulate) {
                    (None, false) => row.iter_mut().zip(values).for_each(|(out, value)| *out = value),
                    (None, true) => row.iter_mut().zip(values).for_each(|(out, value)| *out += value),
                    (Some(bias), accumulate) => {
                        for ((out, value), &bias) in row.iter_mut().zip(values).zip(bias) {
                            let value = value + bias;
                            *out = if accumulate { *out + value } else { value };
                        }
                    }
                }
            }
        }
    }

    /// Multiplies `[tokens, cols]` floats by a dense matrix.
    pub fn dense(&self, matrix: &Matrix, x: &[f32], tokens: usize, out: Output<'_>, turn: Turn<'_>) {
        let cols = matrix.cols;
        // SAFETY: taken once in this stage.
        let scratch = unsafe { self.scratch(turn.worker) };
        let unit = if tokens < 4 { 1 } else { DENSE };
        for piece in turn.pieces(matrix.lines(), matrix.cost_of_line(tokens), unit) {
            if tokens == 1 && matrix.bias.is_none() && !out.accumulate {
                // SAFETY: rows are shared out disjointly.
                let products = unsafe { out.rows.get_mut(piece.clone()) };
                (self.kernels.dense_rows)(dense_rows(matrix, piece), cols, x, products);
                continue;
            }
            for first in piece.clone().step_by(DENSE) {
                let rows = first..piece.end.min(first + DENSE);
                for tile in tiles(tokens, DENSE) {
                    let products = &mut scratch[..rows.len() * tile.len()];
                    let x = &x[tile.start * cols..tile.end * cols];
                    (self.kernels.dense_rows)(dense_rows(matrix, rows.clone()), cols, x, products);
                    for (row, products) in rows.clone().zip(products.chunks_exact(tile.len())) {
                        let bias = matrix.bias.as_ref().map(|bias| bias[row]);
                        for (t, &value) in tile.clone().zip(products) {
                            let value = bias.map_or(value, |bias| value + bias);
                            // SAFETY: rows are shared out disjointly.
                            unsafe { out.put(t, row, value) };
                        }
                    }
                }
            }
        }
    }
}

/// Returns `acc / s_x * m`, or `acc / (s_x * s)`, in f32 as the reference evaluates it.
fn dequantize(acc: i32, activation_scale: f32, scale: WeightScale) -> f32 {
    match scale {
        WeightScale::Multiply(scale) => acc as f32 / activation_scale * scale,
        WeightScale::Divide(scale) => acc as f32 / (activation_scale * scale),
    }
}
