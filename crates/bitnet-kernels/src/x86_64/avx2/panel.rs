//! `avx2-ternary-panel-i8`: products of many tokens, on codes separated once for all of them.
//!
//! Codes of a block of columns are spread to a byte each in a panel that stays in the first-level cache; the
//! inner loop is then `vpmaddubsw` and `vpaddw` and four loads for every eight of each, near the throughput of
//! those two instructions alone. Blocks of 2,048 columns are the longest whose 16-bit sums provably fit.

use std::arch::x86_64::*;

use super::ternary::{WIDTH, load, load_i8, split_unscaled};

/// Steps of 32 columns in a block.
///
/// Codes carry no factor here: a pair is at most `2 * 2 * 128 = 512` in magnitude, so 64 steps reach at most
/// `64 * 512 = 2^15`; the positive side stays below since `x <= 127` (`64 * 508 = 32512`), the negative side
/// meets `i16::MIN` exactly.
const STEPS: usize = 64;
const BLOCK: usize = STEPS * WIDTH;
/// Lines that share one reading of the activations.
const LINES: usize = 2;
/// Tokens of a tile: with four quarters, half of the registers are sums.
const TOKENS: usize = 2;

/// Steps between two jumps: taken branches are dear beside a loop this short.
const UNROLL: usize = 8;

/// The codes of one block of a line: for each step, 32 bytes of each quarter.
#[repr(align(64))]
struct Panel([[[u8; WIDTH]; 4]; STEPS]);

/// Adds `sum(code * x)` to `out`, `[lines, tokens]` of the four quarters.
#[target_feature(enable = "avx2")]
pub fn add_products(codes: &[u8], cols: usize, x: &[i8], tokens: usize, out: &mut [[i32; 4]]) {
    let mut panels = [const { Panel([[[0; WIDTH]; 4]; STEPS]) }; LINES];
    // Blocks of one width, so that none is too short for its overhead.
    let block = cols.div_ceil(cols.div_ceil(BLOCK)).next_multiple_of(WIDTH);
    for start in (0..cols).step_by(block) {
        let width = block.min(cols - start);
        for (codes, out) in codes.chunks(LINES * cols).zip(out.chunks_mut(LINES * tokens)) {
            let lines = codes.len() / cols;
            for (line, panel) in codes.chunks_exact(cols).zip(&mut panels) {
                fill(panel, &line[start..start + width]);
            }
            let panels = &panels[..lines];
            let mut token = 0;
            while token < tokens {
                let row = |t: usize| &x[(token + t) * cols + start..][..width];
                let count = if tokens - token == 4 { 2 } else { TOKENS.min(tokens - token) };
                for (panel, out) in panels.iter().zip(out.chunks_exact_mut(tokens)) {
                    let out = &mut out[token..token + count];
                    match count {
                        1 => add(out, &tile(panel, [row(0)])),
                        2 => add(out, &tile(panel, [row(0), row(1)])),
                        _ => add(out, &tile(panel, [row(0), row(1), row(2)])),
                    }
                }
                token += count;
            }
        }
    }
}

/// Spreads the codes of at most a block; absent columns of the last step become code 0, which adds nothing.
#[inline]
#[target_feature(enable = "avx2")]
fn fill(panel: &mut Panel, codes: &[u8]) {
    let (whole, rest) = codes.as_chunks::<WIDTH>();
    for (step, codes) in panel.0.iter_mut().zip(whole) {
        store(step, split_unscaled(load(codes)));
    }
    if !rest.is_empty() {
        let mut padded = [0; WIDTH];
        padded[..rest.len()].copy_from_slice(rest);
        store(&mut panel.0[whole.len()], split_unscaled(load(&padded)));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(step: &mut [[u8; WIDTH]; 4], quarters: [__m256i; 4]) {
    for (bytes, quarter) in step.iter_mut().zip(quarters) {
        // SAFETY: an array of 32 bytes; `storeu` asks for no alignment.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), quarter) };
    }
}

/// Returns the 32-bit sums of the four quarters for `T` tokens over one block.
#[inline]
#[target_feature(enable = "avx2")]
fn tile<const T: usize>(panel: &Panel, x: [&[i8]; T]) -> [[__m256i; 4]; T] {
    let width = x[0].len();
    assert!(width <= BLOCK && x.iter().all(|x| x.len() == width));
    let whole = width / WIDTH;
    let mut sums = [[_mm256_setzero_si256(); 4]; T];
    let (unrolled, rest) = panel.0[..whole].as_chunks::<UNROLL>();
    for (index, steps) in unrolled.iter().enumerate() {
        for (offset, quarters) in steps.iter().enumerate() {
            // SAFETY: 32 bytes past this step is at most `whole * 32`, the length of every row, asserted.
            let x = unsafe { load_step(&x, index * UNROLL + offset) };
            multiply_add(&mut sums, quarters, x);
        }
    }
    for (offset, quarters) in rest.iter().enumerate() {
        // SAFETY: as above.
        let x = unsafe { load_step(&x, unrolled.len() * UNROLL + offset) };
        multiply_add(&mut sums, quarters, x);
    }
    if whole * WIDTH < width {
        let mut last = [_mm256_setzero_si256(); T];
        for (last, x) in last.iter_mut().zip(&x) {
            let rest = &x[whole * WIDTH..];
            let mut padded = [0; WIDTH];
            padded[..rest.len()].copy_from_slice(rest);
            *last = load_i8(&padded);
        }
        multiply_add(&mut sums, &panel.0[whole], last);
    }
    let ones = _mm256_set1_epi16(1);
    for sum in sums.as_flattened_mut() {
        *sum = _mm256_madd_epi16(*sum, ones);
    }
    sums
}

/// Loads one step of every row.
///
/// # Safety
/// Each row has `step * 32 + 32` elements.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_step<const T: usize>(x: &[&[i8]; T], step: usize) -> [__m256i; T] {
    let mut out = [_mm256_setzero_si256(); T];
    for (out, x) in out.iter_mut().zip(x) {
        // SAFETY: by the contract; `loadu` asks for no alignment.
        *out = unsafe { _mm256_loadu_si256(x.as_ptr().add(step * WIDTH).cast()) };
    }
    out
}

#[inline]
#[target_feature(enable = "avx2")]
fn multiply_add<const T: usize>(sums: &mut [[__m256i; 4]; T], codes: &[[u8; WIDTH]; 4], x: [__m256i; T]) {
    for (quarter, codes) in codes.iter().enumerate() {
        let codes = load(codes);
        for t in 0..T {
            sums[t][quarter] = _mm256_add_epi16(sums[t][quarter], _mm256_maddubs_epi16(codes, x[t]));
        }
    }
}

/// Adds the lanes of four sums to four totals, for each token.
#[inline]
#[target_feature(enable = "avx2")]
fn add(totals: &mut [[i32; 4]], sums: &[[__m256i; 4]]) {
    for (totals, &[a, b, c, d]) in totals.iter_mut().zip(sums) {
        let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let sum = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        let at = totals.as_mut_ptr().cast::<__m128i>();
        // SAFETY: an array of 16 bytes; `loadu` and `storeu` ask for no alignment.
        unsafe { _mm_storeu_si128(at, _mm_add_epi32(_mm_loadu_si128(at), sum)) };
    }
}
