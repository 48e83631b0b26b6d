//! Packed codes spread into tiles: in the words of row `k`, four columns of each row of each line.
//!
//! ```text
//! word        0       1  ..  N - 1   N  ..  2 N - 1   ..
//! row k    line 0:  row 0 .. N - 1   line 1: 0 .. N - 1     columns 4 k .. 4 k + 3 of the step
//! ```
//!
//! A tile holds as many lines of `N` rows as fit 16 words: four lines of quarters, three of fifths. A row's codes
//! are masked where they stand in the packed byte, so that those of row `i` carry [`SHIFTS`] bits of shift.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::tiles::{Codes, WIDTH};
use crate::x86_64::avx512_vbmi::row_fifths;

/// Steps of the longest block of columns: sums leave the tiles once a block.
pub const STEPS: usize = 40;
/// Pairs of tiles of the largest block of lines.
pub const PAIRS: usize = 2;
/// Bits by which the codes of each row of a line stand shifted.
pub const SHIFTS: [i32; 5] = [0, 2, 4, 6, 0];

/// The codes of a block of lines and columns: `[pairs, steps]` pairs of tiles.
pub struct Panel([[[MaybeUninit<Codes>; 2]; STEPS]; PAIRS]);

/// Returns the lines of a tile.
pub const fn lines_of_tile<const N: usize>() -> usize {
    const { assert!(N == 4 || N == 5) };
    16 / N
}

impl Panel {
    #[inline]
    pub const fn new() -> Self {
        Panel([const { [const { [MaybeUninit::uninit(); 2] }; STEPS] }; PAIRS])
    }

    /// Spreads `width` columns from `start` on of lines `[lines, cols]`, and returns the steps of each pair of tiles;
    /// of a pair without lines there are none. What stands in place of other absent lines is not to be used.
    ///
    /// Where the last step would pass the end of a line it holds the last 64 columns, with zeros for those that the
    /// step before has.
    ///
    /// # Panics
    /// When columns or lines pass their end or the panel's.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    pub fn fill<const N: usize>(
        &mut self,
        codes: &[u8],
        cols: usize,
        start: usize,
        width: usize,
    ) -> [&[[Codes; 2]]; PAIRS] {
        assert!(start + width <= cols && codes.len() <= PAIRS * 2 * lines_of_tile::<N>() * cols);
        let (steps, ahead) = (width.div_ceil(WIDTH), codes.len());
        let pairs = codes.len().div_ceil(2 * lines_of_tile::<N>() * cols);
        for (pair, codes) in self.0[..pairs].iter_mut().zip(codes.chunks(2 * lines_of_tile::<N>() * cols)) {
            for (step, tiles) in pair[..steps].iter_mut().enumerate() {
                let first = start + step * WIDTH;
                fill_step::<N>(codes, cols, first..cols.min(first + WIDTH), ahead, tiles);
            }
        }
        std::array::from_fn(|pair| {
            let steps = if pair < pairs { &self.0[pair][..steps] } else { &[] };
            // SAFETY: every tile of these steps was written above; `MaybeUninit` has the layout of its value.
            unsafe { &*(&raw const *steps as *const [[Codes; 2]]) }
        })
    }
}

/// Writes both tiles of a step: `columns` are at most 64. The next block of lines is `ahead` bytes on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn fill_step<const N: usize>(
    codes: &[u8],
    cols: usize,
    columns: Range<usize>,
    ahead: usize,
    tiles: &mut [MaybeUninit<Codes>; 2],
) {
    let count = codes.len() / cols;
    for (half, tile) in tiles.iter_mut().enumerate() {
        let mut lines = [&codes[..0]; 4];
        for (index, line) in lines.iter_mut().enumerate() {
            let number = (half * lines_of_tile::<N>() + index).min(count - 1);
            *line = &codes[number * cols..][columns.clone()];
            // The lines of the next block will be wanted at the same place.
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().wrapping_add(ahead).cast());
        }
        if let [Ok(a), Ok(b), Ok(c), Ok(d)] = lines.map(<&[u8; WIDTH]>::try_from) {
            spread::<N>([a, b, c, d], tile);
        } else {
            let mut padded = [[0; WIDTH]; 4];
            for (padded, line) in padded.iter_mut().zip(lines) {
                padded[WIDTH - line.len()..].copy_from_slice(line);
            }
            spread::<N>(padded.each_ref(), tile);
        }
    }
}

/// Writes every byte of a tile: 64 columns of its lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn spread<const N: usize>(lines: [&[u8; WIDTH]; 4], tile: &mut MaybeUninit<Codes>) {
    let masks = masks::<N>();
    let rows = tile.as_mut_ptr().cast::<__m512i>();
    for quarter in 0..4 {
        let mut packed = _mm512_castsi128_si512(load(lines[0], quarter));
        packed = _mm512_inserti32x4::<1>(packed, load(lines[1], quarter));
        packed = _mm512_inserti32x4::<2>(packed, load(lines[2], quarter));
        packed = _mm512_inserti32x4::<3>(packed, load(lines[3], quarter));
        let words = if N == 4 { quarters(packed) } else { fifths(packed) };
        for (index, words) in words.into_iter().enumerate() {
            // SAFETY: `4 * quarter + index` is below 16, and a tile is 16 rows of 64 aligned bytes.
            unsafe { _mm512_store_si512(rows.add(4 * quarter + index), _mm512_and_si512(words, masks)) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &[u8; WIDTH], quarter: usize) -> __m128i {
    // SAFETY: 16 bytes from `16 * quarter` exist in 64, as they are indexed; `loadu` asks for no alignment.
    unsafe { _mm_loadu_si128(line[16 * quarter..][..16].as_ptr().cast()) }
}

/// Repeats word `i` of each of four lines for its four rows, for `i` from 0 to 3.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters(packed: __m512i) -> [__m512i; 4] {
    [
        _mm512_shuffle_epi32::<0b00_00_00_00>(packed),
        _mm512_shuffle_epi32::<0b01_01_01_01>(packed),
        _mm512_shuffle_epi32::<0b10_10_10_10>(packed),
        _mm512_shuffle_epi32::<0b11_11_11_11>(packed),
    ]
}

/// Repeats word `i` of each of three lines for its five rows, for `i` from 0 to 3: four times the lower codes, two
/// bits each, and once the fifth.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn fifths(packed: __m512i) -> [__m512i; 4] {
    let (lower, fifth) = row_fifths::separate(packed);
    // Words of the second operand are numbered from 16.
    let first = _mm512_setr_epi32(0, 0, 0, 0, 16, 4, 4, 4, 4, 20, 8, 8, 8, 8, 24, 8);
    let mut words = [packed; 4];
    for (index, words) in words.iter_mut().enumerate() {
        let at = _mm512_add_epi32(first, _mm512_set1_epi32(index as i32));
        *words = _mm512_permutex2var_epi32(lower, at, fifth);
    }
    words
}

/// Returns the bits of each word's codes; a word without a row has none.
#[inline]
#[target_feature(enable = "avx512f")]
fn masks<const N: usize>() -> __m512i {
    let mut masks = [0u32; 16];
    for (index, mask) in masks[..lines_of_tile::<N>() * N].iter_mut().enumerate() {
        *mask = 0x0303_0303 << SHIFTS[index % N];
    }
    // SAFETY: 64 bytes; `loadu` asks for no alignment.
    unsafe { _mm512_loadu_si512(masks.as_ptr().cast()) }
}
