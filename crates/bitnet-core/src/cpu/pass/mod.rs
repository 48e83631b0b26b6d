//! The stages of a pass, as one worker runs its share of them.
//!
//! Work is cut along rows, tokens and heads, never along a sum: a result does not depend on the number of
//! workers or on the tokens beside it.

#![allow(unsafe_code)]

mod ahead;
mod attention;
mod head;
mod product;
mod quantize;

use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, PoisonError};

use bitnet_backend::{
    Activation, AttentionShape, BufferId, KV_BLOCK_TOKENS, LinearId, Norm, Op, Step, VectorId,
};
use bitnet_kernels::scalar::rope;
use bitnet_kernels::{DenseRow, Kernels};

use super::buffers::{BufferView, HeadView};
use super::kv::{KvView, Part, Unheld};
use super::plan::Stage;
use super::shared::SharedSlice;
use super::team::Worker;
use super::turn::Turn;
use super::weights::Matrix;
use crate::memory::PoolBuffer;

/// Tokens that share one reading of ternary or int8 rows.
const TERNARY_TOKENS: usize = 128;
/// Sums of one call of a kernel, of every row in it: what a worker's scratch has to hold.
const SUMS: usize = 8192;

/// Returns the floats of scratch that a worker needs at least.
pub const fn scratch(shape: AttentionShape) -> usize {
    let attention = attention::scratch(shape.head_dim);
    if attention > SUMS { attention } else { SUMS }
}

/// Everything that the stages of one pass touch.
pub struct Pass<'a> {
    pub kernels: &'a Kernels,
    pub step: &'a Step,
    pub attention: AttentionShape,
    pub matrices: &'a [Matrix],
    pub vectors: &'a [PoolBuffer<f32>],
    pub buffers: &'a [BufferView<'a>],
    pub kv: KvView<'a>,
    /// The first number that the cache does not hold.
    pub unheld: Mutex<Option<Unheld>>,
    /// `[head_dim / 2]`.
    pub frequencies: &'a [f32],
    /// `[tokens, head_dim / 2]`.
    pub cos: SharedSlice<'a, f32>,
    /// `[tokens, head_dim / 2]`.
    pub sin: SharedSlice<'a, f32>,
    /// What the head multiplies.
    pub head: HeadView<'a>,
    /// `[logits_rows, vocab]`.
    pub logits: SharedSlice<'a, f32>,
    /// `[workers, scratch_width]`.
    pub scratch: SharedSlice<'a, f32>,
    pub scratch_width: usize,
    /// What attention over parts of a sequence leaves to be merged.
    pub parts: PartsView<'a>,
    /// Pieces that were taken, of each stage; zero at the start.
    pub taken: &'a [AtomicUsize],
    /// Whether each worker computes int8 rows for itself, in a row of its own: the step has one token.
    pub alone: bool,
}

pub use attention::{Parts, PartsView};

