//! Attention of one token's query heads over one block of cached positions.
//!
//! The softmax is online: blocks of 64 positions, aligned to the sequence, are merged in order, each
//! rescaling what came before by `exp(old max - new max)`. Since blocks are cut by position alone, the
//! result does not depend on how the sequence was fed (whole, in chunks, or token by token).

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::exp::exp;
use super::lanes::{self, LANES};

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

impl KvRows<'_> {
    /// Returns row `index` as f32, widened into `wide` when it is stored narrower.
    #[inline(always)]
    fn row<'b>(&'b self, index: usize, head_dim: usize, wide: &'b mut [f32]) -> &'b [f32] {
        match self {
            KvRows::F32(rows) => &rows[index * head_dim..][..head_dim],
            KvRows::F16(rows) => {
                rows[index * head_dim..][..head_dim].convert_to_f32_slice(wide);
                wide
            }
        }
    }
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
    let AttentionBlock { keys, values, count, head_dim, scale } = block;
    let mut wide = [0.0f32; MAX_HEAD_DIM];
    let wide = &mut wide[..head_dim];
    // Two passes a head group of at most 8 keep the scores in the frame.
    const GROUP: usize = 8;
    let heads = states.chunks_mut(GROUP).zip(queries.chunks(GROUP * head_dim)).zip(out.chunks_mut(GROUP * head_dim));
    for ((states, queries), out) in heads {
        let mut weights = [[0.0f32; BLOCK]; GROUP];
        for position in 0..count {
            let key = keys.row(position, head_dim, wide);
            for (weights, query) in weights.iter_mut().zip(queries.chunks_exact(head_dim)) {
                weights[position] = lanes::dot(query, key) * scale;
            }
        }
        for ((state, weights), out) in states.iter_mut().zip(&mut weights).zip(out.chunks_exact_mut(head_dim)) {
            rescale(state, &mut weights[..count], out);
        }
        for position in 0..count {
            let value = values.row(position, head_dim, wide);
            for (weights, out) in weights.iter().zip(out.chunks_exact_mut(head_dim)) {
                let weight = weights[position];
                for (out, &value) in out.iter_mut().zip(value) {
                    *out += weight * value;
                }
            }
        }
    }
}

/// Turns scores into `exp(score - max)`, rescaling state and output to the new maximum.
#[inline(always)]
fn rescale(state: &mut AttentionState, scores: &mut [f32], out: &mut [f32]) {
    let mut max = state.max;
    for &score in scores.iter() {
        max = if score > max { score } else { max };
    }
    let correction = exp(state.max - max);
    let mut lanes = [0.0f32; LANES];
    for (index, score) in scores.iter_mut().enumerate() {
        *score = exp(*score - max);
        lanes[index % LANES] += *score;
    }
    state.sum = state.sum * correction + lanes::reduce(lanes);
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
