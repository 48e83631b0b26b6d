//! `avx2-dense` and `avx2-attend`: the 32 virtual lanes as four registers.
//!
//! Additions and multiplications are those of the scalar tier, in the same order for every lane; rows narrower
//! than f32 are widened in registers.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::scalar::attention::{self, AttentionBlock, AttentionState, BLOCK, HEADS, KvRows, rescale};
use crate::scalar::dense::DenseRow;
use crate::scalar::lanes::LANES;

/// Floats in a register.
const WIDTH: usize = 8;
/// Registers of one sum.
const REGISTERS: usize = LANES / WIDTH;

type Sum = [__m256; REGISTERS];

/// Element types of [`Row`], as constants so that each gets its own loop.
const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Elements of type `KIND` that are read as f32.
#[derive(Clone, Copy)]
struct Row<'a, const KIND: u8> {
    start: *const u8,
    len: usize,
    elements: PhantomData<&'a [u8]>,
}

impl<'a, const KIND: u8> Row<'a, KIND> {
    const SIZE: usize = if KIND == F32 { 4 } else { 2 };

    /// Takes a slice of the type that `KIND` stands for.
    fn new<T>(row: &'a [T]) -> Self {
        const { assert!(size_of::<T>() == Self::SIZE) };
        Row { start: row.as_ptr().cast(), len: row.len(), elements: PhantomData }
    }

    fn part(self, start: usize, len: usize) -> Self {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: within the slice, asserted.
        Row { start: unsafe { self.start.add(start * Self::SIZE) }, len, ..self }
    }

    fn get(self, index: usize) -> f32 {
        assert!(index < self.len);
        // SAFETY: an element of the slice, asserted; `read_unaligned` asks for no alignment.
        unsafe {
            let element = self.start.add(index * Self::SIZE);
            match KIND {
                F32 => element.cast::<f32>().read_unaligned(),
                F16 => element.cast::<half::f16>().read_unaligned().to_f32(),
                _ => element.cast::<half::bf16>().read_unaligned().to_f32(),
            }
        }
    }

    /// Widens elements `start..start + 32`.
    ///
    /// # Safety
    /// They exist.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn lanes(self, start: usize) -> Sum {
        let eight = |r: usize| {
            // SAFETY: eight elements of the slice, by the contract; `loadu` asks for no alignment.
            unsafe {
                let at = self.start.add((start + r * WIDTH) * Self::SIZE);
                match KIND {
                    F32 => _mm256_loadu_ps(at.cast()),
                    F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                    _ => {
                        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                    }
                }
            }
        };
        [eight(0), eight(1), eight(2), eight(3)]
    }
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
fn finish_sum<const KIND: u8>(sum: Sum, row: Row<'_, KIND>, x: &[f32]) -> f32 {
    let whole = row.len / LANES * LANES;
    if whole == row.len {
        return reduce(sum);
    }
    let mut lanes = [0.0; LANES];
    store_lanes(sum, &mut lanes);
    for (lane, index) in lanes.iter_mut().zip(whole..row.len) {
        *lane += row.get(index) * x[index];
    }
    reduce(load_lanes(&lanes))
}

/// The products of one row with `T` tokens of its length.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dots<const KIND: u8, const T: usize>(row: Row<'_, KIND>, x: [&[f32]; T]) -> [f32; T] {
    assert!(x.iter().all(|x| x.len() == row.len));
    let mut sums = [zero(); T];
    for start in (0..row.len / LANES).map(|step| step * LANES) {
        // SAFETY: `start + 32` is at most the length of the row and of each token.
        let (wide, x) = unsafe { (row.lanes(start), x.map(|x| Row::<F32>::new(x).lanes(start))) };
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
        DenseRow::F32(row) => dense_tokens(Row::<F32>::new(row), x, out),
        DenseRow::F16(row) => dense_tokens(Row::<F16>::new(row), x, out),
        DenseRow::BF16(row) => dense_tokens(Row::<BF16>::new(row), x, out),
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dense_tokens<const KIND: u8>(row: Row<'_, KIND>, x: &[f32], out: &mut [f32]) {
    let token = |t: usize| &x[t * row.len..(t + 1) * row.len];
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
            attend_rows(block, Row::<F32>::new(k), Row::<F32>::new(v), queries, states, out);
        }
        (KvRows::F16(k), KvRows::F16(v)) => {
            attend_rows(block, Row::<F16>::new(k), Row::<F16>::new(v), queries, states, out);
        }
        // Caches hold keys and values in one type; the scalar tier answers for any other pair.
        _ => attention::attend(block, queries, states, out),
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn attend_rows<const KIND: u8>(
    block: AttentionBlock<'_>,
    keys: Row<'_, KIND>,
    values: Row<'_, KIND>,
    queries: &[f32],
    states: &mut [AttentionState],
    out: &mut [f32],
) {
    let (head_dim, stride) = (block.head_dim, HEADS * block.head_dim);
    let heads = states.chunks_mut(HEADS).zip(queries.chunks(stride)).zip(out.chunks_mut(stride));
    for ((states, queries), out) in heads {
        let mut weights = [[0.0f32; BLOCK]; HEADS];
        for position in 0..block.count {
            let key = keys.part(position * head_dim, head_dim);
            for (weights, query) in weights.iter_mut().zip(queries.chunks_exact(head_dim)) {
                let [score] = dots(key, [query]);
                weights[position] = score * block.scale;
            }
        }
        let values = values.part(0, block.count * head_dim);
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
fn weighted_sum<const KIND: u8>(weights: &[f32], values: Row<'_, KIND>, out: &mut [f32]) {
    let head_dim = out.len();
    assert!(values.len == weights.len() * head_dim);
    let whole = head_dim / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let mut sum = load_lanes(&out[start..start + LANES]);
        for (position, &weight) in weights.iter().enumerate() {
            let weight = [_mm256_set1_ps(weight); REGISTERS];
            // SAFETY: `start + 32` is at most `head_dim`, and the rows of all positions exist, asserted.
            sum = multiply_add(sum, weight, unsafe { values.lanes(position * head_dim + start) });
        }
        store_lanes(sum, &mut out[start..start + LANES]);
    }
    for (d, out) in out.iter_mut().enumerate().skip(whole) {
        for (position, &weight) in weights.iter().enumerate() {
            *out += weight * values.get(position * head_dim + d);
        }
    }
}
