//! Ternary products of float activations: codes become floats by a look-up in registers, for one token where they are
//! used, for more in a block that the tokens share.

use std::arch::x86_64::*;

use super::dense::{AHEAD, COLS, ROWS, Rows, TOKENS, block, finish};
use super::{Register, dense};
use crate::layout::row_fifths;
use crate::scalar::lanes::LANES;
use crate::scalar::ternary::widen;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The contracts of `scalar::ternary::row_quarters_f32` for `N` of 4 and `row_fifths_f32` for 5; `Q` tokens meet two rows
/// at a time.
///
/// # Safety
/// The features of `V`, AVX2 and F16C are there.
#[inline(always)]
pub unsafe fn products<V: Register, const N: usize, const Q: usize>(
    codes: &[u8],
    cols: usize,
    x: &[f32],
    out: &mut [[f32; N]],
) {
    const { assert!(N == 4 || N == 5) };
    if cols == 0 || x.is_empty() {
        out.fill([0.0; N]);
        return;
    }
    let (tokens, lines) = (x.len() / cols, const { ROWS / N });
    assert!(tokens > 0, "whole tokens");
    if tokens == 1 {
        for (line, out) in codes.chunks_exact(cols).zip(out) {
            // SAFETY: features by the contract.
            *out = unsafe { one_token::<V, N>(line, &x[..cols]) };
        }
        return;
    }
    for (codes, out) in codes.chunks(lines * cols).zip(out.chunks_mut(lines * tokens)) {
        let there = (codes.len() / cols).min(out.len() / tokens);
        let codes = Codes::<N> { codes: &codes[..there * cols], cols };
        for first in (0..tokens).step_by(TOKENS) {
            let count = TOKENS.min(tokens - first);
            let x = &x[first * cols..(first + count) * cols];
            // SAFETY: whole rows and tokens; features by the contract.
            unsafe {
                block::<V, _, Q>(&codes, cols, x, |row, t, product| {
                    out[row / N * tokens + first + t][row % N] = product;
                });
            }
        }
    }
}

/// Packed lines of `N` rows each, one after the other.
struct Codes<'a, const N: usize> {
    codes: &'a [u8],
    cols: usize,
}

impl<const N: usize> Rows for Codes<'_, N> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.codes.len() / self.cols * N
    }

    #[inline(always)]
    unsafe fn widen<V: Register>(&self, start: usize, len: usize, wide: &mut [[f32; COLS]; ROWS]) {
        for (line, wide) in self.codes.chunks_exact(self.cols).zip(wide.as_chunks_mut::<N>().0) {
            let codes = &line[start..start + len];
            // SAFETY: `len` is a multiple of the width, and at most the columns of `wide`; features by the contract.
            unsafe {
                if N == 4 {
                    widen_codes::<V>(codes, wide);
                } else {
                    let pair = separate(codes);
                    widen_codes::<V>(&pair[0][..len], &mut wide[..4]);
                    widen_codes::<V>(&pair[1][..len], &mut wide[4..]);
                }
            }
        }
    }

    #[inline(always)]
    fn widen_rest(&self, row: usize, start: usize, out: &mut [f32]) {
        let line = &self.codes[row / N * self.cols..][..self.cols];
        out.copy_from_slice(&rest::<N>(&line[start..])[row % N][..out.len()]);
    }
}

/// Writes the values of row `i`, whose codes are bits `2 i` of each byte.
///
/// # Safety
/// There are at most [`COLS`] codes, a multiple of the width; features as [`products`].
#[inline(always)]
unsafe fn widen_codes<V: Register>(codes: &[u8], wide: &mut [[f32; COLS]]) {
    for at in (0..codes.len()).step_by(V::WIDTH) {
        // SAFETY: by the contract.
        unsafe {
            let bytes = V::load_bytes(codes.as_ptr().add(at));
            for (row, wide) in wide.iter_mut().enumerate() {
                bytes.values(2 * row as u32).store(wide.as_mut_ptr().add(at));
            }
        }
    }
}

