//! `avx2-sparse`: bitmap and signs by bit deposit. `avx2-absmean`: both passes over master weights, four rows at a time.
//! The planar layouts are the scalar text compiled for 256 bits.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::layout::flat_sparse::{self, SignWriter, bitmap_len, sign_word, unpack_from};
use crate::layout::{flat_base3, flat_two_bit};
use crate::scalar::flat;
use crate::x86_64::{sse2, ssse3};

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels {
    // SAFETY: for each entry, AVX2 was detected before the table left the crate.
    unpack_two_bit: |packed, out| unsafe { unpack_two_bit(packed, out) },
    // SAFETY: as above.
    pack_two_bit: |values, out| unsafe { pack_two_bit(values, out) },
    // SAFETY: as above.
    unpack_base3: |packed, out| unsafe { unpack_base3::<false>(packed, out) },
    // SAFETY: as above.
    pack_base3: |values, out| unsafe { pack_base3(values, out) },
    // SAFETY: as above.
    stream_two_bit: Some(|packed, out| unsafe { stream_two_bit(packed, out) }),
    // SAFETY: as above.
    stream_base3: Some(|packed, out| unsafe { unpack_base3::<true>(packed, out) }),
    unpack_sparse: |bitmap, signs, out| match is_x86_feature_detected!("bmi2") {
        // SAFETY: as above, and BMI2 was just detected.
        true => unsafe { unpack_sparse::<false>(bitmap, signs, out) },
        // SAFETY: AVX2 includes SSSE3.
        false => unsafe { ssse3::flat::unpack_sparse::<false>(bitmap, signs, out) },
    },
    // SAFETY: as above.
    stream_sparse: Some(|bitmap, signs, out| unsafe { stream_sparse(bitmap, signs, out) }),
    pack_sparse: |values, bitmap, signs| match is_x86_feature_detected!("bmi2") {
        // SAFETY: as above, and BMI2 was just detected.
        true => unsafe { pack_sparse(values, bitmap, signs) },
        false => flat_sparse::pack(values, bitmap, signs),
    },
    // SAFETY: as above.
    bitmaps: |values, there, negative| unsafe { bitmaps(values, there, negative) },
    // SAFETY: as above.
    find_odd: |values| unsafe { find_odd(values) },
    // SAFETY: as above.
    count: |values| unsafe { count(values) },
    // SAFETY: as above.
    add_magnitudes: |rows, sums| unsafe { add_magnitudes(rows, sums) },
    // SAFETY: as above.
    pack_quarters: |rows, inverse, out| unsafe { pack_quarters(rows, inverse, out) },
    // SAFETY: as above.
    ternary: |weights, inverse, out| unsafe { ternary(weights, inverse, out) },
    ..sse2::flat::ENTRIES
};

#[target_feature(enable = "avx2")]
fn unpack_two_bit(packed: &[u8], out: &mut [i8]) {
    flat_two_bit::unpack(packed, out);
}

#[target_feature(enable = "avx2")]
fn pack_two_bit(values: &[i8], out: &mut [u8]) {
    flat_two_bit::pack(values, out);
}

#[target_feature(enable = "avx2")]
fn pack_base3(values: &[i8], out: &mut [u8]) {
    flat_base3::pack(values, out);
}

#[target_feature(enable = "avx2")]
fn find_odd(values: &[i8]) -> Option<usize> {
    flat::find_odd(values)
}

#[target_feature(enable = "avx2")]
fn count(values: &[i8]) -> (usize, usize) {
    flat::count(values)
}

#[target_feature(enable = "avx2")]
fn ternary(weights: &[f32], inverse: f32, out: &mut [i8]) {
    flat::ternary(weights, inverse, out);
}

