//! `attend`: scores and weighted values as small matrix products over the query rows of a call.

use std::arch::x86_64::*;

use super::{Element, Register, products, reduce};
use crate::scalar::attention::{
    AttentionBlock, AttentionState, BLOCK, check, merged, scratch_len, softmax, stride,
};
use crate::scalar::lanes::LANES;

/// Rows up to which keys and values are widened in registers, once a row, rather than once in memory.
const DIRECT: usize = 2;
/// Positions whose sums wait for one another before they are added up across lanes.
const KEYS: usize = 8;

/// The contract of `scalar::attention::attend`, on rows of one type: `Q` query rows at a time meet the keys, `W`
/// rows of weights the values.
///
/// # Safety
/// The features of `V`, AVX2 and F16C are there.
#[inline(always)]
pub unsafe fn attend<V: Register, E: Element, const Q: usize, const W: usize>(
    block: AttentionBlock<'_>,
    (keys, values): (&[E], &[E]),
    counts: &[usize],
    queries: &[f32],
    states: &mut [AttentionState],
    out: &mut [f32],
    scratch: &mut [f32],
) {
    check(&block, counts, queries, states, out);
    let (head_dim, stride, rows) = (block.head_dim, stride(block.head_dim), counts.len());
    let longest = counts.iter().copied().max().unwrap_or(0);
    assert!(keys.len() >= longest * head_dim && values.len() >= longest * head_dim);
    let scratch = &mut scratch[..scratch_len(rows, head_dim)];
    let (scores, wide) = scratch.split_at_mut(rows * BLOCK);
    // SAFETY: the lengths were checked, of `wide` there are 64 rows; features by the contract.
    unsafe {
        if rows <= DIRECT && head_dim == stride {
            // Too few rows for the widening to pay.
            score_all::<V, E, Q>(keys.as_ptr(), longest, rows, (queries, stride), block.scale, scores);
            let scores = scores.as_chunks_mut::<BLOCK>().0;
            return weigh_all::<V, E, W>(values.as_ptr(), counts, scores, states, out);
        }
        widen::<V, E>(keys, longest, head_dim, wide);
        score_all::<V, f32, Q>(wide.as_ptr(), longest, rows, (queries, stride), block.scale, scores);
        widen::<V, E>(values, longest, head_dim, wide);
        weigh_all::<V, f32, W>(wide.as_ptr(), counts, scores.as_chunks_mut::<BLOCK>().0, states, out);
    }
}

/// Writes the scores of all rows with the first `longest` keys, `stride` apart.
///
/// # Safety
/// The keys and queries exist, `scores` holds `BLOCK` a row; features as [`attend`].
#[inline(always)]
unsafe fn score_all<V: Register, E: Element, const Q: usize>(
    keys: *const E,
    longest: usize,
    rows: usize,
    (queries, stride): (&[f32], usize),
    scale: f32,
    scores: &mut [f32],
) {
    for first in (0..longest).step_by(KEYS) {
        let count = KEYS.min(longest - first);
        let mut row = 0;
        while row < rows {
            let wide = row + Q <= rows;
            // SAFETY: by the contract.
            unsafe {
                let key = |k: usize| keys.add((first + k.min(count - 1)) * stride);
                let (queries, out) = (queries.as_ptr().add(row * stride), &mut scores[row * BLOCK + first..]);
                if wide {
                    score::<V, E, Q>(queries, stride, key, scale, out);
                } else {
                    score::<V, E, 1>(queries, stride, key, scale, out);
                }
            }
            row += if wide { Q } else { 1 };
        }
    }
}

/// Turns the scores of all rows into weights and merges the weighted values.
///
/// # Safety
/// The values that `counts` names exist, slices are of as many rows; features as [`attend`].
#[inline(always)]
unsafe fn weigh_all<V: Register, E: Element, const W: usize>(
    values: *const E,
    counts: &[usize],
    scores: &mut [[f32; BLOCK]],
    states: &mut [AttentionState],
    out: &mut [f32],
) {
    let rows = counts.len();
    let stride = out.len() / rows.max(1);
    let mut row = 0;
    while row < rows {
        let wide = row + W <= rows;
        let at = row..row + if wide { W } else { 1 };
        let (scores, states) = (&mut scores[at.clone()], &mut states[at.clone()]);
        let out = &mut out[at.start * stride..at.end * stride];
        // SAFETY: by the contract.
        unsafe {
            if wide {
                weigh::<V, E, W>(values, &counts[at.clone()], scores, states, out);
            } else {
                weigh::<V, E, 1>(values, &counts[at.clone()], scores, states, out);
            }
        }
        row = at.end;
    }
}

