//! `avx2-dense`, `avx2-dense-rows`, `avx2-ternary-f32` and `avx2-attend`: [`crate::x86_64::float`] on registers of eight.

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::scalar::attention::{self, AttentionBlock, AttentionState, KvRows};
use crate::scalar::dense::DenseRow;
use crate::x86_64::float::{self, Register};

/// Query rows, or tokens, that meet two keys, or rows, in registers.
const TILE: usize = 3;
/// Rows of weights that meet the values.
const WEIGHTS: usize = 2;

// SAFETY of the methods: by the contract of the trait, whose callers here carry AVX2 and F16C.
impl Register for __m256 {
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const bf16) -> Self {
        // SAFETY: see above.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(at, self) };
    }

    #[inline(always)]
    unsafe fn load_bytes(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_castsi256_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn values(self, shift: u32) -> Self {
        // SAFETY: see above.
        unsafe {
            let codes = _mm256_srl_epi32(_mm256_castps_si256(self), _mm_cvtsi32_si128(shift as i32));
            // The look-up sees the lower two bits alone.
            _mm256_permutevar_ps(_mm256_setr_ps(-1.0, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0), codes)
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn eight(self) -> __m256 {
        self
    }
}

/// The contract of `scalar::dense::dense`.
#[target_feature(enable = "avx2,f16c")]
pub fn dense(row: DenseRow<'_>, x: &[f32], out: &mut [f32]) {
    // SAFETY: the features are this function's own.
    unsafe {
        match row {
            DenseRow::F32(row) => float::dense::dense::<__m256, _>(row, x, out),
            DenseRow::F16(row) => float::dense::dense::<__m256, _>(row, x, out),
            DenseRow::BF16(row) => float::dense::dense::<__m256, _>(row, x, out),
        }
    }
}

/// The contract of `scalar::dense::dense_rows`.
#[target_feature(enable = "avx2,f16c")]
pub fn dense_rows(rows: DenseRow<'_>, cols: usize, x: &[f32], out: &mut [f32]) {
    // SAFETY: the features are this function's own.
    unsafe {
        match rows {
            DenseRow::F32(rows) => float::dense::dense_rows::<__m256, _, TILE>(rows, cols, x, out),
            DenseRow::F16(rows) => float::dense::dense_rows::<__m256, _, TILE>(rows, cols, x, out),
            DenseRow::BF16(rows) => float::dense::dense_rows::<__m256, _, TILE>(rows, cols, x, out),
        }
    }
}

/// The contract of `scalar::ternary::row_quarters_f32`.
#[target_feature(enable = "avx2,f16c")]
pub fn row_quarters_f32(codes: &[u8], cols: usize, x: &[f32], out: &mut [[f32; 4]]) {
    // SAFETY: the features are this function's own.
    unsafe { float::ternary::products::<__m256, 4, TILE>(codes, cols, x, out) }
}

/// The contract of `scalar::ternary::row_fifths_f32`.
#[target_feature(enable = "avx2,f16c")]
pub fn row_fifths_f32(codes: &[u8], cols: usize, x: &[f32], out: &mut [[f32; 5]]) {
    // SAFETY: the features are this function's own.
    unsafe { float::ternary::products::<__m256, 5, TILE>(codes, cols, x, out) }
}

/// The contract of `scalar::attention::attend`.
#[target_feature(enable = "avx2,f16c")]
pub fn attend(
    block: AttentionBlock<'_>,
    counts: &[usize],
    queries: &[f32],
    states: &mut [AttentionState],
    out: &mut [f32],
    scratch: &mut [f32],
) {
    use float::attention::attend;
    // SAFETY: the features are this function's own.
    unsafe {
        match (block.keys, block.values) {
            (KvRows::F32(k), KvRows::F32(v)) => {
                attend::<__m256, _, TILE, WEIGHTS>(block, (k, v), counts, queries, states, out, scratch);
            }
            (KvRows::F16(k), KvRows::F16(v)) => {
                attend::<__m256, _, TILE, WEIGHTS>(block, (k, v), counts, queries, states, out, scratch);
            }
            // Caches hold keys and values in one type; the scalar tier answers for any other pair.
            _ => attention::attend(block, counts, queries, states, out, scratch),
        }
    }
}
