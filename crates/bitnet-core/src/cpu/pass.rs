//! The stages of a pass, as one worker runs its share of them.
//!
//! Work is cut along rows, tokens and heads, never along a sum: a result does not depend on the number of
//! workers or on the tokens beside it.

#![allow(unsafe_code)]

use std::ops::Range;

use bitnet_backend::{
    Activation, AttentionShape, BufferId, KV_BLOCK_TOKENS, LinearId, Norm, Op, Step, VectorId, WeightScale,
};
use bitnet_kernels::layout::int8_rows;
use bitnet_kernels::scalar::int8;
use bitnet_kernels::{AttentionBlock, AttentionState, DenseRow, Kernels, TernaryKernels};

use super::buffers::{BufferView, HeadView};
use super::kv::{KvView, Part};
use super::plan::Stage;
use super::shared::SharedSlice;
use super::team::Worker;
use super::weights::{Elements, Int8Rows, Matrix, TernaryLayout};
use crate::memory::PoolBuffer;

/// Tokens that share one reading of a dense row; their activations stay in the second-level cache.
const DENSE_TOKENS: usize = 16;
/// Tokens that share one reading of ternary or int8 rows.
const TERNARY_TOKENS: usize = 128;
/// Sums of one call of a kernel, of every row in it: what a worker's scratch has to hold.
const SUMS: usize = 8192;
/// Floats of scratch that a worker needs at least.
pub const SCRATCH: usize = SUMS;
/// Query heads that share one reading of keys and values.
const HEAD_TILE: usize = bitnet_kernels::scalar::attention::HEADS;

/// Everything that the stages of one pass touch.
pub struct Pass<'a> {
    pub kernels: &'a Kernels,
    pub step: &'a Step,
    pub attention: AttentionShape,
    pub matrices: &'a [Matrix],
    pub vectors: &'a [PoolBuffer<f32>],
    pub buffers: &'a [BufferView<'a>],
    pub kv: KvView<'a>,
    /// `[tokens, head_dim / 2]`.
    pub cos: &'a [f32],
    /// `[tokens, head_dim / 2]`.
    pub sin: &'a [f32],
    /// What the head multiplies.
    pub head: HeadView<'a>,
    /// `[logits_rows, vocab]`.
    pub logits: SharedSlice<'a, f32>,
    /// `[workers, scratch_width]`.
    pub scratch: SharedSlice<'a, f32>,
    pub scratch_width: usize,
}

/// Rows `x` of a product, in f32 or quantised.
#[derive(Clone, Copy)]
enum Input<'a> {
    F32(&'a [f32]),
    Int8 { values: &'a [i8], scales: &'a [f32], sums: &'a [i32] },
}

/// Where a product goes: row-major `[tokens, width]`.
#[derive(Clone, Copy)]
struct Output<'a> {
    rows: SharedSlice<'a, f32>,
    width: usize,
    accumulate: bool,
}

impl Output<'_> {
    /// Writes or adds one element.
    ///
    /// # Safety
    /// No other worker touches this element in this stage.
    unsafe fn put(&self, token: usize, row: usize, value: f32) {
        let at = token * self.width + row;
        // SAFETY: exclusive by this function's contract.
        let element = unsafe { &mut self.rows.get_mut(at..at + 1)[0] };
        *element = if self.accumulate { *element + value } else { value };
    }
}

impl<'a> Pass<'a> {
    /// Runs all stages as one worker.
    ///
    /// The stages were checked against the graph, the graph against the matrices, and the step against
    /// the graph and the cache; `plan::stages` put a barrier between every two stages of which one
    /// writes what the other touches. This is what the `unsafe` accesses below rely on.
    pub fn run(&self, stages: &[Stage], worker: Worker<'_>) {
        for stage in stages {
            match *stage {
                Stage::Barrier => worker.barrier(),
                Stage::Op(op) => self.op(op, worker),
                Stage::HeadNorm { x, norm, weights } => {
                    let fine = matches!(self.matrix(weights).elements, Elements::Int8(..));
                    self.head_norm(x, norm, fine, worker);
                }
                Stage::HeadProduct { weights } => self.head_product(weights, worker),
                Stage::HeadRescore { weights } => self.head_rescore(weights, worker),
            }
        }
    }

