//! Attention of query rows over blocks of cached positions.
//!
//! The softmax is online. Each block of 64 positions, aligned to the sequence, gives its own greatest score,
//! its own sum and weighted values; blocks are merged in order, each side rescaled by `exp(its max - new max)`.
//! Since blocks are cut by position alone and computed apart, the result depends neither on how the sequence
//! was fed (whole, in chunks, or token by token), nor on the rows computed together, nor on who computed a
//! block.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::exp::exp;
use super::lanes::{self, LANES, Lanes};

/// Positions in a block.
pub const BLOCK: usize = 64;
/// Elements of a head, at most.
pub const MAX_HEAD_DIM: usize = 512;
/// Query rows of a call, at most.
pub const ROWS: usize = 64;

/// Rows of keys or values of one head and block, `[positions, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub enum KvRows<'a> {
    /// binary32.
    F32(&'a [f32]),
    /// binary16.
    F16(&'a [f16]),
}

impl KvRows<'_> {
    /// Returns the number of elements.
    fn len(&self) -> usize {
        match self {
            KvRows::F32(rows) => rows.len(),
            KvRows::F16(rows) => rows.len(),
        }
    }
}

/// Running maximum and sum of one query row.
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
    /// Keys `[64, head_dim]`.
    pub keys: KvRows<'a>,
    /// Values `[64, head_dim]`.
    pub values: KvRows<'a>,
    /// Elements a head.
    pub head_dim: usize,
    /// `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// Returns the distance between rows of queries and outputs: `head_dim` rounded up to whole lanes. What lies