/// Rows `x` of a product, in f32 or quantised.
#[derive(Clone, Copy)]
enum Input<'a> {
    F32(&'a [f32]),
    Int8 { values: &'a [i8], scales: &'a [f32], sums: &'a [i32] },
}

impl<'a> Pass<'a> {
    /// Runs all stages as one worker.
    ///
    /// The stages were checked against the graph, the graph against the matrices, and the step against
    /// the graph and the cache; `plan::stages` put a barrier between every two stages of which one
    /// writes what the other touches. This is what the `unsafe` accesses below rely on.
    pub fn run(&self, stages: &[Stage], worker: Worker<'_>) {
        debug_assert!(stages.len() <= self.taken.len());
        for (index, (stage, taken)) in stages.iter().zip(self.taken).enumerate() {
            let turn = Turn::new(worker, taken);
            match *stage {
                Stage::Barrier => worker.barrier(),
                Stage::Op(op) => self.op(op, turn),
                Stage::Angles => self.angles(worker),
                Stage::GateQuantize { gate, up, activation, norm, out, .. } => {
                    self.gate_quantize([gate, up, out], activation, norm, worker);
                }
                Stage::RopeAttention { q, k, v, layer, out } => {
                    self.rope_attention([q, k, v, out], layer as usize, turn);
                }
                Stage::HeadNorm { x, norm, weights } => {
                    self.head_norm(x, norm, self.matrix(weights).narrow(), worker);
                }
                Stage::HeadProduct { weights } => self.head_product(weights, turn),
                Stage::HeadRescore { weights } => self.head_rescore(weights, worker),
            }
            if self.alone && matches!(stage, Stage::Op(Op::Embed { .. } | Op::Linear { .. })) {
                self.ask_ahead(&stages[index + 1..], worker);
            }
        }
    }

    fn op(&self, op: Op, turn: Turn<'_>) {
        let worker = turn.worker;
        match op {
            Op::Embed { table, out } => self.embed(table, out, worker),
            Op::Norm { x, norm, out } => self.norm(x, norm, out, worker),
            Op::Quantize { x, norm, out } => self.quantize(x, norm, out, worker),
            Op::Linear { x, weights, out, accumulate } => {
                let (width, rows) = self.f32_buffer(out);
                // SAFETY: the op reads `x`, so a barrier separates this stage from any that writes it.
                let input = unsafe { self.input(x, worker) };
                let out = product::Output { rows, width, accumulate };
                self.product(self.matrix(weights), input, out, turn);
            }
            Op::RopeAppend { q, k, v, layer } => self.rope_append(q, k, v, layer as usize, worker),
            Op::Attention { q, layer, out } => self.attention(q, layer as usize, out, turn),
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
    /// No stage between the two barriers around this one writes the buffer, but for this worker's own row.
    unsafe fn input(&self, id: BufferId, worker: Worker<'_>) -> Input<'a> {
        let tokens = self.tokens();
        let own = self.int8_rows(worker);
        // SAFETY: by this function's contract.
        unsafe {
            match self.buffers[id.0 as usize] {
                BufferView::F32(width, values) => Input::F32(values.get(0..tokens * width)),
                BufferView::Int8(width, values, scales, sums) => Input::Int8 {
                    values: values.get(own.start * width..own.end * width),
                    scales: scales.get(own.clone()),
                    sums: sums.get(own),
                },
            }
        }
    }

    /// Returns the rows of an int8 buffer that hold the step's tokens for a worker.
    fn int8_rows(&self, worker: Worker<'_>) -> Range<usize> {
        if self.alone { worker.index..worker.index + 1 } else { 0..self.tokens() }
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

    fn angles(&self, worker: Worker<'_>) {
        let half = self.frequencies.len();
        for token in worker.share(self.tokens(), 1) {
            let row = token * half..(token + 1) * half;
            // SAFETY: tokens are shared out disjointly, and nobody rotates in this stage.
            let (cos, sin) = unsafe { (self.cos.get_mut(row.clone()), self.sin.get_mut(row)) };
            rope::angles(self.step.positions[token], self.frequencies, cos, sin);
        }
    }

    fn rope_append(&self, q: BufferId, k: BufferId, v: BufferId, layer: usize, worker: Worker<'_>) {
        for token in worker.share(self.tokens(), 1) {
            for kv_head in 0..self.attention.kv_heads {
                // SAFETY: tokens are shared out disjointly.
                unsafe { self.rope_append_head([q, k, v], layer, token, kv_head) };
            }
        }
    }

    /// Rotates one key head of a token and the query heads that attend to it, and appends key and value to
    /// the cache.
    ///
    /// # Safety
    /// No other worker touches these heads of the token in this stage.
    unsafe fn rope_append_head(&self, [q, k, v]: [BufferId; 3], layer: usize, token: usize, kv_head: usize) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.attention;
        let group = heads / kv_heads * head_dim;
        let ((q_width, q), (kv_width, k), (_, v)) =
            (self.f32_buffer(q), self.f32_buffer(k), self.f32_buffer(v));
        let angles = token * head_dim / 2..(token + 1) * head_dim / 2;
        // SAFETY: a barrier separates this stage from the one that writes them.
        let (cos, sin) = unsafe { (self.cos.get(angles.clone()), self.sin.get(angles)) };
        let position = self.step.positions[token] as usize;
        let blocks = &self.step.block_tables[self.step.seq_of_token[token] as usize];
        let block = blocks[position / KV_BLOCK_TOKENS];
        let at = token * q_width + kv_head * group;
        let kv_at = token * kv_width + kv_head * head_dim;
        // SAFETY: exclusive by this function's contract, and `Loaded::check` made sure that no two tokens of
        // the step have the same place in the cache.
        unsafe {
            let (q, k) = (q.get_mut(at..at + group), k.get_mut(kv_at..kv_at + head_dim));
            (self.kernels.rotate)(q, head_dim, cos, sin);
            (self.kernels.rotate)(k, head_dim, cos, sin);
            for (part, row) in [(Part::Keys, &*k), (Part::Values, v.get(kv_at..kv_at + head_dim))] {
                if let Err(found) = self.kv.append(block, position, layer, part, kv_head, row) {
                    self.note(Unheld { layer, token, head: kv_head, part, found });
                }
            }
        }
    }

    /// Keeps the first of the numbers that the cache does not hold, whoever comes to it when.
    #[cold]
    fn note(&self, unheld: Unheld) {
        let mut first = self.unheld.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none_or(|first| unheld.place() < first.place()) {
            *first = Some(unheld);
        }
    }

    fn gate_kernel(&self, activation: Activation) -> fn(&[f32], &[f32], &mut [f32]) {
        match activation {
            Activation::SquaredRelu => self.kernels.squared_relu,
            Activation::Silu => self.kernels.silu,
        }
    }

    fn gate(&self, gate: BufferId, up: BufferId, activation: Activation, out: BufferId, worker: Worker<'_>) {
        let kernel = self.gate_kernel(activation);
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
}

/// Returns a row of a matrix that is dense.
fn dense_row(matrix: &Matrix, row: usize) -> DenseRow<'_> {
    match matrix.dense_row(row) {
        Some(row) => row,
        None => unreachable!("CpuBackend::load_graph refuses ternary codes here"),
    }
}

/// Returns rows of a matrix that is dense.
fn dense_rows(matrix: &Matrix, rows: Range<usize>) -> DenseRow<'_> {
    match matrix.dense_rows(rows) {
        Some(rows) => rows,
        None => unreachable!("CpuBackend::load_graph refuses ternary codes here"),
    }
}

/// Cuts `0..tokens` into tiles.
fn tiles(tokens: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..tokens).step_by(tile).map(move |start| start..tokens.min(start + tile))
}
