//! The language-model head.

use std::cmp::Ordering;
use std::ops::Range;

use bitnet_backend::{BufferId, LinearId, Norm};
use bitnet_kernels::layout::{int6_rows, narrow_rows};
use bitnet_kernels::scalar::int6;
use bitnet_kernels::scalar::narrow::TokenFacts;

use super::product::Output;
use super::{Pass, SUMS, TERNARY_TOKENS, dense_row, tiles};
use crate::cpu::team::Worker;
use crate::cpu::turn::Turn;
use crate::cpu::weights::{Matrix, NarrowRows, NarrowWidth};

/// Rows whose logits are judged in one call.
const GATHERED: usize = 256;

impl Pass<'_> {
    pub fn head_norm(&self, x: BufferId, norm: Norm, narrow: Option<&NarrowRows>, worker: Worker<'_>) {
        let (width, x) = self.f32_buffer(x);
        for index in worker.share(self.step.logits_rows.len(), 1) {
            let token = self.step.logits_rows[index] as usize;
            let row = index * width..(index + 1) * width;
            // SAFETY: rows are shared out disjointly; `x` is not written in this stage.
            let (x, out) =
                unsafe { (x.get(token * width..(token + 1) * width), self.head.normed.get_mut(row.clone())) };
            (self.kernels.rms_norm)(x, self.vector(norm.weight), norm.eps, out);
            let Some(narrow) = narrow else { continue };
            // SAFETY: as above.
            let (fine, facts) =
                unsafe { (self.head.fine.get_mut(row), self.head.row.get_mut(3 * index..3 * index + 3)) };
            facts[0] = (self.kernels.quantize_i16)(out, narrow.width.activation_limit(width), fine);
            (facts[2], facts[1]) = narrow_rows::bounds(out, fine, facts[0]);
            if narrow.width == NarrowWidth::Six {
                let planes = 2 * int6_rows::padded(width);
                // SAFETY: as above.
                let (planes, sum) = unsafe {
                    let planes = self.head.planes.get_mut(index * planes..(index + 1) * planes);
                    (planes, self.head.sums.get_mut(index..index + 1))
                };
                sum[0] = int6::split(fine, planes);
            }
        }
    }

    pub fn head_product(&self, weights: LinearId, turn: Turn<'_>) {
        let (matrix, rows) = (self.matrix(weights), self.step.logits_rows.len());
        let out = Output { rows: self.logits, width: matrix.rows, accumulate: false };
        if let Some(rows) = matrix.narrow() {
            return self.narrow_head(matrix, rows, out, turn);
        }
        // SAFETY: a barrier separates this stage from `head_norm`.
        let x = unsafe { self.head.normed.get(0..rows * matrix.cols) };
        self.dense(matrix, x, rows, out, turn);
    }

    fn narrow_head(&self, matrix: &Matrix, weights: &NarrowRows, out: Output<'_>, turn: Turn<'_>) {
        let count = self.step.logits_rows.len();
        let own = turn.worker.index * count..(turn.worker.index + 1) * count;
        // SAFETY: a barrier separates this stage from `head_norm`; each worker has its own part of the greatest.
        let (facts, greatest, greatest_rows) = unsafe {
            (
                self.head.row.get(0..3 * count).as_chunks::<3>().0,
                self.head.greatest.get_mut(own.clone()),
                self.head.greatest_rows.get_mut(own),
            )
        };
        greatest.fill(f32::NEG_INFINITY);
        // SAFETY: taken once in this stage.
        let scratch = unsafe { self.scratch(turn.worker) };
        for piece in turn.pieces(matrix.lines(), matrix.cost_of_line(count), 1) {
            for tokens in tiles(count, TERNARY_TOKENS) {
                let block = (SUMS / tokens.len()).max(1);
                for first in piece.clone().step_by(block) {
                    let (rows, block_start) = (first..piece.end.min(first + block), first);
                    let acc: &mut [i32] = bytemuck::cast_slice_mut(&mut scratch[..rows.len() * tokens.len()]);
                    self.narrow_products(matrix.cols, weights, rows.clone(), tokens.clone(), acc);
                    for (index, token) in tokens.clone().enumerate() {
                        for first in rows.clone().step_by(GATHERED) {
                            let rows = first..rows.end.min(first + GATHERED);
                            let (mut gathered, at) = ([0; GATHERED], first - block_start);
                            let acc = match tokens.len() {
                                1 => &acc[at..at + rows.len()],
                                count => {
                                    let own = acc[at * count..].iter().skip(index).step_by(count);
                                    gathered.iter_mut().zip(own).for_each(|(place, &acc)| *place = acc);
                                    &gathered[..rows.len()]
                                }
                            };
                            let at = token * out.width;
                            // SAFETY: rows are shared out disjointly.
                            let logits = unsafe { out.rows.get_mut(at + rows.start..at + rows.end) };
                            let steps = &weights.steps[rows.clone()];
                            let value = (self.kernels.narrow_logits)(acc, steps, facts[token][0], logits);
                            // Pieces come in no certain order: of equals the first row of all counts.
                            if value >= greatest[token]
                                && let Some(index) = logits.iter().position(|&logit| logit == value)
                            {
                                let row = (rows.start + index) as i32;
                                let before = greatest_rows[token];
                                let equal = value == greatest[token] && value > f32::NEG_INFINITY;
                                greatest_rows[token] = if equal { row.min(before) } else { row };
                                greatest[token] = value;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Writes the exact products of some rows with some tokens, `[rows, tokens]`.
    fn narrow_products(
        &self,
        cols: usize,
        weights: &NarrowRows,
        rows: Range<usize>,
        tokens: Range<usize>,
        acc: &mut [i32],
    ) {
        let row_bytes = weights.width.row_bytes(cols);
        let codes = &weights.codes[rows.start * row_bytes..rows.end * row_bytes];
        // SAFETY: a barrier separates this stage from `head_norm`, which writes these.
        unsafe {
            match weights.width {
                NarrowWidth::Eight => {
                    let x = self.head.fine.get(tokens.start * cols..tokens.end * cols);
                    (self.kernels.int8_i16)(bytemuck::cast_slice(codes), cols, x, acc);
                }
                NarrowWidth::Six => {
                    let planes = 2 * int6_rows::padded(cols);
                    let x = self.head.planes.get(tokens.start * planes..tokens.end * planes);
                    (self.kernels.int6_planes)(codes, x, self.head.sums.get(tokens), acc);
                }
            }
        }
    }

    /// Computes again, from the stored rows, every logit that may be the greatest.
    ///
    /// The stored logit of the row whose narrow one is the greatest bounds the greatest stored logit from below: only
    /// rows that may reach it, by the bound of their errors, come into question.
    pub fn head_rescore(&self, weights: LinearId, worker: Worker<'_>) {
        let matrix = self.matrix(weights);
        let Some(rows) = matrix.narrow() else { return };
        let (cols, count) = (matrix.cols, self.step.logits_rows.len());
        let stored = self.matrix(rows.stored);
        let out = Output { rows: self.logits, width: matrix.rows, accumulate: false };
        // SAFETY: a barrier separates this stage from those that write these.
        let (normed, facts, greatest, greatest_rows) = unsafe {
            (
                self.head.normed.get(0..count * cols),
                self.head.row.get(0..3 * count).as_chunks::<3>().0,
                self.head.greatest.get(0..worker.count() * count),
                self.head.greatest_rows.get(0..worker.count() * count),
            )
        };
        let product = |row: usize, x: &[f32]| {
            let mut product = [0.0];
            (self.kernels.dense)(dense_row(stored, row), x, &mut product);
            product[0]
        };
        let share = worker.share(matrix.rows, 1);
        for (token, (x, &[_, norm, error])) in normed.chunks_exact(cols).zip(facts).enumerate() {
            let each = greatest.iter().zip(greatest_rows).skip(token).step_by(count);
            // A worker without a number among its logits has no row.
            let numbers = each.filter(|(value, _)| **value > f32::NEG_INFINITY);
            let order = |a: &f32, b: &f32| a.partial_cmp(b).unwrap_or(Ordering::Equal);
            let first = numbers.max_by(|a, b| order(a.0, b.0).then_with(|| b.1.cmp(a.1)));
            let Some((_, &row)) = first else { continue };
            let floor = product(row as usize, x);
            // What is not a number bounds nothing: then every row comes into question.
            let floor = if floor.is_nan() { f32::NEG_INFINITY } else { floor };
            let (at, of_token) = (token * matrix.rows, TokenFacts { norm, error });
            let candidates = |range: Range<usize>| {
                // SAFETY: rows are shared out disjointly.
                let logits = unsafe { self.logits.get(at + range.start..at + range.end) };
                (self.kernels.narrow_candidates)(logits, rows.facts(range), of_token, floor)
            };
            for first in share.clone().step_by(GATHERED) {
                let part = first..share.end.min(first + GATHERED);
                if candidates(part.clone()) == 0 {
                    continue;
                }
                for row in part {
                    if candidates(row..row + 1) > 0 {
                        // SAFETY: as above.
                        unsafe { out.put(token, row, product(row, x)) };
                    }
                }
            }
        }
    }
}
