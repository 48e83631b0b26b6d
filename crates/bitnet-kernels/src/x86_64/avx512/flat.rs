//! `avx512-two-bit`, `avx512-sparse`: 64 values an operation; what gains nothing is the AVX2 tier's.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::layout::flat_sparse::{bitmap_len, sign_bits, unpack_from};
use crate::layout::flat_two_bit::{self, BLOCK, BLOCK_BYTES, packed_len};
use crate::x86_64::avx2;

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels {
    // SAFETY: AVX-512 F and BW were detected before the table left the crate.
    unpack_two_bit: |packed, out| unsafe { unpack_two_bit(packed, out) },
    unpack_sparse: |bitmap, signs, out| match is_x86_feature_detected!("bmi2") {
        // SAFETY: as above, and BMI2 was just detected.
        true => unsafe { unpack_sparse(bitmap, signs, out) },
        false => (avx2::flat::ENTRIES.unpack_sparse)(bitmap, signs, out),
    },
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

/// The contract of `layout::flat_sparse::unpack`: 64 values a step.
#[target_feature(enable = "avx512f,avx512bw,bmi2,popcnt")]
fn unpack_sparse(bitmap: &[u8], signs: &[u8], out: &mut [i8]) {
    assert_eq!(bitmap.len(), bitmap_len(out.len()), "bitmap of {} values", out.len());
    let (steps, rest) = out.as_chunks_mut::<64>();
    let (words, rest_bitmap) = bitmap.split_at(8 * steps.len());
    let (plus, minus) = (_mm512_set1_epi8(1), _mm512_set1_epi8(-1));
    let mut at = 0;
    for (out, &word) in steps.iter_mut().zip(words.as_chunks::<8>().0) {
        let there = u64::from_le_bytes(word);
        let half = (there as u32).count_ones() as usize;
        let low = _pdep_u32(sign_bits(signs, at) as u32, there as u32);
        let high = _pdep_u32(sign_bits(signs, at + half) as u32, (there >> 32) as u32);
        let negative = u64::from(low) | u64::from(high) << 32;
        let values = _mm512_mask_mov_epi8(_mm512_maskz_mov_epi8(there, plus), negative, minus);
        // SAFETY: `out` holds 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), values) };
        at += there.count_ones() as usize;
    }
    unpack_from(rest_bitmap, signs, at, rest);
}
