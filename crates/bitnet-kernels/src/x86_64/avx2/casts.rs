//! `avx2-casts`: [`crate::x86_64::casts`] on 32 bytes, with the conversions of F16C.

use std::arch::x86_64::*;

use crate::CastKernels;
use crate::scalar::casts::{self as scalar, CodeRule, Extent};
use crate::x86_64::casts::{Register, bytes_of, bytes_of_mut, cast, codes_of, codes_of_mut, entries, pack};

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

/// Rounds eight floats to their upper halves, in the low half of each lane.
///
/// In integers, since the conversion instruction of AVX-512 takes subnormal numbers for zeros.
#[inline]
#[target_feature(enable = "avx2")]
fn upper_halves(x: __m256) -> __m256i {
    let bits = _mm256_castps_si256(x);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
    _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
}

/// Packs the low halves of the lanes of two registers, in order.
#[inline]
#[target_feature(enable = "avx2")]
fn low_halves(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(a: __m256, b: __m256) -> __m256i {
    _mm256_set_m128i(_mm256_cvtps_ph::<NEAREST>(b), _mm256_cvtps_ph::<NEAREST>(a))
}

/// Widens eight upper halves.
#[inline]
#[target_feature(enable = "avx2")]
fn from_upper(x: __m128i) -> __m256 {
    let bits = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x));
    let number = _mm256_castsi256_ps(bits);
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(number, number));
    let quiet = _mm256_and_si256(nan, _mm256_set1_epi32(0x40_0000));
    _mm256_castsi256_ps(_mm256_or_si256(bits, quiet))
}

#[inline]
#[target_feature(enable = "avx2")]
fn rounded(x: __m256, rule: CodeRule) -> __m256i {
    let scaled = _mm256_mul_ps(x, _mm256_set1_ps(rule.inverse));
    let number = _mm256_and_ps(scaled, _mm256_cmp_ps::<_CMP_ORD_Q>(scaled, scaled));
    let above = _mm256_max_ps(number, _mm256_set1_ps(f32::from(rule.least)));
    _mm256_cvtps_epi32(_mm256_min_ps(above, _mm256_set1_ps(f32::from(rule.greatest))))
}

// SAFETY of the methods: by the contract of the trait, whose callers here carry AVX2 and F16C.
impl Register for __m256i {
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(at.cast(), self) };
    }

    #[inline(always)]
    unsafe fn stream(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm256_stream_si256(at.cast(), self) };
    }

    #[inline(always)]
    unsafe fn f32_to_f16(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { halves(_mm256_loadu_ps(at.cast()), _mm256_loadu_ps(at.add(32).cast())) }
    }

    #[inline(always)]
    unsafe fn f32_to_bf16(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (_mm256_loadu_ps(at.cast()), _mm256_loadu_ps(at.add(32).cast()));
            low_halves(upper_halves(a), upper_halves(b))
        }
    }

    #[inline(always)]
    unsafe fn f16_to_f32(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn bf16_to_f32(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_castps_si256(from_upper(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn f16_to_bf16(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let a = _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
            let b = _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast()));
            low_halves(upper_halves(a), upper_halves(b))
        }
    }

    #[inline(always)]
    unsafe fn bf16_to_f16(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let a = from_upper(_mm_loadu_si128(at.cast()));
            halves(a, from_upper(_mm_loadu_si128(at.add(16).cast())))
        }
    }

    #[inline(always)]
    unsafe fn f32_to_codes(at: *const u8, rule: CodeRule) -> Self {
        // SAFETY: see above.
        unsafe {
            let eight = |index: usize| rounded(_mm256_loadu_ps(at.add(32 * index).cast()), rule);
            let low = _mm256_packs_epi32(eight(0), eight(1));
            let packed = _mm256_packs_epi16(low, _mm256_packs_epi32(eight(2), eight(3)));
            // Packing goes by halves of registers; this puts the fours in order.
            _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        }
    }

    #[inline(always)]
    unsafe fn pack_i4(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let pairs = |index: usize| {
                let codes = _mm256_loadu_si256(at.add(32 * index).cast());
                let codes = _mm256_and_si256(codes, _mm256_set1_epi8(15));
                _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x1001))
            };
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(pairs(0), pairs(1)))
        }
    }

    #[inline(always)]
    unsafe fn pack_ternary(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let fours = |index: usize| {
                let values = _mm256_loadu_si256(at.add(32 * index).cast());
                let codes = _mm256_add_epi8(values, _mm256_set1_epi8(1));
                let pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0401));
                _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x0010_0001))
            };
            let low = _mm256_packus_epi32(fours(0), fours(1));
            let packed = _mm256_packus_epi16(low, _mm256_packus_epi32(fours(2), fours(3)));
            _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        }
    }

    #[inline(always)]
    unsafe fn codes_to_f32(at: *const u8, scale: f32) -> Self {
        // SAFETY: see above.
        unsafe {
            let codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()));
            _mm256_castps_si256(_mm256_mul_ps(_mm256_cvtepi32_ps(codes), _mm256_set1_ps(scale)))
        }
    }
}

entries!(__m256i, "avx2,f16c");