/// Writes the first `count` rows as f32, whole lanes apart and zero between them.
///
/// # Safety
/// The rows and their place exist; features as [`attend`].
#[inline(always)]
unsafe fn widen<V: Register, E: Element>(rows: &[E], count: usize, head_dim: usize, out: &mut [f32]) {
    let (stride, whole) = (stride(head_dim), head_dim / V::WIDTH * V::WIDTH);
    for position in 0..count {
        let (from, to) = (position * head_dim, position * stride);
        for at in (0..whole).step_by(V::WIDTH) {
            // SAFETY: by the contract.
            unsafe { E::load::<V>(rows.as_ptr().add(from + at)).store(out.as_mut_ptr().add(to + at)) };
        }
        for at in whole..stride {
            out[to + at] = if at < head_dim { rows[from + at].widen() } else { 0.0 };
        }
    }
}

/// Writes the scores of `Q` rows with eight keys, `BLOCK` apart.
///
/// # Safety
/// `Q` rows of `stride` floats at `queries`, one of as many elements at each key; features as [`attend`].
#[inline(always)]
unsafe fn score<V: Register, E: Element, const Q: usize>(
    queries: *const f32,
    stride: usize,
    key: impl Fn(usize) -> *const E,
    scale: f32,
    out: &mut [f32],
) {
    let out = &mut out[..(Q - 1) * BLOCK + KEYS];
    let mut eights = [[0.0f32; 8 * KEYS]; Q];
    // SAFETY: by the contract; what is written was sized above.
    unsafe {
        let mut a = [queries; Q];
        for q in 0..Q {
            a[q] = queries.add(q * stride);
        }
        for k in (0..KEYS).step_by(2) {
            let pairs = products::<V, E, Q, 2>(a, [key(k), key(k + 1)], stride);
            for q in 0..Q {
                _mm256_storeu_ps(eights[q].as_mut_ptr().add(8 * k), pairs[q][0]);
                _mm256_storeu_ps(eights[q].as_mut_ptr().add(8 * (k + 1)), pairs[q][1]);
            }
        }
        for q in 0..Q {
            let scores = _mm256_mul_ps(reduce::eight(eights[q].as_ptr()), _mm256_set1_ps(scale));
            _mm256_storeu_ps(out.as_mut_ptr().add(q * BLOCK), scores);
        }
    }
}

/// Turns the scores of `Q` rows into weights and merges the weighted values.
///
/// # Safety
/// The values that `counts` names exist; slices are `Q` rows; features as [`attend`].
#[inline(always)]
unsafe fn weigh<V: Register, E: Element, const Q: usize>(
    values: *const E,
    counts: &[usize],
    scores: &mut [[f32; BLOCK]],
    states: &mut [AttentionState],
    out: &mut [f32],
) {
    let stride = out.len() / Q;
    let (mut past, mut new) = ([0.0; Q], [0.0; Q]);
    for q in 0..Q {
        let own = softmax(&mut scores[q], counts[q]);
        (states[q], past[q], new[q]) = merged(states[q], own);
    }
    let common = counts.iter().copied().min().unwrap_or(0);
    for start in (0..stride).step_by(LANES) {
        // SAFETY: `start + 32` is at most the stride of every row; rows by the contract.
        unsafe {
            let mut sums = [[V::splat(0.0); 4]; Q];
            let column = values.add(start);
            for position in 0..common {
                let value = column.add(position * stride);
                let mut weights = [V::splat(0.0); Q];
                for q in 0..Q {
                    weights[q] = V::splat(scores[q][position]);
                }
                for r in 0..V::COUNT {
                    let value = E::load::<V>(value.add(r * V::WIDTH));
                    for q in 0..Q {
                        sums[q][r] = sums[q][r].add(weights[q].mul(value));
                    }
                }
            }
            for q in 0..Q {
                for position in common..counts[q] {
                    let weight = V::splat(scores[q][position]);
                    for r in 0..V::COUNT {
                        let value = E::load::<V>(column.add(position * stride + r * V::WIDTH));
                        sums[q][r] = sums[q][r].add(weight.mul(value));
                    }
                }
                for r in 0..V::COUNT {
                    let at = out.as_mut_ptr().add(q * stride + start + r * V::WIDTH);
                    let old = V::load(at).mul(V::splat(past[q]));
                    old.add(sums[q][r].mul(V::splat(new[q]))).store(at);
                }
            }
        }
    }
}