/// The contract of `scalar::flat::add_magnitudes`: two registers of four sums a row.
#[target_feature(enable = "avx2")]
fn add_magnitudes(rows: [&[f32]; 4], sums: &mut [[f64; 8]; 4]) {
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len), "rows of one length");
    let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
    let whole = len / 8 * 8;
    let mut lanes = [[_mm256_setzero_pd(); 2]; 4];
    for (lanes, sums) in lanes.iter_mut().zip(sums.iter()) {
        // SAFETY: eight sums are read in two halves.
        *lanes = unsafe { [_mm256_loadu_pd(sums.as_ptr()), _mm256_loadu_pd(sums.as_ptr().add(4))] };
    }
    for at in (0..whole).step_by(8) {
        for (lanes, row) in lanes.iter_mut().zip(rows) {
            // SAFETY: `at + 8 <= len`, the length of every row.
            let values = unsafe { _mm256_loadu_ps(row.as_ptr().add(at)) };
            let values = _mm256_and_ps(values, magnitude);
            lanes[0] = _mm256_add_pd(lanes[0], _mm256_cvtps_pd(_mm256_castps256_ps128(values)));
            lanes[1] = _mm256_add_pd(lanes[1], _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(values)));
        }
    }
    for (lanes, sums) in lanes.iter().zip(sums.iter_mut()) {
        // SAFETY: eight sums are written in two halves.
        unsafe {
            _mm256_storeu_pd(sums.as_mut_ptr(), lanes[0]);
            _mm256_storeu_pd(sums.as_mut_ptr().add(4), lanes[1]);
        }
    }
    flat::add_magnitudes(rows.map(|row| &row[whole..]), sums);
}

/// The contract of `scalar::flat::pack_quarters`: 32 columns a step.
#[target_feature(enable = "avx2")]
fn pack_quarters(rows: [&[f32]; 4], inverse: f32, out: &mut [u8]) {
    let len = out.len();
    assert!(rows.iter().all(|row| row.len() == len), "rows as long as the line");
    let (scale, half, minus_half) = (_mm256_set1_ps(inverse), _mm256_set1_ps(0.5), _mm256_set1_ps(-0.5));
    // Packing goes by halves of registers; this puts the eights in order.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let whole = len / 32 * 32;
    for at in (0..whole).step_by(32) {
        let mut line = _mm256_setzero_si256();
        for row in rows.into_iter().rev() {
            let mut values = [_mm256_setzero_si256(); 4];
            for (k, value) in values.iter_mut().enumerate() {
                // SAFETY: `at + 32 <= len`, the length of every row.
                let weights = unsafe { _mm256_loadu_ps(row.as_ptr().add(at + 8 * k)) };
                let scaled = _mm256_mul_ps(weights, scale);
                let above = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(scaled, half));
                let below = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(scaled, minus_half));
                *value = _mm256_sub_epi32(below, above);
            }
            let [a, b, c, d] = values;
            let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            // The sum of values times powers of 4, as bytes: with code 1 added in every place it has no negative digit.
            let twice = _mm256_add_epi8(line, line);
            line = _mm256_add_epi8(_mm256_add_epi8(twice, twice), packed);
        }
        let line = _mm256_add_epi8(line, _mm256_set1_epi8(0b01_01_01_01));
        // SAFETY: `at + 32 <= len`, the length of `out`.
        unsafe {
            let line = _mm256_permutevar8x32_epi32(line, order);
            _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), line);
        }
    }
    flat::pack_quarters(rows.map(|row| &row[whole..]), inverse, &mut out[whole..]);
}

