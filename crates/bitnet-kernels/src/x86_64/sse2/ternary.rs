//! `sse2-ternary-i8`: 15 vector operations for 64 weights and one token, besides 8 that separate the codes.
//!
//! SSE2 multiplies 16 bits by 16 and adds pairs in 32 (`pmaddwd`). Two codes `2^12` apart go through it
//! together: a byte beside its own copy makes a 16-bit lane in which the codes of quarters 0 and 2 stand at
//! bits 0 and 12, and after a shift by two those of 1 and 3. A sum `T = L + 2^12 H` is taken apart before `L`
//! leaves its field: `H` is what lies above it, and `L` follows at the end from the sums of `T` and of `H`.

use std::arch::x86_64::*;

/// Columns of a step, one load of codes.
const WIDTH: usize = 16;
/// Steps after which a sum of two fields is taken apart.
///
/// A step adds two results of `pmaddwd` to a sum, each of two products of a code and an activation: `L` is
/// four products a step, of at most `2 * 128` in magnitude, so two steps reach at most `8 * 256 = 2^11`. The
/// positive side stays below since `x <= 127` (`8 * 254 = 2032`), the negative side meets `-2^11` exactly, and
/// so `0 <= L + 2^11 < 2^12`: shifting `T + 2^11` right by 12 bits leaves `H` alone. `H` has the bound of `L`,
/// so that `|T| < 2^24`.
const STEPS: usize = 2;
const BLOCK: usize = STEPS * WIDTH;
/// Bits below the upper field.
const FIELD: i32 = 12;
/// What keeps the lower field from borrowing: every sum of a block begins here.
const BIAS: i32 = 1 << (FIELD - 1);
/// Bytes by which codes are prefetched ahead of their use.
const AHEAD: usize = 4096;

/// The contract of `scalar::ternary::row_quarters_i8`.
#[target_feature(enable = "sse2")]
pub fn row_quarters_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; 4]);
        return;
    }
    let cols = x.len() / tokens;
    for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
        for (x, out) in x.chunks(2 * cols).zip(out.chunks_mut(2)) {
            match out.len() {
                1 => out.copy_from_slice(&tile::<1>(line, x)),
                _ => out.copy_from_slice(&tile::<2>(line, x)),
            }
        }
        for (out, &sum) in out.iter_mut().zip(sums) {
            // Codes are values + 1, so the sum of the activations came along once.
            *out = out.map(|acc| acc - sum);
        }
    }
}

/// The two fields of a pair of quarters, over whole blocks.
#[derive(Clone, Copy)]
struct Fields {
    /// Sum of `T + 2^11`, modulo `2^32`.
    both: __m128i,
    /// Sum of `H`, exactly.
    upper: __m128i,
}

/// Returns `sum(code * x)` of the four quarters for `T` tokens.
#[inline]
#[target_feature(enable = "sse2")]
fn tile<const T: usize>(codes: &[u8], x: &[i8]) -> [[i32; 4]; T] {
    let cols = codes.len();
    assert!(x.len() == T * cols);
    let zero = _mm_setzero_si128();
    let mut fields = [[Fields { both: zero, upper: zero }; 2]; T];
    let (blocks, rest) = codes.as_chunks::<BLOCK>();
    for (index, codes) in blocks.iter().enumerate() {
        prefetch(codes, AHEAD);
        // SAFETY: 32 columns from `index * 32` lie within every row of `x`.
        unsafe { add_block(&mut fields, codes, x.as_ptr().add(index * BLOCK), cols) };
    }
    if !rest.is_empty() {
        // The rest of a row, padded by codes and activations of 0, which add nothing.
        let mut codes = [0u8; BLOCK];
        codes[..rest.len()].copy_from_slice(rest);
        let mut padded = [[0i8; BLOCK]; T];
        for (t, padded) in padded.iter_mut().enumerate() {
            padded[..rest.len()].copy_from_slice(&x[(t + 1) * cols - rest.len()..(t + 1) * cols]);
        }
        // SAFETY: `padded` is rows of 32 elements.
        unsafe { add_block(&mut fields, &codes, padded.as_flattened().as_ptr(), BLOCK) };
    }
    let blocks = cols.div_ceil(BLOCK) as i32;
    fields.map(|[even, odd]| {
        let ([a, c], [b, d]) = (even.finish(blocks), odd.finish(blocks));
        [a, b, c, d]
    })
}

