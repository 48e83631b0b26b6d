//! The language-model head.

use std::ops::Range;

use bitnet_backend::{BufferId, LinearId, Norm};
use bitnet_kernels::layout::int8_rows;
use bitnet_kernels::scalar::int8::TokenFacts;

use super::product::Output;
use super::{Pass, SUMS, TERNARY_TOKENS, dense_row, tiles};
use crate::cpu::team::{Turn, Worker};
use crate::cpu::weights::{Elements, Int8Rows, Matrix};

/// Rows whose logits are judged in one call.
const GATHERED: usize = 256;

impl Pass<'_> {
    pub fn head_norm(&self, x: BufferId, norm: Norm, fine: bool, worker: Worker<'_>) {
        let (width, x) = self.f32_buffer(x);
        for index in worker.share(self.step.logits_rows.len(), 1) {
            let token = self.step.logits_rows[index] as usize;
            let row = index * width..(index + 1) * width;
            // SAFETY: rows are shared out disjointly; `x` is not written in this stage.
            let (x, out) =
                unsafe { (x.get(token * width..(token + 1) * width), self.head.normed.get_mut(row.clone())) };
            (self.kernels.rms_norm)(x, self.vector(norm.weight), norm.eps, out);
            if fine {
                // SAFETY: as above.
                let (fine, facts) =
                    unsafe { (self.head.fine.get_mut(row), self.head.row.get_mut(3 * index..3 * index + 3)) };
                facts[0] = (self.kernels.quantize_i16)(out, fine);
                (facts[2], facts[1]) = int8_rows::bounds(out, fine, facts[0]);
            }
        }
    }

    pub fn head_product(&self, weights: LinearId, turn: Turn<'_>) {
        let (matrix, rows) = (self.matrix(weights), self.step.logits_rows.len());
        let out = Output { rows: self.logits, width: matrix.rows, accumulate: false };
        if let Elements::Int8(rows) = &matrix.elements {
            return self.int8_head(matrix, rows, out, turn);
        }
        // SAFETY: a barrier separates this stage from `head_norm`.
        let x = unsafe { self.head.normed.get(0..rows * matrix.cols) };
        self.dense(matrix, x, rows, out, turn);
    }

    fn int8_head(&self, matrix: &Matrix, weights: &Int8Rows, out: Output<'_>, turn: Turn<'_>) {
        let (cols, count) = (matrix.cols, self.step.logits_rows.len());
        // SAFETY: a barrier separates this stage from `head_norm`; each worker has floors of its own.
        let (x, facts, floors) = unsafe {
            let own = turn.worker.index * count;
            let floors = own..own + count;
            (
                self.head.fine.get(0..count * cols),
                self.head.row.get(0..3 * count).as_chunks::<3>().0,
                self.head.floors.get_mut(floors),
            )
        };
        floors.fill(f32::NEG_INFINITY);
        // SAFETY: taken once in this stage.
        let scratch = unsafe { self.scratch(turn.worker) };
        for piece in turn.pieces(matrix.lines(), matrix.cost_of_line(count), 1) {
            for tokens in tiles(count, TERNARY_TOKENS) {
                let block = (SUMS / tokens.len()).max(1);
                let x = &x[tokens.start * cols..tokens.end * cols];
                for first in piece.clone().step_by(block) {
                    let (rows, block_start) = (first..piece.end.min(first + block), first);
                    let acc: &mut [i32] = bytemuck::cast_slice_mut(&mut scratch[..rows.len() * tokens.len()]);
                    let codes = &weights.codes[rows.start * cols..rows.end * cols];
                    (self.kernels.int8_i16)(codes, cols, x, acc);
                    for (index, token) in tokens.clone().enumerate() {
                        let facts = token_facts(facts[token]);
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
                            let floor = (self.kernels.int8_logits)(acc, weights.facts(rows), facts, logits);
                            floors[token] = floors[token].max(floor);
                        }
                    }
                }
            }
        }
    }

    /// Computes again, from the stored rows, every logit that may be the greatest.
    pub fn head_rescore(&self, weights: LinearId, worker: Worker<'_>) {
        let matrix = self.matrix(weights);
        let Elements::Int8(rows) = &matrix.elements else { return };
        let (cols, count) = (matrix.cols, self.step.logits_rows.len());
        let stored = self.matrix(rows.stored);
        let out = Output { rows: self.logits, width: matrix.rows, accumulate: false };
        // SAFETY: a barrier separates this stage from those that write these.
        let (normed, facts, floors) = unsafe {
            (
                self.head.normed.get(0..count * cols),
                self.head.row.get(0..3 * count).as_chunks::<3>().0,
                self.head.floors.get(0..worker.count() * count),
            )
        };
        let share = worker.share(matrix.rows, 1);
        for (token, (x, &of_token)) in normed.chunks_exact(cols).zip(facts).enumerate() {
            let floor = floors.iter().skip(token).step_by(count).copied().fold(f32::NEG_INFINITY, f32::max);
            let (at, of_token) = (token * matrix.rows, token_facts(of_token));
            let candidates = |range: Range<usize>| {
                // SAFETY: rows are shared out disjointly.
                let logits = unsafe { self.logits.get(at + range.start..at + range.end) };
                (self.kernels.int8_candidates)(logits, rows.facts(range), of_token, floor)
            };
            for first in share.clone().step_by(GATHERED) {
                let part = first..share.end.min(first + GATHERED);
                if candidates(part.clone()) == 0 {
                    continue;
                }
                for row in part {
                    if candidates(row..row + 1) > 0 {
                        let mut product = [0.0];
                        (self.kernels.dense)(dense_row(stored, row), x, &mut product);
                        // SAFETY: as above.
                        unsafe { out.put(token, row, product[0]) };
                    }
                }
            }
        }
    }
}

fn token_facts([step, norm, error]: [f32; 3]) -> TokenFacts {
    TokenFacts { step, norm, error }
}
