//! `avx2-ternary-panel-i8`: products of many tokens, on codes separated once for all of them.
//!
//! Codes of a block of columns are spread to a byte each in a panel that stays in the first-level cache; the
//! inner loop is then `vpmaddubsw` and `vpaddw` and six loads for every eight of each, near the throughput of
//! those two instructions alone. Blocks of 2,048 columns are the longest whose 16-bit sums provably fit.

use std::arch::x86_64::*;

use super::ternary::{WIDTH, add_lanes, in_order, load, split_unscaled};

/// Steps of 32 columns in a block.
///
/// Codes carry no factor here: a pair is at most `2 * 2 * 128 = 512` in magnitude, so 64 steps reach at most
/// `64 * 512 = 2^15`; the positive side stays below since `x <= 127` (`64 * 508 = 32512`), the negative side
/// meets `i16::MIN` exactly.
const STEPS: usize = 64;
const BLOCK: usize = STEPS * WIDTH;
/// Tokens of a tile: with four quarters, half of the registers are sums.
const TOKENS: usize = 2;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Steps between two jumps: taken branches are dear beside a loop this short.
const UNROLL: usize = 4;

/// The codes of one block of a line: for each step, 32 bytes of each quarter.
#[repr(align(64))]
struct Panel([[[u8; WIDTH]; 4]; STEPS]);

/// The contract of `scalar::ternary::row_quarters_i8`, for at least one token and one column.
#[target_feature(enable = "avx2")]
pub fn products(codes: &[u8], cols: usize, x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let tokens = sums.len();
    let mut panel = const { Panel([[[0; WIDTH]; 4]; STEPS]) };
    // Blocks of one width, so that none is too short for its overhead.
    let block = cols.div_ceil(cols.div_ceil(BLOCK)).next_multiple_of(WIDTH);
    for start in (0..cols).step_by(block) {
        let width = block.min(cols - start);
        for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
            fill(&mut panel, &line[start..start + width]);
            for (index, out) in out.chunks_mut(TOKENS).enumerate() {
                let (token, count) = (index * TOKENS, out.len());
                if index * LINE < width {
                    // The next line's codes come from memory while this one's are multiplied.
                    _mm_prefetch::<_MM_HINT_T0>(
                        line.as_ptr().wrapping_add(cols + start + index * LINE).cast(),
                    );
                }
                let x = &x[token * cols + start..(token + count - 1) * cols + start + width];
                // Codes are values + 1, so the sum of the activations comes along once: the first block takes
                // it off, others add to what is there.
                let sums = (start == 0).then_some(&sums[token..token + count]);
                match count {
                    1 => put(out, sums, tile::<1>(&panel, x, cols, width)),
                    _ => put(out, sums, tile::<TOKENS>(&panel, x, cols, width)),
                }
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

/// Returns the 32-bit lanes of the four quarters for `T` tokens over one block: `width` columns of rows at
/// distance `cols`.
#[inline]
#[target_feature(enable = "avx2")]
fn tile<const T: usize>(panel: &Panel, x: &[i8], cols: usize, width: usize) -> [[__m256i; 4]; T] {
    assert!(width <= BLOCK && x.len() == (T - 1) * cols + width);
    let whole = width / WIDTH;
    let mut sums = [[_mm256_setzero_si256(); 4]; T];
    let (unrolled, rest) = panel.0[..whole].as_chunks::<UNROLL>();
    let mut at = x.as_ptr();
    for steps in unrolled {
        for (step, quarters) in steps.iter().enumerate() {
            // SAFETY: 32 columns past this step are at most `whole * 32 <= width`; every row has as many, asserted.
            unsafe { add_step(&mut sums, quarters, at.add(step * WIDTH), cols) };
        }
        at = at.wrapping_add(UNROLL * WIDTH);
    }
    for quarters in rest {
        // SAFETY: as above.
        unsafe { add_step(&mut sums, quarters, at, cols) };
        at = at.wrapping_add(WIDTH);
    }
    if whole * WIDTH < width {
        let mut padded = [[0; WIDTH]; T];
        for (t, padded) in padded.iter_mut().enumerate() {
            let rest = &x[t * cols + whole * WIDTH..t * cols + width];
            padded[..rest.len()].copy_from_slice(rest);
        }
        // SAFETY: rows of 32 elements.
        unsafe { add_step(&mut sums, &panel.0[whole], padded.as_flattened().as_ptr(), WIDTH) };
    }
    let ones = _mm256_set1_epi16(1);
    for sum in sums.as_flattened_mut() {
        *sum = _mm256_madd_epi16(*sum, ones);
    }
    sums
}

/// Adds one step of 32 columns.
///
/// # Safety
/// 32 elements can be read at `x` and at each of the `T - 1` rows that follow at distance `cols`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_step<const T: usize>(
    sums: &mut [[__m256i; 4]; T],
    codes: &[[u8; WIDTH]; 4],
    x: *const i8,
    cols: usize,
) {
    let mut rows = [_mm256_setzero_si256(); T];
    for (t, row) in rows.iter_mut().enumerate() {
        // SAFETY: by the contract; `loadu` asks for no alignment.
        *row = unsafe { _mm256_loadu_si256(x.add(t * cols).cast()) };
    }
    for (quarter, codes) in codes.iter().enumerate() {
        let codes = load(codes);
        for (sums, &x) in sums.iter_mut().zip(&rows) {
            sums[quarter] = in_order(_mm256_add_epi16(sums[quarter], _mm256_maddubs_epi16(codes, x)));
        }
    }
}

/// Adds the lanes of each quarter; writes them less `sums` where those are given, else adds them to `out`.
#[inline]
#[target_feature(enable = "avx2")]
fn put<const T: usize>(out: &mut [[i32; 4]], sums: Option<&[i32]>, lanes: [[__m256i; 4]; T]) {
    assert!(out.len() == T && sums.is_none_or(|sums| sums.len() == T));
    for (t, (out, lanes)) in out.iter_mut().zip(lanes).enumerate() {
        let products = add_lanes(lanes);
        let at = out.as_mut_ptr().cast::<__m128i>();
        // SAFETY: an array of 16 bytes; `loadu` and `storeu` ask for no alignment.
        unsafe {
            let products = match sums {
                Some(sums) => _mm_sub_epi32(products, _mm_set1_epi32(sums[t])),
                None => _mm_add_epi32(products, _mm_loadu_si128(at)),
            };
            _mm_storeu_si128(at, products);
        }
    }
}