impl Fields {
    /// Returns the sums of the lower and of the upper quarter over so many blocks.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn finish(self, blocks: i32) -> [i32; 2] {
        // The biases of at most 2^15 blocks are 2^26 a lane, and the lanes of `L` and `H` together stay below
        // `2 * 128 * 2^20 = 2^28`: what is left after the upper field is exact, though `both` may have wrapped.
        let lower = _mm_sub_epi32(self.both, _mm_slli_epi32::<FIELD>(self.upper));
        [horizontal_sum(lower) - 4 * BIAS * blocks, horizontal_sum(self.upper)]
    }
}

/// Adds one block of 32 columns.
///
/// # Safety
/// 32 elements can be read at `x` and at each of the `T - 1` rows that follow at distance `cols`.
#[inline]
#[target_feature(enable = "sse2")]
unsafe fn add_block<const T: usize>(
    fields: &mut [[Fields; 2]; T],
    codes: &[u8; BLOCK],
    x: *const i8,
    cols: usize,
) {
    let mut sums = [[_mm_set1_epi32(BIAS); 2]; T];
    for (step, codes) in codes.as_chunks::<WIDTH>().0.iter().enumerate() {
        // SAFETY: an array of 16 bytes; `loadu` asks for no alignment.
        let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
        let low = pairs(_mm_unpacklo_epi8(codes, codes));
        let high = pairs(_mm_unpackhi_epi8(codes, codes));
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: by the contract; `loadu` asks for no alignment.
            let x = unsafe { _mm_loadu_si128(x.add(t * cols + step * WIDTH).cast()) };
            let (x_low, x_high) = widen(x);
            for (pair, sum) in sums.iter_mut().enumerate() {
                let products =
                    _mm_add_epi32(_mm_madd_epi16(low[pair], x_low), _mm_madd_epi16(high[pair], x_high));
                *sum = _mm_add_epi32(*sum, products);
            }
        }
    }
    for (fields, &sum) in fields.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
        fields.upper = _mm_add_epi32(fields.upper, _mm_srai_epi32::<FIELD>(sum));
        fields.both = _mm_add_epi32(fields.both, sum);
    }
}

/// Takes from bytes beside their copies the codes of quarters 0 and 2, and those of 1 and 3, `2^12` apart.
#[inline]
#[target_feature(enable = "sse2")]
fn pairs(twice: __m128i) -> [__m128i; 2] {
    let mask = _mm_set1_epi16(0x3003);
    [_mm_and_si128(twice, mask), _mm_and_si128(_mm_srli_epi16::<2>(twice), mask)]
}

/// Widens 16 bytes with their signs.
#[inline]
#[target_feature(enable = "sse2")]
pub fn widen(bytes: __m128i) -> (__m128i, __m128i) {
    let low = _mm_srai_epi16::<8>(_mm_unpacklo_epi8(bytes, bytes));
    (low, _mm_srai_epi16::<8>(_mm_unpackhi_epi8(bytes, bytes)))
}

#[inline]
#[target_feature(enable = "sse2")]
pub fn horizontal_sum(v: __m128i) -> i32 {
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
    _mm_cvtsi128_si32(v)
}

/// Asks for what lies `offset` bytes on, which may be past the row: the next rows follow in memory.
#[inline]
#[target_feature(enable = "sse2")]
pub fn prefetch<T>(row: &[T], offset: usize) {
    _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().cast::<i8>().wrapping_add(offset));
}
