//! `avx2-sparse`: bitmap and signs by bit deposit; the planar layouts are the scalar text compiled for 256 bits.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::layout::flat_sparse::{self, SignWriter, bitmap_len, sign_bits, unpack_from};
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
    unpack_base3: |packed, out| unsafe { unpack_base3(packed, out) },
    // SAFETY: as above.
    pack_base3: |values, out| unsafe { pack_base3(values, out) },
    unpack_sparse: |bitmap, signs, out| match is_x86_feature_detected!("bmi2") {
        // SAFETY: as above, and BMI2 was just detected.
        true => unsafe { unpack_sparse(bitmap, signs, out) },
        // SAFETY: AVX2 includes SSSE3.
        false => unsafe { ssse3::flat::unpack_sparse(bitmap, signs, out) },
    },
    pack_sparse: |values, bitmap, signs| match is_x86_feature_detected!("bmi2") {
        // SAFETY: as above, and BMI2 was just detected.
        true => unsafe { pack_sparse(values, bitmap, signs) },
        false => flat_sparse::pack(values, bitmap, signs),
    },
    // SAFETY: as above.
    find_odd: |values| unsafe { find_odd(values) },
    // SAFETY: as above.
    count: |values| unsafe { count(values) },
    // SAFETY: as above.
    add_magnitudes: |values, sums| unsafe { add_magnitudes(values, sums) },
    // SAFETY: as above.
    add_codes: |weights, inverse, shift, out| unsafe { add_codes(weights, inverse, shift, out) },
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
fn unpack_base3(packed: &[u8], out: &mut [i8]) {
    flat_base3::unpack(packed, out);
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
fn add_magnitudes(values: &[f32], sums: &mut [f64; 8]) {
    flat::add_magnitudes(values, sums);
}

#[target_feature(enable = "avx2")]
fn add_codes(weights: &[f32], inverse: f32, shift: u32, out: &mut [u8]) {
    flat::add_codes(weights, inverse, shift, out);
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

/// The contract of `layout::flat_sparse::unpack`: 32 values a step.
#[target_feature(enable = "avx2,bmi2,popcnt")]
fn unpack_sparse(bitmap: &[u8], signs: &[u8], out: &mut [i8]) {
    assert_eq!(bitmap.len(), bitmap_len(out.len()), "bitmap of {} values", out.len());
    let (steps, rest) = out.as_chunks_mut::<32>();
    let (words, rest_bitmap) = bitmap.split_at(4 * steps.len());
    let mut at = 0;
    for (out, &word) in steps.iter_mut().zip(words.as_chunks::<4>().0) {
        let there = u32::from_le_bytes(word);
        let negative = _pdep_u32(sign_bits(signs, at) as u32, there);
        let values = _mm256_sub_epi8(spread(negative), spread(there & !negative));
        // SAFETY: `out` holds 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), values) };
        at += there.count_ones() as usize;
    }
    unpack_from(rest_bitmap, signs, at, rest);
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
