//! `avx2-dense` and `avx2-attend`: the 32 virtual lanes as four registers.
//!
//! Additions and multiplications are those of the scalar tier, in the same order for every lane; rows narrower
//! than f32 are widened in registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::scalar::attention::{self, AttentionBlock, AttentionState, BLOCK, HEADS, KvRows, rescale};
use crate::scalar::dense::DenseRow;
use crate::scalar::lanes::LANES;

/// Floats in a register.
const WIDTH: usize = 8;
/// Registers of one sum.
const REGISTERS: usize = LANES / WIDTH;

/// Bytes by which a row is prefetched ahead of its use.
const AHEAD: usize = 4096;

type Sum = [__m256; REGISTERS];

/// Elements that are read as f32.
///
/// The methods are `inline(always)` without a target feature of their own, as a trait demands: they become part
/// of their callers here, which have it.
trait Element: Copy {
    /// Widens eight elements.
    ///
    /// # Safety
    /// Eight elements can be read from `at`; AVX2 and F16C are there.
    unsafe fn load_eight(at: *const Self) -> __m256;

    /// Widens one.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load_eight(at: *const f32) -> __m256 {
        // SAFETY: by the contract; `loadu` asks for no alignment.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load_eight(at: *const f16) -> __m256 {
        // SAFETY: by the contract; `loadu` asks for no alignment.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load_eight(at: *const bf16) -> __m256 {
        // SAFETY: by the contract; `loadu` asks for no alignment.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Widens elements `start..start + 32` of a row.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn lanes_at<T: Element>(row: &[T], start: usize) -> Sum {
    // SAFETY: eight elements each at four offsets that exist, by the contract; the features are this
    // function's own.
    [0, 1, 2, 3].map(|r| unsafe { T::load_eight(row.as_ptr().add(start + r * WIDTH)) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_lanes(values: &[f32]) -> Sum {
    let values = &values[..LANES];
    // SAFETY: 32 readable bytes at each of four offsets of 32 floats.
    [0, 1, 2, 3].map(|r| unsafe { _mm256_loadu_ps(values.as_ptr().add(r * WIDTH)) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_lanes(sum: Sum, values: &mut [f32]) {
    let values = &mut values[..LANES];
    for (r, &register) in sum.iter().enumerate() {
        // SAFETY: 32 writable bytes at each of four offsets of 32 floats.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr().add(r * WIDTH), register) };
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn zero() -> Sum {
    [_mm256_setzero_ps(); REGISTERS]
}

/// Adds products, rounding each before the addition.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_add(sum: Sum, a: Sum, b: Sum) -> Sum {
    let term = |r: usize| _mm256_add_ps(sum[r], _mm256_mul_ps(a[r], b[r]));
    [term(0), term(1), term(2), term(3)]
}

/// Adds the lanes up by halving, as `Lanes::reduce`.
#[inline]
#[target_feature(enable = "avx2")]
fn reduce(sum: Sum) -> f32 {
    let eight = _mm256_add_ps(_mm256_add_ps(sum[0], sum[2]), _mm256_add_ps(sum[1], sum[3]));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// Adds the products past the last whole 32, each to its lane, and reduces.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn finish_sum<T: Element>(sum: Sum, row: &[T], x: &[f32]) -> f32 {
    let whole = row.len() / LANES * LANES;
    if whole == row.len() {
        return reduce(sum);
    }
    let mut lanes = [0.0; LANES];
    store_lanes(sum, &mut lanes);
    for (lane, index) in lanes.iter_mut().zip(whole..row.len()) {
        *lane += row[index].widen() * x[index];
    }
    reduce(load_lanes(&lanes))
}

/// The products of one row with `T` tokens of its length.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dots<E: Element, const T: usize>(row: &[E], x: [&[f32]; T]) -> [f32; T] {
    assert!(x.iter().all(|x| x.len() == row.len()));
    let mut sums = [zero(); T];
    for start in (0..row.len() / LANES).map(|step| step * LANES) {
        // Rows of a matrix lie one after the other: what is asked for past this one is the next.
        _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(start).cast::<i8>().wrapping_add(AHEAD));
        // SAFETY: `start + 32` is at most the length of the row and of each token.
        let (wide, x) = unsafe { (lanes_at(row, start), x.map(|x| lanes_at(x, start))) };
        for t in 0..T {
            sums[t] = multiply_add(sums[t], wide, x[t]);
        }
    }
    let mut out = [0.0; T];
    for t in 0..T {
        out[t] = finish_sum(sums[t], row, x[t]);
    }
    out
}

/// The contract of `scalar::dense::dense`.
#[target_feature(enable = "avx2,f16c")]
pub fn dense(row: DenseRow<'_>, x: &[f32], out: &mut [f32]) {
    match row {
        DenseRow::F32(row) => dense_tokens(row, x, out),
        DenseRow::F16(row) => dense_tokens(row, x, out),
        DenseRow::BF16(row) => dense_tokens(row, x, out),
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dense_tokens<T: Element>(row: &[T], x: &[f32], out: &mut [f32]) {
    let token = |t: usize| &x[t * row.len()..(t + 1) * row.len()];
    let mut t = 0;
    while t + 2 <= out.len() {
        out[t..t + 2].copy_from_slice(&dots(row, [token(t), token(t + 1)]));
        t += 2;
    }
    if t < out.len() {
        [out[t]] = dots(row, [token(t)]);
    }
}

/// The contract of `scalar::attention::attend`.
#[target_feature(enable = "avx2,f16c")]
pub fn attend(block: AttentionBlock<'_>, queries: &[f32], states: &mut [AttentionState], out: &mut [f32]) {
    match (block.keys, block.values) {
        (KvRows::F32(k), KvRows::F32(v)) => {
            attend_rows(block, k, v, queries, states, out);
        }
        (KvRows::F16(k), KvRows::F16(v)) => {
            attend_rows(block, k, v, queries, states, out);
        }
        // Caches hold keys and values in one type; the scalar tier answers for any other pair.
        _ => attention::attend(block, queries, states, out),
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn attend_rows<T: Element>(
    block: AttentionBlock<'_>,
    keys: &[T],
    values: &[T],
    queries: &[f32],
    states: &mut [AttentionState],
    out: &mut [f32],
) {
    let (head_dim, stride) = (block.head_dim, HEADS * block.head_dim);
    let heads = states.chunks_mut(HEADS).zip(queries.chunks(stride)).zip(out.chunks_mut(stride));
    for ((states, queries), out) in heads {
        let mut weights = [[0.0f32; BLOCK]; HEADS];
        for position in 0..block.count {
            let key = &keys[position * head_dim..(position + 1) * head_dim];
            for (weights, query) in weights.iter_mut().zip(queries.chunks_exact(head_dim)) {
                let [score] = dots(key, [query]);
                weights[position] = score * block.scale;
            }
        }
        let values = &values[..block.count * head_dim];
        for ((state, weights), out) in states.iter_mut().zip(&mut weights).zip(out.chunks_exact_mut(head_dim))
        {
            rescale(state, &mut weights[..block.count], out);
            weighted_sum(&weights[..block.count], values, out);
        }
    }
}

/// Adds `sum(weights[p] * values[p])` to `out`, in order of the positions; `values` is
/// `[weights.len(), out.len()]`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn weighted_sum<T: Element>(weights: &[f32], values: &[T], out: &mut [f32]) {
    let head_dim = out.len();
    assert!(values.len() == weights.len() * head_dim);
    let whole = head_dim / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let mut sum = load_lanes(&out[start..start + LANES]);
        for (position, &weight) in weights.iter().enumerate() {
            let weight = [_mm256_set1_ps(weight); REGISTERS];
            // SAFETY: `start + 32` is at most `head_dim`, and the rows of all positions exist, asserted.
            sum = multiply_add(sum, weight, unsafe { lanes_at(values, position * head_dim + start) });
        }
        store_lanes(sum, &mut out[start..start + LANES]);
    }
    for (d, out) in out.iter_mut().enumerate().skip(whole) {
        for (position, &weight) in weights.iter().enumerate() {
            *out += weight * values[position * head_dim + d].widen();
        }
    }
}
