//! `amx-ternary-i8`: one tile product for four lines of row quarters (three of row fifths), 64 columns and 16
//! tokens.
//!
//! Codes of a block of lines and columns are spread into tiles once and meet all tokens. The codes of a row carry
//! the factor `4^i` of their place in the packed byte, which is taken off the sums of a block; blocks add up in
//! `out`.
//!
//! Bound: a block has at most `STEPS * 64 <= 2^12` columns, of at most `2 * 64 * 128 = 2^14` each: `2^26`. Without
//! their factors all columns together stay below `2 * 128 * 2^20 = 2^28`.

use std::arch::x86_64::*;

use super::panel::{PAIRS, Panel, SHIFTS, STEPS, lines_of_tile};
use super::tiles::{Activations, Multiply, ROWS, Sums, TileUnit, WIDTH};
use crate::x86_64::avx512_vbmi;

/// Tokens from which spreading the codes pays.
const TILE_TOKENS: usize = 10;
/// Steps and pairs of a block for one tile of tokens: what is spread is read once, from the first-level cache.
const FEW: (usize, usize) = (16, 1);
/// Steps and pairs of a block for more tokens.
const MANY: (usize, usize) = (STEPS, PAIRS);
const _: () = assert!(STEPS * WIDTH <= 1 << 12);

/// The contract of `scalar::ternary::row_quarters_i8`.
///
/// # Safety
/// AMX with its permission, AVX-512 F, BW, VNNI and VBMI were detected.
pub unsafe fn row_quarters_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    if suits(x, sums) {
        // SAFETY: by the contract; nothing here is called by a user of tiles.
        unsafe { products(&TileUnit::new(ROWS.min(sums.len())), codes, x, sums, out) };
    } else {
        (avx512_vbmi::ENTRIES.row_quarters.i8)(codes, x, sums, out);
    }
}

/// The contract of `scalar::ternary::row_fifths_i8`.
///
/// # Safety
/// As [`row_quarters_i8`].
pub unsafe fn row_fifths_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 5]]) {
    if suits(x, sums) {
        // SAFETY: as above.
        unsafe { products(&TileUnit::new(ROWS.min(sums.len())), codes, x, sums, out) };
    } else {
        (avx512_vbmi::ENTRIES.row_fifths.i8)(codes, x, sums, out);
    }
}

/// Reports whether tiles are the better way: enough tokens, and rows of a step at least.
fn suits(x: &[i8], sums: &[i32]) -> bool {
    sums.len() >= TILE_TOKENS && x.len() / sums.len() >= WIDTH
}

