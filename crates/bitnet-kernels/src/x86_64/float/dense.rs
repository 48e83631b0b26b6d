//! `dense` and `dense_rows`: one row in the order of memory, or a block of rows with many tokens.

use std::arch::x86_64::*;
use std::slice;

use super::{Element, Register, reduce};
use crate::scalar::lanes::LANES;
use crate::x86_64::streams::two_streams;

/// Bytes by which a row is prefetched ahead of its use.
pub(super) const AHEAD: usize = 4096;
/// Columns of a block; a block of rows and tokens stays in the first-level cache.
pub(super) const COLS: usize = 256;
/// Rows of a block.
pub(super) const ROWS: usize = 8;
/// Tokens of a block.
pub(super) const TOKENS: usize = 12;
/// Tokens from which blocks pay.
const FEW: usize = 3;

/// The contract of `scalar::dense::dense`, on rows of one type.
///
/// # Safety
/// The features of `V`, AVX2 and F16C are there.
#[inline(always)]
pub unsafe fn dense<V: Register, E: Element>(row: &[E], x: &[f32], out: &mut [f32]) {
    let cols = row.len();
    assert!(out.len().checked_mul(cols).is_some_and(|len| len <= x.len()));
    let mut t = 0;
    // SAFETY: `x` holds the rows of all tokens, asserted; features by the contract.
    unsafe {
        while t + 2 <= out.len() {
            dots::<V, E, 2>(row, &x[t * cols..], &mut out[t..t + 2]);
            t += 2;
        }
        if t < out.len() {
            dots::<V, E, 1>(row, &x[t * cols..], &mut out[t..t + 1]);
        }
    }
}

/// The products of one row with the first `T` rows of `x`.
///
/// # Safety
/// As [`dense`]; `x` has `T` rows.
#[inline(always)]
unsafe fn dots<V: Register, E: Element, const T: usize>(row: &[E], x: &[f32], out: &mut [f32]) {
    let cols = row.len();
    let whole = cols / LANES * LANES;
    // SAFETY: offsets lie below `whole`, in each of `T` rows; features by the contract.
    unsafe {
        let mut sums = [[V::splat(0.0); 4]; T];
        for start in (0..whole).step_by(LANES) {
            // Rows of a matrix lie one after the other: what is asked for past this one is the next.
            _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(start).cast::<i8>().wrapping_add(AHEAD));
            for r in 0..V::COUNT {
                let at = start + r * V::WIDTH;
                let wide: V = E::load(row.as_ptr().add(at));
                for t in 0..T {
                    sums[t][r] = sums[t][r].add(wide.mul(V::load(x.as_ptr().add(t * cols + at))));
                }
            }
        }
        for t in 0..T {
            out[t] = total(sums[t], &row[whole..], &x[t * cols + whole..(t + 1) * cols]);
        }
    }
}

/// Adds up the lanes of `sums`, after the products past the last whole 32.
///
/// # Safety
/// As [`dense`].
#[inline(always)]
unsafe fn total<V: Register, E: Element>(sums: [V; 4], row: &[E], x: &[f32]) -> f32 {
    // SAFETY: the lanes are `COUNT` registers; features by the contract.
    unsafe {
        if row.is_empty() {
            let half = V::COUNT / 2;
            let mut sum = sums[0].add(sums[half]);
            for r in 1..half {
                sum = sum.add(sums[r].add(sums[half + r]));
            }
            return reduce::one(sum.eight());
        }
        let mut lanes = [0.0f32; LANES];
        for r in 0..V::COUNT {
            sums[r].store(lanes.as_mut_ptr().add(r * V::WIDTH));
        }
        finish(&mut lanes, row, x)
    }
}

/// Adds the products past the last whole 32, each to its lane, and reduces.
///
/// # Safety
/// AVX2 is there.
#[inline(always)]
pub(super) unsafe fn finish<E: Element>(lanes: &mut [f32; LANES], row: &[E], x: &[f32]) -> f32 {
    for (lane, (value, x)) in lanes.iter_mut().zip(row.iter().zip(x)) {
        *lane += value.widen() * x;
    }
    // SAFETY: eight floats at four offsets of 32; AVX2 by the contract.
    unsafe {
        let at = lanes.as_ptr();
        let low = _mm256_add_ps(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(16)));
        let high = _mm256_add_ps(_mm256_loadu_ps(at.add(8)), _mm256_loadu_ps(at.add(24)));
        reduce::one(_mm256_add_ps(low, high))
    }
}