/// The contract of `scalar::flat::bitmaps`.
#[target_feature(enable = "avx2")]
fn bitmaps(values: &[i8], there: &mut [u64], negative: &mut [u64]) {
    let words = values.len().div_ceil(64);
    assert!(there.len() == words && negative.len() == words, "bitmaps of {} values", values.len());
    let (parts, rest) = values.as_chunks::<64>();
    for (part, (there, negative)) in parts.iter().zip(there.iter_mut().zip(negative.iter_mut())) {
        let [mut first, mut second] = [0, 0];
        for (half, values) in part.as_chunks::<32>().0.iter().enumerate() {
            // SAFETY: `values` holds 32 bytes.
            let values = unsafe { _mm256_loadu_si256(values.as_ptr().cast()) };
            // Both non-zero values have bit 0 set, which the shift puts on top of each byte.
            let set = _mm256_movemask_epi8(_mm256_slli_epi16::<7>(values)) as u32;
            first |= u64::from(set) << (32 * half);
            second |= u64::from(_mm256_movemask_epi8(values) as u32) << (32 * half);
        }
        (*there, *negative) = (first, second);
    }
    flat::bitmaps(rest, &mut there[parts.len()..], &mut negative[parts.len()..]);
}

/// Writes 32 values past the caches; a fence has to follow.
///
/// # Safety
/// `out` is valid for 32 bytes and begins at a multiple of 16.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn write_past(out: *mut i8, values: __m256i) {
    // SAFETY: by the contract.
    unsafe {
        _mm_stream_si128(out.cast(), _mm256_castsi256_si128(values));
        _mm_stream_si128(out.add(16).cast(), _mm256_extracti128_si256::<1>(values));
    }
}

/// The contract of `layout::flat_two_bit::unpack`, past the caches where `out` begins at a multiple of 16 bytes.
#[target_feature(enable = "avx2")]
fn stream_two_bit(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), flat_two_bit::packed_len(out.len()), "packed bytes of {} values", out.len());
    if out.as_ptr().align_offset(16) != 0 {
        return flat_two_bit::unpack(packed, out);
    }
    let (blocks, rest) = out.as_chunks_mut::<{ flat_two_bit::BLOCK }>();
    let (whole, tail) = packed.split_at(blocks.len() * flat_two_bit::BLOCK_BYTES);
    let (mask, one) = (_mm256_set1_epi8(3), _mm256_set1_epi8(1));
    for (out, codes) in blocks.iter_mut().zip(whole.as_chunks::<32>().0) {
        let value = |codes| _mm256_sub_epi8(_mm256_and_si256(codes, mask), one);
        // SAFETY: 32 bytes are read from a block of 32 and 4 x 32 written to a block of 128, which begins at a multiple
        // of 16 as the first does.
        unsafe {
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            let out = out.as_mut_ptr();
            write_past(out, value(codes));
            write_past(out.add(32), value(_mm256_srli_epi16::<2>(codes)));
            write_past(out.add(64), value(_mm256_srli_epi16::<4>(codes)));
            write_past(out.add(96), value(_mm256_srli_epi16::<6>(codes)));
        }
    }
    flat_two_bit::unpack(tail, rest);
    _mm_sfence();
}

/// The contract of `layout::flat_base3::unpack`; with `PAST`, past the caches where `out` begins at a multiple of 16
/// bytes.
///
/// By hand, since the compiler vectorises the scalar text well in one place and badly in the next.
#[target_feature(enable = "avx2")]
fn unpack_base3<const PAST: bool>(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), flat_base3::packed_len(out.len()), "packed bytes of {} values", out.len());
    let past = PAST && out.as_ptr().align_offset(16) == 0;
    let (blocks, rest) = out.as_chunks_mut::<{ flat_base3::BLOCK }>();
    let (whole, tail) = packed.split_at(blocks.len() * flat_base3::BLOCK_BYTES);
    let (centre, high, low) = (_mm256_set1_epi8(-128), _mm256_set1_epi8(42), _mm256_set1_epi8(-42));
    for (out, bytes) in blocks.iter_mut().zip(whole.as_chunks::<32>().0) {
        // SAFETY: 32 bytes are read from a block of 32.
        let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let mut fractions = _mm256_xor_si256(bytes, centre);
        for plane in out.as_chunks_mut::<32>().0 {
            let (below, above) = (_mm256_cmpgt_epi8(low, fractions), _mm256_cmpgt_epi8(fractions, high));
            let values = _mm256_sub_epi8(below, above);
            // SAFETY: a plane holds 32 bytes, and begins at a multiple of 16 where the first does.
            unsafe {
                match past {
                    true => write_past(plane.as_mut_ptr(), values),
                    false => _mm256_storeu_si256(plane.as_mut_ptr().cast(), values),
                }
            }
            fractions = _mm256_add_epi8(fractions, _mm256_add_epi8(fractions, fractions));
        }
    }
    flat_base3::unpack(tail, rest);
    if past {
        _mm_sfence();
    }
}

