//! `avx512-casts`: [`crate::x86_64::casts`] on 64 bytes.

use std::arch::x86_64::*;

use crate::CastKernels;
use crate::scalar::casts::{self as scalar, CodeRule, Extent};
use crate::x86_64::casts::{Register, bytes_of, bytes_of_mut, cast, codes_of, codes_of_mut, entries, pack};

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

/// Rounds sixteen floats to their upper halves, in the high half of each lane; in integers, since `vcvtneps2bf16` takes
/// subnormal numbers for zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn upper_halves(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000))
}

/// Packs the high halves of the lanes of two registers, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn high_halves(a: __m512i, b: __m512i) -> __m512i {
    // Words 1, 3, 5 and so on of the pair.
    const ODD: [u16; 32] = {
        let mut words = [0; 32];
        let mut index = 0;
        while index < 32 {
            words[index] = 2 * index as u16 + 1;
            index += 1;
        }
        words
    };
    // SAFETY: 64 bytes.
    let odd = unsafe { _mm512_loadu_si512(ODD.as_ptr().cast()) };
    _mm512_permutex2var_epi16(a, odd, b)
}

/// Widens sixteen upper halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn from_upper(x: __m256i) -> __m512 {
    let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x));
    let number = _mm512_castsi512_ps(bits);
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(number, number);
    _mm512_castsi512_ps(_mm512_mask_or_epi32(bits, nan, bits, _mm512_set1_epi32(0x40_0000)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn both(a: __m256i, b: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn rounded(x: __m512, rule: CodeRule) -> __m512i {
    let scaled = _mm512_mul_ps(x, _mm512_set1_ps(rule.inverse));
    let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(scaled, scaled);
    let above = _mm512_max_ps(_mm512_maskz_mov_ps(number, scaled), _mm512_set1_ps(f32::from(rule.least)));
    _mm512_cvtps_epi32(_mm512_min_ps(above, _mm512_set1_ps(f32::from(rule.greatest))))
}

// SAFETY of the methods: by the contract of the trait, whose callers here carry AVX-512 F and BW, AVX2 and F16C.
impl Register for __m512i {
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(at.cast(), self) };
    }

    #[inline(always)]
    unsafe fn stream(self, at: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm512_stream_si512(at.cast(), self) };
    }

    #[inline(always)]
    unsafe fn f32_to_f16(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let a = _mm512_cvtps_ph::<NEAREST>(_mm512_loadu_ps(at.cast()));
            both(a, _mm512_cvtps_ph::<NEAREST>(_mm512_loadu_ps(at.add(64).cast())))
        }
    }

    #[inline(always)]
    unsafe fn f32_to_bf16(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let a = upper_halves(_mm512_loadu_ps(at.cast()));
            high_halves(a, upper_halves(_mm512_loadu_ps(at.add(64).cast())))
        }
    }

    #[inline(always)]
    unsafe fn f16_to_f32(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn bf16_to_f32(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_castps_si512(from_upper(_mm256_loadu_si256(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn f16_to_bf16(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let a = _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
            let b = _mm512_cvtph_ps(_mm256_loadu_si256(at.add(32).cast()));
            high_halves(upper_halves(a), upper_halves(b))
        }
    }

    #[inline(always)]
    unsafe fn bf16_to_f16(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let a = from_upper(_mm256_loadu_si256(at.cast()));
            let b = from_upper(_mm256_loadu_si256(at.add(32).cast()));
            both(_mm512_cvtps_ph::<NEAREST>(a), _mm512_cvtps_ph::<NEAREST>(b))
        }
    }

    #[inline(always)]
    unsafe fn f32_to_codes(at: *const u8, rule: CodeRule) -> Self {
        // SAFETY: see above.
        unsafe {
            let sixteen = |index: usize| rounded(_mm512_loadu_ps(at.add(64 * index).cast()), rule);
            let low = _mm512_packs_epi32(sixteen(0), sixteen(1));
            let packed = _mm512_packs_epi16(low, _mm512_packs_epi32(sixteen(2), sixteen(3)));
            // Packing goes by quarters of registers; this puts the fours in order.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, packed)
        }
    }

    #[inline(always)]
    unsafe fn pack_i4(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let pairs = |index: usize| {
                let codes = _mm512_loadu_si512(at.add(64 * index).cast());
                let codes = _mm512_and_si512(codes, _mm512_set1_epi8(15));
                _mm512_cvtepi16_epi8(_mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x1001)))
            };
            both(pairs(0), pairs(1))
        }
    }

    #[inline(always)]
    unsafe fn pack_ternary(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe {
            let fours = |index: usize| {
                let values = _mm512_loadu_si512(at.add(64 * index).cast());
                let codes = _mm512_add_epi8(values, _mm512_set1_epi8(1));
                let pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0401));
                _mm512_cvtepi32_epi8(_mm512_madd_epi16(pairs, _mm512_set1_epi32(0x0010_0001)))
            };
            let low = _mm256_set_m128i(fours(1), fours(0));
            both(low, _mm256_set_m128i(fours(3), fours(2)))
        }
    }

    #[inline(always)]
    unsafe fn codes_to_f32(at: *const u8, scale: f32) -> Self {
        // SAFETY: see above.
        unsafe {
            let codes = _mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()));
            _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(scale)))
        }
    }
}

entries!(__m512i, "avx512f,avx512bw,avx2,f16c");