/// The contract of `scalar::dense::dense_rows`, on rows of one type; `Q` tokens meet two rows at a time.
///
/// # Safety
/// As [`dense`].
#[inline(always)]
pub unsafe fn dense_rows<V: Register, E: Element, const Q: usize>(
    rows: &[E],
    cols: usize,
    x: &[f32],
    out: &mut [f32],
) {
    if cols == 0 || x.is_empty() {
        out.fill(0.0);
        return;
    }
    let tokens = x.len() / cols;
    assert!(out.len() == rows.len() / cols * tokens);
    if tokens == 1 {
        // SAFETY: by the contract.
        return unsafe { one_token::<V, E>(rows, x, out) };
    }
    if tokens <= FEW {
        for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
            // SAFETY: by the contract.
            unsafe { dense::<V, E>(row, x, out) };
        }
        return;
    }
    for (rows, out) in rows.chunks(ROWS * cols).zip(out.chunks_mut(ROWS * tokens)) {
        for first in (0..tokens).step_by(TOKENS) {
            let count = TOKENS.min(tokens - first);
            let x = &x[first * cols..(first + count) * cols];
            // SAFETY: whole rows and tokens; features by the contract.
            unsafe {
                block::<V, _, Q>(&Stored { rows, cols }, cols, x, |row, t, product| {
                    out[row * tokens + first + t] = product;
                });
            }
        }
    }
}

/// [`dense_rows`] of one token.
///
/// # Safety
/// As [`dense`].
#[inline(always)]
unsafe fn one_token<V: Register, E: Element>(rows: &[E], x: &[f32], out: &mut [f32]) {
    let (pairs, last) = two_streams(rows, x.len(), out);
    // SAFETY: by the contract.
    unsafe {
        for (rows, [a, b]) in pairs {
            [*a, *b] = pair::<V, E>(rows, x);
        }
        if let Some((row, out)) = last {
            dots::<V, E, 1>(row, x, slice::from_mut(out));
        }
    }
}

/// The products of two rows with `x`.
///
/// # Safety
/// As [`dense`]; slices have one length.
#[inline(always)]
unsafe fn pair<V: Register, E: Element>(rows: [&[E]; 2], x: &[f32]) -> [f32; 2] {
    let whole = x.len() / LANES * LANES;
    let mut out = [0.0; 2];
    // SAFETY: offsets lie below `whole`; features by the contract.
    unsafe {
        let mut sums = [[V::splat(0.0); 4]; 2];
        for start in (0..whole).step_by(LANES) {
            for row in 0..2 {
                let at = rows[row].as_ptr().wrapping_add(start);
                _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(AHEAD));
                for r in 0..V::COUNT {
                    let wide: V = E::load(at.add(r * V::WIDTH));
                    let x = V::load(x.as_ptr().add(start + r * V::WIDTH));
                    sums[row][r] = sums[row][r].add(wide.mul(x));
                }
            }
        }
        for row in 0..2 {
            out[row] = total(sums[row], &rows[row][whole..], &x[whole..]);
        }
    }
    out
}

/// Values that start at a cache line: a register never crosses one.
#[repr(align(64))]
pub(super) struct Lines<T>(pub(super) T);

/// Up to [`ROWS`] rows that are read as f32 a block of columns at a time.
pub(super) trait Rows {
    /// Returns how many there are.
    fn count(&self) -> usize;

    /// Writes `len` columns from `start` on of every row, whole lanes of both.
    ///
    /// # Safety
    /// The columns exist; features as [`dense`].
    unsafe fn widen<V: Register>(&self, start: usize, len: usize, wide: &mut [[f32; COLS]; ROWS]);

    /// Writes the columns from `start` to the end, fewer than the lanes, of one row.
    fn widen_rest(&self, row: usize, start: usize, out: &mut [f32]);
}

/// Rows of elements, one after the other.
struct Stored<'a, E> {
    rows: &'a [E],
    cols: usize,
}