/// Spreads the bits of a word over the bytes of a register: -1 for a set bit.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(bits: u32) -> __m256i {
    let bytes = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let single = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let repeated = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), bytes);
    _mm256_cmpeq_epi8(_mm256_and_si256(repeated, single), single)
}

/// The contract of `layout::flat_sparse::unpack`: 64 values a step; with `PAST`, past the caches where `out` begins at a
/// multiple of 16 bytes.
#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn unpack_sparse<const PAST: bool>(bitmap: &[u8], signs: &[u8], out: &mut [i8]) {
    assert_eq!(bitmap.len(), bitmap_len(out.len()), "bitmap of {} values", out.len());
    let past = PAST && out.as_ptr().align_offset(16) == 0;
    let (steps, rest) = out.as_chunks_mut::<64>();
    let (words, rest_bitmap) = bitmap.split_at(8 * steps.len());
    let mut at = 0;
    for (out, &word) in steps.iter_mut().zip(words.as_chunks::<8>().0) {
        let there = u64::from_le_bytes(word);
        let negative = _pdep_u64(sign_word(signs, at), there);
        let positive = there & !negative;
        for (half, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let bits = |word: u64| (word >> (32 * half)) as u32;
            let values = _mm256_sub_epi8(spread(bits(negative)), spread(bits(positive)));
            // SAFETY: `out` holds 32 bytes, and begins at a multiple of 16 where the first does.
            unsafe {
                match past {
                    true => write_past(out.as_mut_ptr(), values),
                    false => _mm256_storeu_si256(out.as_mut_ptr().cast(), values),
                }
            }
        }
        at += there.count_ones() as usize;
    }
    unpack_from(rest_bitmap, signs, at, rest);
    if past {
        _mm_sfence();
    }
}

/// The contract of `layout::flat_sparse::unpack`, past the caches where `out` begins at a multiple of 16 bytes.
#[target_feature(enable = "avx2")]
pub fn stream_sparse(bitmap: &[u8], signs: &[u8], out: &mut [i8]) {
    match is_x86_feature_detected!("bmi2") {
        // SAFETY: BMI2 was just detected.
        true => unsafe { unpack_sparse::<true>(bitmap, signs, out) },
        false => ssse3::flat::unpack_sparse::<true>(bitmap, signs, out),
    }
}

/// The contract of `layout::flat_sparse::pack`: 32 values a step.
#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn pack_sparse(values: &[i8], bitmap: &mut [u8], signs: &mut [u8]) -> usize {
    assert_eq!(bitmap.len(), bitmap_len(values.len()), "bitmap of {} values", values.len());
    let mut writer = SignWriter::new(signs);
    let (steps, rest) = values.as_chunks::<32>();
    let (words, rest_bitmap) = bitmap.split_at_mut(4 * steps.len());
    for (values, word) in steps.iter().zip(words.as_chunks_mut::<4>().0) {
        // SAFETY: `values` holds 32 bytes.
        let values = unsafe { _mm256_loadu_si256(values.as_ptr().cast()) };
        // Both non-zero values have bit 0 set, which the shift puts on top of each byte.
        let there = _mm256_movemask_epi8(_mm256_slli_epi16::<7>(values)) as u32;
        let negative = _mm256_movemask_epi8(values) as u32;
        *word = there.to_le_bytes();
        writer.push(u64::from(_pext_u32(negative, there)), there.count_ones());
    }
    flat_sparse::pack_into(rest, rest_bitmap, &mut writer);
    writer.finish()
}