/// Writes the products of all lines and tokens; `N` is 4 for row quarters and 5 for row fifths.
///
/// # Panics
/// When there are fewer tokens than a tile of `unit` has, or rows shorter than a step.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn products<const N: usize>(
    unit: &impl Multiply,
    codes: &[u8],
    x: &[i8],
    token_sums: &[i32],
    out: &mut [[i32; N]],
) {
    let (tokens, tile) = (token_sums.len(), unit.tokens());
    let cols = x.len() / tokens;
    assert!(tokens >= tile && cols >= WIDTH);
    let (most, pairs) = if tokens <= tile { FEW } else { MANY };
    let pair = 2 * lines_of_tile::<N>();
    // Blocks of one width, so that none is too short for its overhead.
    let width = cols.div_ceil(cols.div_ceil(most * WIDTH)).next_multiple_of(WIDTH);
    let mut panel = Panel::new();
    let mut sums = [[Sums::ZERO; 2]; 2];
    for (codes, out) in codes.chunks(pairs * pair * cols).zip(out.chunks_mut(pairs * pair * tokens)) {
        for start in (0..cols).step_by(width) {
            let steps = panel.fill::<N>(codes, cols, start, width.min(cols - start));
            let x = Activations { x, cols, start };
            for token in (0..tokens).step_by(2 * tile) {
                // The last tile ends with the last token; what it has in common with the one before is left out.
                let first = [token, token + tile].map(|token| token.min(tokens - tile));
                let wanted = [token, token + tile].map(|token| token..tokens.min(token + tile));
                for (steps, out) in steps.into_iter().zip(out.chunks_mut(pair * tokens)) {
                    if wanted[1].is_empty() {
                        let [sums, _] = &mut sums;
                        unit.multiply(x, [first[0]], steps, std::array::from_mut(sums));
                    } else {
                        unit.multiply(x, first, steps, &mut sums);
                    }
                    for ((sums, &first), wanted) in sums.iter().zip(&first).zip(&wanted) {
                        for (line, out) in out.chunks_exact_mut(tokens).enumerate() {
                            if let Some(out) = out.get_mut(wanted.clone()) {
                                let (half, line) = (line / lines_of_tile::<N>(), line % lines_of_tile::<N>());
                                let sums = &sums[half].0[wanted.start - first..];
                                let base = (start == 0).then(|| &token_sums[wanted.clone()]);
                                add(sums, line * N, base, out);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Adds the sums of a line's rows, words from `word` on, without their factors. In the first block, with the sums of
/// the activations, they replace what was there: codes are values + 1, so those came along once.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn add<const N: usize>(sums: &[[i32; 16]], word: usize, base: Option<&[i32]>, out: &mut [[i32; N]]) {
    assert!(word + N <= 16);
    let [a, b, c, d, e] = SHIFTS;
    let shifts = _mm256_setr_epi32(a, b, c, d, e, 0, 0, 0);
    for (index, (out, sums)) in out.iter_mut().zip(sums).enumerate() {
        let sum = _mm256_srav_epi32(load::<N>(&sums[word..]), shifts);
        let sum = match base {
            Some(base) => _mm256_sub_epi32(sum, _mm256_set1_epi32(base[index])),
            None => _mm256_add_epi32(sum, load::<N>(out)),
        };
        if N == 4 {
            // SAFETY: four words are written; `storeu` asks for no alignment.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_castsi256_si128(sum)) };
        } else {
            // SAFETY: the mask admits `N` words, which `out` has.
            unsafe { _mm256_maskstore_epi32(out.as_mut_ptr(), first::<N>(), sum) };
        }
    }
}

/// Returns the first `N` words; what stands in the others is not to be used.
#[inline]
#[target_feature(enable = "avx2")]
fn load<const N: usize>(words: &[i32]) -> __m256i {
    assert!(words.len() >= N);
    if N == 4 {
        // SAFETY: four words exist, asserted; `loadu` asks for no alignment.
        _mm256_castsi128_si256(unsafe { _mm_loadu_si128(words.as_ptr().cast()) })
    } else {
        // SAFETY: the mask admits `N` words, which exist, asserted.
        unsafe { _mm256_maskload_epi32(words.as_ptr(), first::<N>()) }
    }
}

/// Returns the mask of the first `N` words.
#[inline]
#[target_feature(enable = "avx2")]
fn first<const N: usize>() -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(N as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

#[cfg(test)]
mod tests {
    use super::super::tiles::Codes;
    use super::*;
    use crate::Isa;
    use crate::scalar::ternary::{row_fifths_i8, row_quarters_i8};

    /// What the tile unit does, one multiplication at a time.
    struct Emulated(usize);

    impl Multiply for Emulated {
        fn tokens(&self) -> usize {
            self.0
        }

        fn multiply<const T: usize>(
            &self,
            Activations { x, cols, start }: Activations<'_>,
            first: [usize; T],
            codes: &[[Codes; 2]],
            out: &mut [[Sums; 2]; T],
        ) {
            for (first, out) in first.into_iter().zip(out) {
                // What a tile of fewer rows leaves alone.
                *out = [Sums([[i32::MIN / 2; 16]; ROWS]); 2];
                for token in 0..self.0 {
                    let row = &x[(first + token) * cols..][..cols];
                    for (half, out) in out.iter_mut().enumerate() {
                        for (n, out) in out.0[token].iter_mut().enumerate() {
                            let step = |(step, codes): (usize, &[Codes; 2])| -> i32 {
                                let at = (start + step * WIDTH).min(cols - WIDTH);
                                let term = |i: usize| {
                                    i32::from(row[at + i]) * i32::from(codes[half].0[i / 4][4 * n + i % 4])
                                };
                                (0..WIDTH).map(term).sum()
                            };
                            *out = codes.iter().enumerate().map(step).sum();
                        }
                    }
                }
            }
        }
    }

    fn check<const N: usize>(
        scalar: impl Fn(&[u8], &[i8], &[i32], &mut [[i32; N]]),
        bytes: usize,
        (lines, tokens, cols): (usize, usize, usize),
    ) {
        // Without code 3, which a byte of quarters does not hold.
        let valid = |byte: usize| (0..4).all(|row| N == 5 || byte >> (2 * row) & 3 != 3);
        let valid: Vec<u8> = (0..bytes).filter(|&byte| valid(byte)).map(|byte| byte as u8).collect();
        let codes: Vec<u8> = (0..lines * cols).map(|i| valid[i * 7919 % 251 % valid.len()]).collect();
        let x: Vec<i8> = (0..tokens * cols).map(|i| ((i * 7919 % 251) as i32 - 128) as i8).collect();
        let sums: Vec<i32> = x.chunks_exact(cols).map(|x| x.iter().map(|&x| i32::from(x)).sum()).collect();
        let mut expected = vec![[7; N]; lines * tokens];
        scalar(&codes, &x, &sums, &mut expected);
        let mut out = vec![[7; N]; lines * tokens];
        // SAFETY: the caller detected AVX-512 VBMI.
        unsafe { products(&Emulated(ROWS.min(tokens)), &codes, &x, &sums, &mut out) };
        assert!(out == expected, "{lines} lines of {N} rows, {tokens} tokens, {cols} columns");
    }

    #[test]
    fn blocks_and_tiles_meet_every_line_token_and_column_once() {
        if let Some(reason) = Isa::Avx512Vbmi.missing() {
            eprintln!("SKIPPED: {reason}");
            return;
        }
        for lines in [1, 3, 4, 7, 8, 9, 15, 16, 17, 33] {
            for tokens in [1, 8, 15, 16, 17, 31, 32, 33, 50] {
                check(row_quarters_i8, 256, (lines, tokens, 65));
                check(row_fifths_i8, 243, (lines, tokens, 65));
            }
        }
        let around =
            |steps: usize| [steps * WIDTH - 1, steps * WIDTH, steps * WIDTH + 1, steps * 2 * WIDTH + 3];
        let blocks = around(FEW.0).into_iter().chain(around(MANY.0));
        for cols in [64, 65, 127, 128, 191].into_iter().chain(blocks) {
            for (lines, tokens) in [(9, 9), (17, 17)] {
                check(row_quarters_i8, 256, (lines, tokens, cols));
                check(row_fifths_i8, 243, (lines, tokens, cols));
            }
        }
    }
}