impl<E: Element> Rows for Stored<'_, E> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.rows.len() / self.cols
    }

    #[inline(always)]
    unsafe fn widen<V: Register>(&self, start: usize, len: usize, wide: &mut [[f32; COLS]; ROWS]) {
        for (row, wide) in self.rows.chunks_exact(self.cols).zip(wide) {
            for at in (0..len).step_by(V::WIDTH) {
                // SAFETY: by the contract.
                unsafe { E::load::<V>(row.as_ptr().add(start + at)).store(wide.as_mut_ptr().add(at)) };
            }
        }
    }

    #[inline(always)]
    fn widen_rest(&self, row: usize, start: usize, out: &mut [f32]) {
        let rest = &self.rows[row * self.cols + start..(row + 1) * self.cols];
        out.iter_mut().zip(rest).for_each(|(out, value)| *out = value.widen());
    }
}

/// Hands `put` the product of each row, by its number, with each of up to [`TOKENS`] tokens, by its own.
///
/// # Safety
/// As [`dense`]; `x` holds whole tokens of `cols` elements, at most [`TOKENS`], and so many columns has each row.
#[inline(always)]
pub(super) unsafe fn block<V: Register, R: Rows, const Q: usize>(
    rows: &R,
    cols: usize,
    x: &[f32],
    mut put: impl FnMut(usize, usize, f32),
) {
    let (row_count, count, whole) = (rows.count(), x.len() / cols, cols / LANES * LANES);
    let mut lanes = Lines([[[0.0f32; LANES]; ROWS]; TOKENS]);
    let mut wide = Lines([[0.0f32; COLS]; ROWS]);
    for start in (0..whole).step_by(COLS) {
        let len = COLS.min(whole - start);
        // SAFETY: `start + len` is at most the length of each row and token; features by the contract.
        unsafe {
            rows.widen::<V>(start, len, &mut wide.0);
            let token = |t: usize| x.as_ptr().add(t * cols + start);
            for r in (0..row_count).step_by(2) {
                // A row that is not there is computed from what stands in its place, and not used.
                let b = [wide.0[r].as_ptr(), wide.0[r + 1].as_ptr()];
                let mut t = 0;
                while t + Q <= count {
                    let mut a = [token(t); Q];
                    for q in 0..Q {
                        a[q] = token(t + q);
                    }
                    accumulate::<V, Q>(a, b, len, &mut lanes.0[t..t + Q], r);
                    t += Q;
                }
                while t < count {
                    accumulate::<V, 1>([token(t)], b, len, &mut lanes.0[t..=t], r);
                    t += 1;
                }
            }
        }
    }
    let mut rest = [0.0f32; LANES];
    let rest = &mut rest[..cols - whole];
    for r in 0..row_count {
        rows.widen_rest(r, whole, rest);
        for (t, lanes) in lanes.0.iter_mut().enumerate().take(count) {
            // SAFETY: by the contract.
            put(r, t, unsafe { finish(&mut lanes[r], rest, &x[t * cols + whole..(t + 1) * cols]) });
        }
    }
}

/// Adds the products of `Q` tokens with two rows over `len` columns to their lanes, rows `r` and `r + 1`.
///
/// # Safety
/// `len` is a multiple of 32; each pointer has `len` floats; features as [`dense`].
#[inline(always)]
unsafe fn accumulate<V: Register, const Q: usize>(
    a: [*const f32; Q],
    b: [*const f32; 2],
    len: usize,
    lanes: &mut [[[f32; LANES]; ROWS]],
    r: usize,
) {
    // SAFETY: reads lie below `len`, the lanes are whole registers; features by the contract.
    unsafe {
        for half in 0..V::COUNT / 2 {
            let mut sums = [[[V::splat(0.0); 2]; 2]; Q];
            for q in 0..Q {
                for k in 0..2 {
                    for s in 0..2 {
                        let at = half * V::WIDTH + s * (LANES / 2);
                        sums[q][k][s] = V::load(lanes[q][r + k].as_ptr().add(at));
                    }
                }
            }
            let mut start = half * V::WIDTH;
            while start < len {
                for s in 0..2 {
                    let at = start + s * (LANES / 2);
                    let right = [V::load(b[0].add(at)), V::load(b[1].add(at))];
                    for q in 0..Q {
                        let left = V::load(a[q].add(at));
                        for k in 0..2 {
                            sums[q][k][s] = sums[q][k][s].add(left.mul(right[k]));
                        }
                    }
                }
                start += LANES;
            }
            for q in 0..Q {
                for k in 0..2 {
                    for s in 0..2 {
                        let at = half * V::WIDTH + s * (LANES / 2);
                        sums[q][k][s].store(lanes[q][r + k].as_mut_ptr().add(at));
                    }
                }
            }
        }
    }
}