    fn op(&self, op: Op, worker: Worker<'_>) {
        match op {
            Op::Embed { table, out } => self.embed(table, out, worker),
            Op::Norm { x, norm, out } => self.norm(x, norm, out, worker),
            Op::Quantize { x, norm, out } => self.quantize(x, norm, out, worker),
            Op::Linear { x, weights, out, accumulate } => {
                let (width, rows) = self.f32_buffer(out);
                // SAFETY: the op reads `x`, so a barrier separates this stage from any that writes it.
                let input = unsafe { self.input(x) };
                self.product(self.matrix(weights), input, Output { rows, width, accumulate }, worker);
            }
            Op::RopeAppend { q, k, v, layer } => self.rope_append(q, k, v, layer as usize, worker),
            Op::Attention { q, layer, out } => self.attention(q, layer as usize, out, worker),
            Op::Gate { gate, up, activation, out } => self.gate(gate, up, activation, out, worker),
            Op::Head { .. } => unreachable!("plan::stages splits the head"),
            other => unreachable!("plan::unsupported refuses {other:?}"),
        }
    }

    fn tokens(&self) -> usize {
        self.step.tokens.len()
    }

    fn matrix(&self, id: LinearId) -> &'a Matrix {
        &self.matrices[id.0 as usize]
    }

    fn vector(&self, id: VectorId) -> &'a [f32] {
        &self.vectors[id.0 as usize]
    }

    fn f32_buffer(&self, id: BufferId) -> (usize, SharedSlice<'a, f32>) {
        match self.buffers[id.0 as usize] {
            BufferView::F32(width, values) => (width, values),
            BufferView::Int8(..) => unreachable!("Graph::validate checks the kinds of buffers"),
        }
    }

    /// Returns the rows of a buffer.
    ///
    /// # Safety
    /// No stage between the two barriers around this one writes the buffer.
    unsafe fn input(&self, id: BufferId) -> Input<'a> {
        let tokens = self.tokens();
        // SAFETY: by this function's contract.
        unsafe {
            match self.buffers[id.0 as usize] {
                BufferView::F32(width, values) => Input::F32(values.get(0..tokens * width)),
                BufferView::Int8(width, values, scales, sums) => Input::Int8 {
                    values: values.get(0..tokens * width),
                    scales: scales.get(0..tokens),
                    sums: sums.get(0..tokens),
                },
            }
        }
    }

    /// Returns this worker's own scratch.
    ///
    /// # Safety
    /// The worker takes it once a stage.
    unsafe fn scratch(&self, worker: Worker<'_>) -> &'a mut [f32] {
        let start = worker.index * self.scratch_width;
        // SAFETY: each worker has its own part, and takes it once by this function's contract.
        unsafe { self.scratch.get_mut(start..start + self.scratch_width) }
    }

    fn embed(&self, table: LinearId, out: BufferId, worker: Worker<'_>) {
        let (width, out) = self.f32_buffer(out);
        for token in worker.share(self.tokens(), 1) {
            let id = self.step.tokens[token] as usize;
            // SAFETY: tokens are shared out disjointly.
            let row = unsafe { out.get_mut(token * width..(token + 1) * width) };
            (self.kernels.widen)(dense_row(self.matrix(table), id), row);
        }
    }

    fn norm(&self, x: BufferId, norm: Norm, out: BufferId, worker: Worker<'_>) {
        let ((width, x), (_, out)) = (self.f32_buffer(x), self.f32_buffer(out));
        for token in worker.share(self.tokens(), 1) {
            let row = token * width..(token + 1) * width;
            // SAFETY: tokens are shared out disjointly; `x` is not written in this stage.
            let (x, out) = unsafe { (x.get(row.clone()), out.get_mut(row)) };
            (self.kernels.rms_norm)(x, self.vector(norm.weight), norm.eps, out);
        }
    }

    fn quantize(&self, x: BufferId, norm: Option<Norm>, out: BufferId, worker: Worker<'_>) {
        let (width, rows) = self.f32_buffer(x);
        let BufferView::Int8(_, values, scales, sums) = self.buffers[out.0 as usize] else {
            unreachable!("Graph::validate checks the kinds of buffers")
        };
        // SAFETY: taken once in this stage.
        let normed = &mut unsafe { self.scratch(worker) }[..width];
        for token in worker.share(self.tokens(), 1) {
            let row = token * width..(token + 1) * width;
            // SAFETY: tokens are shared out disjointly; the input is not written in this stage.
            let (mut x, values, scale, sum) = unsafe {
                let one = token..token + 1;
                let (scale, sum) = (scales.get_mut(one.clone()), sums.get_mut(one));
                (rows.get(row.clone()), values.get_mut(row), &mut scale[0], &mut sum[0])
            };
            if let Some(norm) = norm {
                (self.kernels.rms_norm)(x, self.vector(norm.weight), norm.eps, normed);
                x = normed;
            }
            let quantized = (self.kernels.quantize)(x, values);
            (*scale, *sum) = (quantized.scale, quantized.sum);
        }
    }

    fn product(&self, matrix: &Matrix, x: Input<'_>, out: Output<'_>, worker: Worker<'_>) {
        match (&matrix.elements, x) {
            (Elements::Ternary(TernaryLayout::RowQuarters, codes, scale), x) => {
                self.ternary(&self.kernels.row_quarters, matrix, (codes, *scale), x, out, worker);
            }
            (Elements::Ternary(TernaryLayout::RowFifths, codes, scale), x) => {
                self.ternary(&self.kernels.row_fifths, matrix, (codes, *scale), x, out, worker);
            }
            (Elements::Dense(..), Input::F32(x)) => self.dense(matrix, x, self.tokens(), out, worker),
            (Elements::Dense(..) | Elements::Int8(..), _) => {
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
        worker: Worker<'_>,
    ) {
        let cols = matrix.cols;
        let share = worker.share(matrix.rows.div_ceil(N), 1);
        // SAFETY: taken once in this stage.
        let scratch = unsafe { self.scratch(worker) };
        for tokens in tiles(self.tokens(), TERNARY_TOKENS) {
            // One worker's lines go to the kernel in blocks whose sums fit the scratch.
            let block = (SUMS / N / tokens.len()).max(1);
            for first in share.clone().step_by(block) {
                let lines = first..share.end.min(first + block);
                let codes = &codes[lines.start * cols..lines.end * cols];
                let sums = &mut scratch[..lines.len() * tokens.len() * N];
                match x {
                    Input::Int8 { values, scales, sums: token_sums } => {
                        let acc: &mut [i32] = bytemuck::cast_slice_mut(sums);
                        let acc = acc.as_chunks_mut::<N>().0;
                        let values = &values[tokens.start * cols..tokens.end * cols];
                        (kernels.i8)(codes, values, &token_sums[tokens.clone()], acc);
                        let scales = &scales[tokens.clone()];
                        self.put_lines(matrix, lines, &tokens, acc, out, |t, acc| {
                            dequantize(acc, scales[t], scale)
                        });
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
            // One part of neighbouring lines is neighbouring rows; the last part may be short.
            let first = part * total + lines.start;
            let rows = first..matrix.rows.min(part * total + lines.end).max(first);
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

    fn dense(&self, matrix: &Matrix, x: &[f32], tokens: usize, out: Output<'_>, worker: Worker<'_>) {
        for row in worker.share(matrix.rows, 1) {
            let weights = dense_row(matrix, row);
            let bias = matrix.bias.as_ref().map(|bias| bias[row]);
            for tile in tiles(tokens, DENSE_TOKENS) {
                let mut products = [0f32; DENSE_TOKENS];
                let products = &mut products[..tile.len()];
                (self.kernels.dense)(weights, &x[tile.start * matrix.cols..tile.end * matrix.cols], products);
                for (t, &mut value) in tile.zip(products) {
                    let value = bias.map_or(value, |bias| value + bias);
                    // SAFETY: rows are shared out disjointly.
                    unsafe { out.put(t, row, value) };
                }
            }
        }
    }

    fn rope_append(&self, q: BufferId, k: BufferId, v: BufferId, layer: usize, worker: Worker<'_>) {
        let head_dim = self.attention.head_dim;
        let ((q_width, q), (kv_width, k), (_, v)) =
            (self.f32_buffer(q), self.f32_buffer(k), self.f32_buffer(v));
        for token in worker.share(self.tokens(), 1) {
            let angles = token * head_dim / 2..(token + 1) * head_dim / 2;
            let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
            let position = self.step.positions[token] as usize;
            let blocks = &self.step.block_tables[self.step.seq_of_token[token] as usize];
            let block = blocks[position / KV_BLOCK_TOKENS];
            let kv_row = token * kv_width..(token + 1) * kv_width;
            // SAFETY: tokens are shared out disjointly, and `CpuBackend::check` made sure that no two
            // tokens of the step have the same place in the cache.
            unsafe {
                let (q, k) = (q.get_mut(token * q_width..(token + 1) * q_width), k.get_mut(kv_row.clone()));
                (self.kernels.rotate)(q, head_dim, cos, sin);
                (self.kernels.rotate)(k, head_dim, cos, sin);
                self.kv.append(block, position, layer, Part::Keys, k);
                self.kv.append(block, position, layer, Part::Values, v.get(kv_row));
            }
        }
    }

    fn attention(&self, q: BufferId, layer: usize, out: BufferId, worker: Worker<'_>) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.attention;
        let ((width, q), (_, out)) = (self.f32_buffer(q), self.f32_buffer(out));
        let group = heads / kv_heads;
        // Later tokens see more positions, so units are dealt out in turn.
        for unit in (worker.index..self.tokens() * kv_heads).step_by(worker.count()) {
            let (token, kv_head) = (unit / kv_heads, unit % kv_heads);
            for first in (0..group).step_by(HEAD_TILE) {
                let count = HEAD_TILE.min(group - first);
                let start = token * width + (kv_head * group + first) * head_dim;
                let range = start..start + count * head_dim;
                // SAFETY: units are shared out disjointly; `q` is not written in this stage.
                let (q, out) = unsafe { (q.get(range.clone()), out.get_mut(range)) };
                self.attend(token, layer, kv_head, q, out);
            }
        }
    }

    /// Attends with at most `HEAD_TILE` query heads of one token that share a key/value head.
    fn attend(&self, token: usize, layer: usize, kv_head: usize, q: &[f32], out: &mut [f32]) {
        let head_dim = self.attention.head_dim;
        let mut states = [AttentionState::EMPTY; HEAD_TILE];
        let states = &mut states[..q.len() / head_dim];
        out.fill(0.0);
        let visible = self.step.positions[token] as usize + 1;
        let blocks = &self.step.block_tables[self.step.seq_of_token[token] as usize];
        for (index, &block) in blocks[..visible.div_ceil(KV_BLOCK_TOKENS)].iter().enumerate() {
            // SAFETY: a barrier separates this stage from every append to the layer.
            let (keys, values) = unsafe {
                let rows = |part| self.kv.rows(block, layer, part, kv_head);
                (rows(Part::Keys), rows(Part::Values))
            };
            let block = AttentionBlock {
                keys,
                values,
                count: KV_BLOCK_TOKENS.min(visible - index * KV_BLOCK_TOKENS),
                head_dim,
                scale: self.attention.scale,
            };
            (self.kernels.attend)(block, q, states, out);
        }
        (self.kernels.finish)(states, head_dim, out);
    }

    fn gate(&self, gate: BufferId, up: BufferId, activation: Activation, out: BufferId, worker: Worker<'_>) {
        let kernel = match activation {
            Activation::SquaredRelu => self.kernels.squared_relu,
            Activation::Silu => self.kernels.silu,
        };
        let in_place = gate == out;
        let ((width, gate), (_, up), (_, out)) =
            (self.f32_buffer(gate), self.f32_buffer(up), self.f32_buffer(out));
        // SAFETY: taken once in this stage.
        let scratch = unsafe { self.scratch(worker) };
        let share = worker.share(self.tokens() * width, 64);
        for start in share.clone().step_by(scratch.len().max(1)) {
            let range = start..share.end.min(start + scratch.len());
            // SAFETY: elements are shared out disjointly; `gate` and `out` are one buffer only when the
            // gate's part was copied to scratch before `out` is borrowed.
            unsafe {
                let gate = if in_place {
                    let copy = &mut scratch[..range.len()];
                    copy.copy_from_slice(gate.get(range.clone()));
                    &*copy
                } else {
                    gate.get(range.clone())
                };
                kernel(gate, up.get(range.clone()), out.get_mut(range));
            }
        }
    }

    fn head_norm(&self, x: BufferId, norm: Norm, fine: bool, worker: Worker<'_>) {
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

    fn head_product(&self, weights: LinearId, worker: Worker<'_>) {
        let (matrix, rows) = (self.matrix(weights), self.step.logits_rows.len());
        let out = Output { rows: self.logits, width: matrix.rows, accumulate: false };
        if let Elements::Int8(rows) = &matrix.elements {
            return self.int8_head(matrix, rows, out, worker);
        }
        // SAFETY: a barrier separates this stage from `head_norm`.
        let x = unsafe { self.head.normed.get(0..rows * matrix.cols) };
        self.dense(matrix, x, rows, out, worker);
    }

    /// Returns how far an int8 logit can be from the stored one: Cauchy and Schwarz's inequality for the error
    /// of the row and that of the activations, and the roundings of both sums.
    fn logit_error(rows: &Int8Rows, row: usize, norm: f32, error: f32) -> f32 {
        let (row_error, row_norm) = (rows.errors[row], rows.norms[row]);
        row_error * norm + (row_norm + row_error) * error + int8::ROUNDING * row_norm * norm
    }

    fn int8_head(&self, matrix: &Matrix, weights: &Int8Rows, out: Output<'_>, worker: Worker<'_>) {
        let (cols, count) = (matrix.cols, self.step.logits_rows.len());
        // SAFETY: a barrier separates this stage from `head_norm`; each worker has floors of its own.
        let (x, facts, floors) = unsafe {
            let floors = worker.index * count..(worker.index + 1) * count;
            (
                self.head.fine.get(0..count * cols),
                self.head.row.get(0..3 * count).as_chunks::<3>().0,
                self.head.floors.get_mut(floors),
            )
        };
        floors.fill(f32::NEG_INFINITY);
        let share = worker.share(matrix.rows, 1);
        // SAFETY: taken once in this stage.
        let scratch = unsafe { self.scratch(worker) };
        for tokens in tiles(count, TERNARY_TOKENS) {
            let block = (SUMS / tokens.len()).max(1);
            let x = &x[tokens.start * cols..tokens.end * cols];
            for first in share.clone().step_by(block) {
                let rows = first..share.end.min(first + block);
                let acc: &mut [i32] = bytemuck::cast_slice_mut(&mut scratch[..rows.len() * tokens.len()]);
                (self.kernels.int8_i16)(&weights.codes[rows.start * cols..rows.end * cols], cols, x, acc);
                for (row, acc) in rows.zip(acc.chunks_exact(tokens.len())) {
                    for (token, &acc) in tokens.clone().zip(acc) {
                        let [step, norm, error] = facts[token];
                        let value = acc as f32 * (step * weights.steps[row]);
                        floors[token] =
                            floors[token].max(value - Self::logit_error(weights, row, norm, error));
                        // SAFETY: rows are shared out disjointly.
                        unsafe { out.put(token, row, value) };
                    }
                }
            }
        }
    }

    /// Computes again, from the stored rows, every logit that may be the greatest.
    fn head_rescore(&self, weights: LinearId, worker: Worker<'_>) {
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
        for (token, (x, &[_, norm, error])) in normed.chunks_exact(cols).zip(facts).enumerate() {
            let floor = floors.iter().skip(token).step_by(count).copied().fold(f32::NEG_INFINITY, f32::max);
            let at = token * matrix.rows;
            for row in share.clone() {
                // SAFETY: rows are shared out disjointly.
                let value = unsafe { self.logits.get(at + row..at + row + 1)[0] };
                if value + Self::logit_error(rows, row, norm, error) >= floor {
                    let mut product = [0.0];
                    (self.kernels.dense)(dense_row(stored, row), x, &mut product);
                    // SAFETY: as above.
                    unsafe { out.put(token, row, product[0]) };
                }
            }
        }
    }
}

/// Returns a row of a matrix that is dense.
fn dense_row(matrix: &Matrix, row: usize) -> DenseRow<'_> {
    match matrix.dense_row(row) {
        Some(row) => row,
        None => unreachable!("CpuBackend::load_graph refuses ternary codes here"),
    }
}

/// Cuts `0..tokens` into tiles.
fn tiles(tokens: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..tokens).step_by(tile).map(move |start| start..tokens.min(start + tile))
}

/// Returns `acc / s_x * m`, or `acc / (s_x * s)`, in f32 as the reference evaluates it.
fn dequantize(acc: i32, activation_scale: f32, scale: WeightScale) -> f32 {
    match scale {
        WeightScale::Multiply(scale) => acc as f32 / activation_scale * scale,
        WeightScale::Divide(scale) => acc as f32 / (activation_scale * scale),
    }
}
