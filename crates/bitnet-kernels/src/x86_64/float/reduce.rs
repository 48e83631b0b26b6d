//! The last three halvings of the virtual lanes.

use std::arch::x86_64::*;

/// Adds up eight lanes, as `Lanes::reduce`.
///
/// # Safety
/// AVX2 is there.
#[inline(always)]
pub unsafe fn one(eight: __m256) -> f32 {
    // SAFETY: arithmetic alone; AVX2 by the contract.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// Adds up the lanes of eight sums at once; sum `i` of the input is element `i` of the result.
///
/// Lanes `l` and `l + 4` of each sum meet first, then `l` and `l + 2`, then the last two, as in [`one`].
///
/// # Safety
/// Eight times eight floats can be read from `at`; AVX2 is there.
#[inline(always)]
pub unsafe fn eight(at: *const f32) -> __m256 {
    // SAFETY: by the contract.
    unsafe {
        let mut fours = [_mm256_setzero_ps(); 4];
        for i in 0..4 {
            let (a, b) = (_mm256_loadu_ps(at.add(8 * i)), _mm256_loadu_ps(at.add(8 * (i + 4))));
            // Sum `i` in the lower half, sum `i + 4` in the upper.
            let low = _mm256_permute2f128_ps::<0x20>(a, b);
            let high = _mm256_permute2f128_ps::<0x31>(a, b);
            fours[i] = _mm256_add_ps(low, high);
        }
        let (even, odd) = (two(fours[0], fours[1]), two(fours[2], fours[3]));
        _mm256_add_ps(_mm256_shuffle_ps::<0x88>(even, odd), _mm256_shuffle_ps::<0xdd>(even, odd))
    }
}

/// Adds lanes 0 and 2, 1 and 3 of each half of two registers.
///
/// # Safety
/// AVX2 is there.
#[inline(always)]
unsafe fn two(a: __m256, b: __m256) -> __m256 {
    // SAFETY: arithmetic alone; AVX2 by the contract.
    unsafe { _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b)) }
}
