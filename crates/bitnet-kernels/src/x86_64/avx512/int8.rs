//! `avx512-int8-i16`: int8 rows widened in registers, `vpdpwssd` with 16-bit activations.
//!
//! Any partial sum is a sum of some of the products, whose magnitudes together are bounded by
//! `127 * limit(cols) * cols` (`scalar::int8`): no order of additions can overflow 32 bits.

use std::arch::x86_64::*;

/// Columns of a step.
const WIDTH: usize = 32;
/// Steps between two jumps.
const UNROLL: usize = 4;
/// Tokens that share one widening of a row.
const TOKENS: usize = 4;
/// Bytes by which a row is prefetched ahead of its use.
const AHEAD: usize = 4096;

/// The contract of `scalar::int8::int8_i16`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn int8_i16(rows: &[i8], cols: usize, x: &[i16], out: &mut [i32]) {
    if cols == 0 || x.is_empty() {
        out.fill(0);
        return;
    }
    for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(x.len() / cols)) {
        for (x, out) in x.chunks(TOKENS * cols).zip(out.chunks_mut(TOKENS)) {
            match out.len() {
                1 => out.copy_from_slice(&products::<1>(row, x)),
                2 => out.copy_from_slice(&products::<2>(row, x)),
                3 => out.copy_from_slice(&products::<3>(row, x)),
                _ => out.copy_from_slice(&products::<TOKENS>(row, x)),
            }
        }
    }
}

/// Returns the products of a row with `T` tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn products<const T: usize>(row: &[i8], x: &[i16]) -> [i32; T] {
    let cols = row.len();
    assert!(x.len() == T * cols);
    // Two sums a token: a chain of additions would wait for each other.
    let mut sums = [[_mm512_setzero_si512(); 2]; T];
    let unrolled = cols / (UNROLL * WIDTH) * (UNROLL * WIDTH);
    for at in (0..unrolled).step_by(UNROLL * WIDTH) {
        for line in [0, 64] {
            _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at + AHEAD + line));
        }
        for step in 0..UNROLL {
            // SAFETY: columns up to `at + step * 32 + 32` exist in the row and every token.
            unsafe {
                add_step(&mut sums, step % 2, u32::MAX, row.as_ptr(), x.as_ptr(), cols, at + step * WIDTH)
            };
        }
    }
    for at in (unrolled..cols).step_by(WIDTH) {
        // The last step may be short: what lies past the row reads as 0 and adds nothing.
        let mask = u32::MAX >> (WIDTH - WIDTH.min(cols - at));
        // SAFETY: the columns that the mask admits exist.
        unsafe { add_step(&mut sums, 0, mask, row.as_ptr(), x.as_ptr(), cols, at) };
    }
    let mut out = [0; T];
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]));
    }
    out
}

/// Adds the columns of `mask` from column `at` to one sum of every token.
///
/// # Safety
/// `row` has `cols` elements and `x` `T` rows of as many; the columns of the mask lie below `cols`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn add_step<const T: usize>(
    sums: &mut [[__m512i; 2]; T],
    sum: usize,
    mask: u32,
    row: *const i8,
    x: *const i16,
    cols: usize,
    at: usize,
) {
    // SAFETY: by the contract; a masked load touches no other byte.
    let codes = unsafe { _mm512_maskz_loadu_epi8(u64::from(mask), row.add(at)) };
    let codes = _mm512_cvtepi8_epi16(_mm512_castsi512_si256(codes));
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        let x = unsafe { _mm512_maskz_loadu_epi16(mask, x.add(t * cols + at)) };
        sums[sum] = _mm512_dpwssd_epi32(sums[sum], codes, x);
    }
}
