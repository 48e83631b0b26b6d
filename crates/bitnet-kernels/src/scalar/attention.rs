//! Attention of one token's query heads over one block of cached positions.
//!
//! The softmax is online: blocks of 64 positions, aligned to the sequence, are merged in order, each
//! rescaling what came before by `exp(old max - new max)`. Since blocks are cut by position alone, the
//! result does not depend on how the sequence was fed (whole, in chunks, or token by token).

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::exp::exp;
use super::lanes::{self, Lanes};

/// Positions in a block.
pub const BLOCK: usize = 64;
/// The widest head that the kernel keeps in its own frame.
pub const MAX_HEAD_DIM: usize = 512;

/// Rows of keys or values of one head and block, `[positions, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub enum KvRows<'a> {
    /// binary32.
    F32(&'a [f32]),
    /// binary16.
    F16(&'a [f16]),
}

/// Running maximum and sum of one query head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionState {
    /// Greatest score so far.
    pub max: f32,
    /// Sum of `exp(score - max)` so far.
    pub sum: f32,
}

impl AttentionState {
    /// The state before any position.
    pub const EMPTY: AttentionState = AttentionState { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// The cached positions that one call covers.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBlock<'a> {
    /// Keys `[count, head_dim]`, at least.
    pub keys: KvRows<'a>,
    /// Values `[count, head_dim]`, at least.
    pub values: KvRows<'a>,
    /// Positions to attend to, 1 to 64.
    pub count: usize,
    /// Elements a head, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// Merges one block into the states and unnormalised outputs of the query heads that share it.
///
/// # Shapes
/// `queries` and `out` `[states.len(), head_dim]`.
#[inline(always)]
pub fn attend(block: AttentionBlock<'_>, queries: &[f32], states: &mut [AttentionState], out: &mut [f32]) {
    let stride = HEADS * block.head_dim;
    let heads = states.chunks_mut(HEADS).zip(queries.chunks(stride)).zip(out.chunks_mut(stride));
    for ((states, queries), out) in heads {
        let mut weights = [[0.0f32; BLOCK]; HEADS];
        each_row(block.keys, block.count, block.head_dim, |position, key| {
            for (weights, query) in weights.iter_mut().zip(queries.chunks_exact(key.len())) {
                weights[position] = lanes::dot(query, key) * block.scale;
            }
        });
        for ((state, weights), out) in
            states.iter_mut().zip(&mut weights).zip(out.chunks_exact_mut(block.head_dim))
        {
            rescale(state, &mut weights[..block.count], out);
        }
        each_row(block.values, block.count, block.head_dim, |position, value| {
            for (weights, out) in weights.iter().zip(out.chunks_exact_mut(value.len())) {
                let weight = weights[position];
                for (out, &value) in out.iter_mut().zip(value) {
                    *out += weight * value;
                }
            }
        });
    }
}

/// Query heads that share one reading of a block; their scores stay in the frame.
pub const HEADS: usize = 8;

/// Hands the first `count` rows to `each`, widened to f32.
#[inline(always)]
fn each_row(rows: KvRows<'_>, count: usize, head_dim: usize, mut each: impl FnMut(usize, &[f32])) {
    match rows {
        KvRows::F32(rows) => {
            for (position, row) in rows.chunks_exact(head_dim).take(count).enumerate() {
                each(position, row);
            }
        }
        KvRows::F16(rows) => {
            let mut wide = [0.0f32; MAX_HEAD_DIM];
            let wide = &mut wide[..head_dim];
            for (position, row) in rows.chunks_exact(head_dim).take(count).enumerate() {
                row.convert_to_f32_slice(wide);
                each(position, wide);
            }
        }
    }
}

/// Turns scores into `exp(score - max)`, rescaling state and output to the new maximum.
#[inline(always)]
pub fn rescale(state: &mut AttentionState, scores: &mut [f32], out: &mut [f32]) {
    let mut max = state.max;
    for &score in scores.iter() {
        max = if score > max { score } else { max };
    }
    let correction = exp(state.max - max);
    scores.iter_mut().for_each(|score| *score = exp(*score - max));
    let mut lanes = Lanes::ZERO;
    scores.iter().enumerate().for_each(|(index, &score)| lanes.add(index, score));
    state.sum = state.sum * correction + lanes.reduce();
    state.max = max;
    out.iter_mut().for_each(|out| *out *= correction);
}

/// Divides the outputs by their sums, once all blocks are merged.
#[inline(always)]
pub fn finish(states: &[AttentionState], head_dim: usize, out: &mut [f32]) {
    for (state, out) in states.iter().zip(out.chunks_exact_mut(head_dim)) {
        let inverse = 1.0 / state.sum;
        out.iter_mut().for_each(|out| *out *= inverse);
    }
}
