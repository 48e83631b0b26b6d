//! `avx512-dense`, `avx512-dense-rows`, `avx512-ternary-f32` and `avx512-attend`: [`crate::x86_64::float`] on registers of sixteen.

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::scalar::attention::{self, AttentionBlock, AttentionState, KvRows};
use crate::scalar::dense::DenseRow;
use crate::x86_64::float::{self, Register};

/// Query rows, or tokens, that meet two keys, or rows, in registers.
const TILE: usize = 4;
/// Rows of weights that meet the values.
const WEIGHTS: usize = 4;

// SAFETY of the methods: by the contract of the trait, whose callers here carry AVX-512 F, AVX2 and F16C.
impl Register for __m512 {
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const bf16) -> Self {
        // SAFETY: see above.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(at, self) };
    }

    #[inline(always)]
    unsafe fn load_bytes(at: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_castsi512_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn values(self, shift: u32) -> Self {
        // SAFETY: see above.
        unsafe {
            let codes = _mm512_srl_epi32(_mm512_castps_si512(self), _mm_cvtsi32_si128(shift as i32));
            // The look-up sees the lower two bits alone.
            let values = _mm512_broadcast_f32x4(_mm_setr_ps(-1.0, 0.0, 1.0, 2.0));
            _mm512_permutevar_ps(values, codes)
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn eight(self) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self)));
            _mm256_add_ps(_mm512_castps512_ps256(self), high)
        }
    }
}

/// The contract of `scalar::dense::dense`.
#[target_feature(enable = "avx512f,avx512bw,avx2,f16c")]
pub fn dense(row: DenseRow<'_>, x: &[f32], out: &mut [f32]) {
    // SAFETY: the features are this function's own.
    unsafe {
        match row {
            DenseRow::F32(row) => float::dense::dense::<__m512, _>(row, x, out),
            DenseRow::F16(row) => float::dense::dense::<__m512, _>(row, x, out),
            DenseRow::BF16(row) => float::dense::dense::<__m512, _>(row, x, out),
        }
    }
}

/// The contract of `scalar::dense::dense_rows`.
#[target_feature(enable = "avx512f,avx512bw,avx2,f16c")]
pub fn dense_rows(rows: DenseRow<'_>, cols: usize, x: &[f32], out: &mut [f32]) {
    // SAFETY: the features are this function's own.
    unsafe {
        match rows {
            DenseRow::F32(rows) => float::dense::dense_rows::<__m512, _, TILE>(rows, cols, x, out),
            DenseRow::F16(rows) => float::dense::dense_rows::<__m512, _, TILE>(rows, cols, x, out),
            DenseRow::BF16(rows) => float::dense::dense_rows::<__m512, _, TILE>(rows, cols, x, out),
        }
    }
}

/// The contract of `scalar::ternary::row_quarters_f32`.
#[target_feature(enable = "avx512f,avx512bw,avx2,f16c")]
pub fn row_quarters_f32(codes: &[u8], cols: usize, x: &[f32], out: &mut [[f32; 4]]) {
    // SAFETY: the features are this function's own.
    unsafe { float::ternary::products::<__m512, 4, TILE>(codes, cols, x, out) }
}

/// The contract of `scalar::ternary::row_fifths_f32`.
#[target_feature(enable = "avx512f,avx512bw,avx2,f16c")]
pub fn row_fifths_f32(codes: &[u8], cols: usize, x: &[f32], out: &mut [[f32; 5]]) {
    // SAFETY: the features are this function's own.
    unsafe { float::ternary::products::<__m512, 5, TILE>(codes, cols, x, out) }
}

/// The contract of `scalar::attention::attend`.
#[target_feature(enable = "avx512f,avx512bw,avx2,f16c")]
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
                attend::<__m512, _, TILE, WEIGHTS>(block, (k, v), counts, queries, states, out, scratch);
            }
            (KvRows::F16(k), KvRows::F16(v)) => {
                attend::<__m512, _, TILE, WEIGHTS>(block, (k, v), counts, queries, states, out, scratch);
            }
            // Caches hold keys and values in one type; the scalar tier answers for any other pair.
            _ => attention::attend(block, counts, queries, states, out, scratch),
        }
    }
}