/// between is zero in queries and stays zero in outputs.
pub const fn stride(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Returns the floats of scratch that a call with `rows` rows needs.
pub const fn scratch_len(rows: usize, head_dim: usize) -> usize {
    rows * BLOCK + (BLOCK + 1) * stride(head_dim)
}

/// Merges one block into the states and unnormalised outputs of the query rows.
///
/// Row `r` sees the first `counts[r]` positions of the block, 1 to 64.
///
/// # Shapes
/// `queries` and `out` `[counts.len(), stride(head_dim)]`, `scratch` [`scratch_len`].
///
/// # Panics
/// When a length, a count, the rows or the width of the head are not what they have to be.
#[inline(always)]
pub fn attend(
    block: AttentionBlock<'_>,
    counts: &[usize],
    queries: &[f32],
    states: &mut [AttentionState],
    out: &mut [f32],
    scratch: &mut [f32],
) {
    check(&block, counts, queries, states, out);
    let (head_dim, stride) = (block.head_dim, stride(block.head_dim));
    let (scores, rest) = scratch.split_at_mut(counts.len() * BLOCK);
    let (wide, sum) = rest.split_at_mut(BLOCK * stride);
    let sum = &mut sum[..head_dim];
    let longest = counts.iter().copied().max().unwrap_or(0);
    widen(block.keys, longest, head_dim, stride, wide);
    for ((&count, query), scores) in
        counts.iter().zip(queries.chunks_exact(stride)).zip(scores.chunks_exact_mut(BLOCK))
    {
        for (score, key) in scores.iter_mut().zip(wide.chunks_exact(stride)).take(count) {
            *score = lanes::dot(query, key) * block.scale;
        }
    }
    widen(block.values, longest, head_dim, stride, wide);
    let rows =
        counts.iter().zip(scores.as_chunks_mut::<BLOCK>().0).zip(states).zip(out.chunks_exact_mut(stride));
    for (((&count, scores), state), out) in rows {
        let own = softmax(scores, count);
        sum.fill(0.0);
        for (&weight, value) in scores.iter().zip(wide.chunks_exact(stride)).take(count) {
            for (sum, &value) in sum.iter_mut().zip(value) {
                *sum += weight * value;
            }
        }
        merge_row(own, sum, state, out);
    }
}

/// Checks what a call is given besides its scratch: offsets that follow from it neither wrap nor pass an end.
///
/// # Panics
/// As [`attend`].
#[inline(always)]
pub(crate) fn check(
    block: &AttentionBlock<'_>,
    counts: &[usize],
    queries: &[f32],
    states: &[AttentionState],
    out: &[f32],
) {
    let (rows, head_dim) = (counts.len(), block.head_dim);
    assert!(rows <= ROWS && (1..=MAX_HEAD_DIM).contains(&head_dim), "{rows} rows of heads of {head_dim}");
    assert!(counts.iter().all(|count| (1..=BLOCK).contains(count)), "positions of a block");
    let queried = rows * stride(head_dim);
    assert!(queries.len() == queried && out.len() == queried && states.len() == rows, "rows of a call");
    let seen = counts.iter().copied().max().unwrap_or(0) * head_dim;
    assert!(block.keys.len() >= seen && block.values.len() >= seen, "keys and values of a block");
}

/// Writes the first `count` rows as f32, `stride` apart and zero between them.
#[inline(always)]
fn widen(rows: KvRows<'_>, count: usize, head_dim: usize, stride: usize, out: &mut [f32]) {
    for (position, out) in out.chunks_exact_mut(stride).enumerate().take(count) {
        let (out, rest) = out.split_at_mut(head_dim);
        rest.fill(0.0);
        let at = position * head_dim..(position + 1) * head_dim;
        match rows {
            KvRows::F32(rows) => out.copy_from_slice(&rows[at]),
            KvRows::F16(rows) => rows[at].convert_to_f32_slice(out),
        }
    }
}

/// Turns the first `count` scores into `exp(score - max)` and the others into 0, and returns the maximum
/// and the sum over virtual lanes.
#[inline(always)]
pub fn softmax(scores: &mut [f32; BLOCK], count: usize) -> AttentionState {
    // Past the end stands what adds nothing: exp of it is 0, and a lane that is not negative keeps its bits.
    scores[count..].fill(f32::NEG_INFINITY);
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for scores in scores.as_chunks::<LANES>().0 {
        for (lane, &score) in lanes.iter_mut().zip(scores) {
            *lane = if score > *lane { score } else { *lane };
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = if lanes[l + half] > lanes[l] { lanes[l + half] } else { lanes[l] };
        }
        half /= 2;
    }
    let max = lanes[0];
    let mut sum = Lanes::ZERO;
    for scores in scores.as_chunks_mut::<LANES>().0 {
        scores.iter_mut().for_each(|score| *score = exp(*score - max));
        sum.add_all(scores);
    }
    AttentionState { max, sum: sum.reduce() }
}

/// Returns the merged state, and the factors of what was there and of what comes.
#[inline(always)]
pub fn merged(state: AttentionState, own: AttentionState) -> (AttentionState, f32, f32) {
    let max = if own.max > state.max { own.max } else { state.max };
    let (past, new) = (exp(state.max - max), exp(own.max - max));
    (AttentionState { max, sum: state.sum * past + own.sum * new }, past, new)
}

#[inline(always)]
fn merge_row(own: AttentionState, values: &[f32], state: &mut AttentionState, out: &mut [f32]) {
    let (past, new);
    (*state, past, new) = merged(*state, own);
    for (out, &value) in out.iter_mut().zip(values) {
        *out = *out * past + value * new;
    }
}

/// Merges the states and outputs of the next block, computed apart, into those of what came before.
///
/// # Shapes
/// `values` and `out` `[states.len(), stride(head_dim)]`.
#[inline(always)]
pub fn merge(own: &[AttentionState], values: &[f32], states: &mut [AttentionState], out: &mut [f32]) {
    let stride = out.len() / states.len().max(1);
    let rows = own.iter().zip(values.chunks_exact(stride)).zip(states).zip(out.chunks_exact_mut(stride));
    rows.for_each(|(((&own, values), state), out)| merge_row(own, values, state, out));
}

/// Divides the outputs by their sums, once all blocks are merged. `out` is `[states.len(), stride(head_dim)]`.
#[inline(always)]
pub fn finish(states: &[AttentionState], out: &mut [f32]) {
    let stride = out.len() / states.len().max(1);
    for (state, out) in states.iter().zip(out.chunks_exact_mut(stride)) {
        let inverse = 1.0 / state.sum;
        out.iter_mut().for_each(|out| *out *= inverse);
    }
}