/// Separates the codes of at most [`COLS`] bytes of row fifths: four of each, and the fifth.
#[inline(always)]
fn separate(codes: &[u8]) -> [[u8; COLS]; 2] {
    let mut pair = [[0; COLS]; 2];
    let [lower, fifth] = &mut pair;
    row_fifths::separate(codes, &mut lower[..codes.len()], &mut fifth[..codes.len()]);
    pair
}

/// Returns the values of fewer columns than the lanes, for each row of a line.
#[inline(always)]
fn rest<const N: usize>(codes: &[u8]) -> [[f32; LANES]; N] {
    let mut wide = [[0.0; LANES]; N];
    if N == 4 {
        widen(codes, &mut wide);
    } else {
        let pair = separate(codes);
        widen(&pair[0][..codes.len()], &mut wide[..4]);
        widen(&pair[1][..codes.len()], &mut wide[4..]);
    }
    wide
}

/// Returns the products of a line's rows with one token.
///
/// # Safety
/// As [`products`]; slices have one length.
#[inline(always)]
unsafe fn one_token<V: Register, const N: usize>(line: &[u8], x: &[f32]) -> [f32; N] {
    let whole = line.len() / LANES * LANES;
    let mut lanes = dense::Lines([[0.0f32; LANES]; N]);
    for start in (0..whole).step_by(COLS) {
        let codes = &line[start..whole.min(start + COLS)];
        let x = &x[start..start + codes.len()];
        // SAFETY: as many activations as codes, whole lanes of both; features by the contract. A prefetch reads nothing.
        unsafe {
            for at in (0..codes.len()).step_by(LINE) {
                // Lines lie one after the other: what is asked for past this one is the next.
                _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(at + AHEAD).cast());
            }
            if N == 4 {
                add_codes::<V, 4>(codes, x, &mut lanes.0[..4]);
            } else {
                let pair = separate(codes);
                add_codes::<V, 4>(&pair[0][..codes.len()], x, &mut lanes.0[..4]);
                add_codes::<V, 1>(&pair[1][..codes.len()], x, &mut lanes.0[4..]);
            }
        }
    }
    let rest = rest::<N>(&line[whole..]);
    let mut out = [0.0; N];
    for (row, out) in out.iter_mut().enumerate() {
        // SAFETY: features by the contract.
        *out = unsafe { finish(&mut lanes.0[row], &rest[row][..line.len() - whole], &x[whole..]) };
    }
    out
}

/// Adds the products of `R` rows, whose codes are bits `2 r` of each byte, with one token to their lanes.
///
/// # Safety
/// Slices have one length, whole lanes; there are `R` sets of lanes; features as [`products`].
#[inline(always)]
unsafe fn add_codes<V: Register, const R: usize>(codes: &[u8], x: &[f32], lanes: &mut [[f32; LANES]]) {
    // Registers `r` and `r + COUNT / 2` of the sums at a time, so that those of narrow registers fit.
    for half in 0..V::COUNT / 2 {
        let place = |s: usize| half * V::WIDTH + s * (LANES / 2);
        // SAFETY: places lie below 32, whole registers of lanes, codes and activations; features by the contract.
        unsafe {
            let mut sums = [[V::splat(0.0); 2]; R];
            for r in 0..R {
                for s in 0..2 {
                    sums[r][s] = V::load(lanes[r].as_ptr().add(place(s)));
                }
            }
            for start in (0..codes.len()).step_by(LANES) {
                for s in 0..2 {
                    let bytes = V::load_bytes(codes.as_ptr().add(start + place(s)));
                    let x = V::load(x.as_ptr().add(start + place(s)));
                    for r in 0..R {
                        sums[r][s] = sums[r][s].add(bytes.values(2 * r as u32).mul(x));
                    }
                }
            }
            for r in 0..R {
                for s in 0..2 {
                    sums[r][s].store(lanes[r].as_mut_ptr().add(place(s)));
                }
            }
        }
    }
}
