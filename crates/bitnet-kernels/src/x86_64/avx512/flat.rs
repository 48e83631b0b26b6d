//! `avx512-two-bit`, `avx512-sparse`, `avx512-absmean`: 512 bits an operation; what gains nothing is the AVX2 tier's.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::layout::flat_sparse::{bitmap_len, sign_word, unpack_from};
use crate::layout::flat_two_bit::{self, BLOCK, BLOCK_BYTES, packed_len};
use crate::scalar::flat;
use crate::x86_64::avx2;

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels {
    // SAFETY: AVX-512 F and BW were detected before the table left the crate.
    unpack_two_bit: |packed, out| unsafe { unpack_two_bit(packed, out) },
    unpack_sparse: |bitmap, signs, out| match is_x86_feature_detected!("bmi2") {
        // SAFETY: as above, and BMI2 was just detected.
        true => unsafe { unpack_sparse::<false>(bitmap, signs, out) },
        false => (avx2::flat::ENTRIES.unpack_sparse)(bitmap, signs, out),
    },
    stream_sparse: Some(|bitmap, signs, out| match is_x86_feature_detected!("bmi2") && is_line(out) {
        // SAFETY: as above, and BMI2 was just detected.
        true => unsafe { unpack_sparse::<true>(bitmap, signs, out) },
        // SAFETY: AVX2 was detected too.
        false => unsafe { avx2::flat::stream_sparse(bitmap, signs, out) },
    }),
    // SAFETY: as above.
    add_magnitudes: |rows, sums| unsafe { add_magnitudes(rows, sums) },
    // SAFETY: as above.
    pack_quarters: |rows, inverse, out| unsafe { pack_quarters(rows, inverse, out) },
    ..avx2::flat::ENTRIES
};

/// The contract of `layout::flat_two_bit::unpack`: a block's 32 bytes stand in both halves of a register, which are
/// shifted by different amounts, so that 64 values come out in order.
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack_two_bit(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), packed_len(out.len()), "packed bytes of {} values", out.len());
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    let (codes, tail) = packed.split_at(blocks.len() * BLOCK_BYTES);
    let shifts =
        |low: i16, high: i16| _mm512_inserti64x4::<1>(_mm512_set1_epi16(low), _mm256_set1_epi16(high));
    let (first, second) = (shifts(0, 2), shifts(4, 6));
    let (mask, one) = (_mm512_set1_epi8(3), _mm512_set1_epi8(1));
    for (out, codes) in blocks.iter_mut().zip(codes.as_chunks::<BLOCK_BYTES>().0) {
        // SAFETY: 32 bytes are read from a block of 32, 2 x 64 written to a block of 128.
        unsafe {
            let codes = _mm512_broadcast_i64x4(_mm256_loadu_si256(codes.as_ptr().cast()));
            let low = _mm512_and_si512(_mm512_srlv_epi16(codes, first), mask);
            let high = _mm512_and_si512(_mm512_srlv_epi16(codes, second), mask);
            _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_sub_epi8(low, one));
            _mm512_storeu_si512(out.as_mut_ptr().add(64).cast(), _mm512_sub_epi8(high, one));
        }
    }
    flat_two_bit::unpack(tail, rest);
}

/// Whether values begin at a line of the cache.
fn is_line(out: &[i8]) -> bool {
    out.as_ptr().align_offset(64) == 0
}

/// The contract of `layout::flat_sparse::unpack`: 64 values a step; with `PAST`, past the caches.
///
/// # Panics
/// With `PAST`, when `out` does not begin at a multiple of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,bmi2,popcnt")]
fn unpack_sparse<const PAST: bool>(bitmap: &[u8], signs: &[u8], out: &mut [i8]) {
    assert_eq!(bitmap.len(), bitmap_len(out.len()), "bitmap of {} values", out.len());
    assert!(!PAST || is_line(out), "values at a line of the cache");
    let (steps, rest) = out.as_chunks_mut::<64>();
    let (words, rest_bitmap) = bitmap.split_at(8 * steps.len());
    let (plus, minus) = (_mm512_set1_epi8(1), _mm512_set1_epi8(-1));
    let mut at = 0;
    for (out, &word) in steps.iter_mut().zip(words.as_chunks::<8>().0) {
        let there = u64::from_le_bytes(word);
        let negative = _pdep_u64(sign_word(signs, at), there);
        let values = _mm512_mask_mov_epi8(_mm512_maskz_mov_epi8(there, plus), negative, minus);
        // SAFETY: `out` holds 64 bytes, and stands at a multiple of 64 where the first does.
        unsafe {
            match PAST {
                true => _mm512_stream_si512(out.as_mut_ptr().cast(), values),
                false => _mm512_storeu_si512(out.as_mut_ptr().cast(), values),
            }
        }
        at += there.count_ones() as usize;
    }
    unpack_from(rest_bitmap, signs, at, rest);
    if PAST {
        _mm_sfence();
    }
}

/// The contract of `scalar::flat::add_magnitudes`: a register of eight sums a row.
#[target_feature(enable = "avx512f")]
fn add_magnitudes(rows: [&[f32]; 4], sums: &mut [[f64; 8]; 4]) {
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len), "rows of one length");
    let whole = len / 8 * 8;
    let mut lanes = [_mm512_setzero_pd(); 4];
    for (lanes, sums) in lanes.iter_mut().zip(sums.iter()) {
        // SAFETY: eight sums are read.
        *lanes = unsafe { _mm512_loadu_pd(sums.as_ptr()) };
    }
    for at in (0..whole).step_by(8) {
        for (lanes, row) in lanes.iter_mut().zip(rows) {
            // SAFETY: `at + 8 <= len`, the length of every row.
            let values = unsafe { _mm256_loadu_ps(row.as_ptr().add(at)) };
            *lanes = _mm512_add_pd(*lanes, _mm512_abs_pd(_mm512_cvtps_pd(values)));
        }
    }
    for (lanes, sums) in lanes.iter().zip(sums.iter_mut()) {
        // SAFETY: eight sums are written.
        unsafe { _mm512_storeu_pd(sums.as_mut_ptr(), *lanes) };
    }
    flat::add_magnitudes(rows.map(|row| &row[whole..]), sums);
}

/// The contract of `scalar::flat::pack_quarters`: 16 columns a step, codes as masked sums.
#[target_feature(enable = "avx512f")]
fn pack_quarters(rows: [&[f32]; 4], inverse: f32, out: &mut [u8]) {
    let len = out.len();
    assert!(rows.iter().all(|row| row.len() == len), "rows as long as the line");
    let (scale, half, minus_half) = (_mm512_set1_ps(inverse), _mm512_set1_ps(0.5), _mm512_set1_ps(-0.5));
    let whole = len / 16 * 16;
    for at in (0..whole).step_by(16) {
        let mut line = _mm512_set1_epi32(0b01_01_01_01);
        for (quarter, row) in rows.into_iter().enumerate() {
            // SAFETY: `at + 16 <= len`, the length of every row.
            let weights = unsafe { _mm512_loadu_ps(row.as_ptr().add(at)) };
            let (scaled, one) = (_mm512_mul_ps(weights, scale), _mm512_set1_epi32(1 << (2 * quarter)));
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(scaled, half);
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(scaled, minus_half);
            line = _mm512_mask_add_epi32(line, above, line, one);
            line = _mm512_mask_sub_epi32(line, below, line, one);
        }
        // SAFETY: `at + 16 <= len`, the length of `out`.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().add(at).cast(), _mm512_cvtepi32_epi8(line)) };
    }
    flat::pack_quarters(rows.map(|row| &row[whole..]), inverse, &mut out[whole..]);
}
