//! AVX2 with F16C: hand-written ternary products, dense rows, attention and dequantisation; the scalar bodies of the rest
//! compiled for 256 bits.
//!
//! Where the compiler vectorises the scalar text well it is kept on purpose: one text cannot drift from the
//! truth.

#![allow(unsafe_code)]

mod affine;
mod casts;
mod dequantize;
pub(super) mod flat;
mod float;
pub(super) mod int6;
mod int8;
mod panel;
mod row_fifths;
pub(super) mod ternary;

use crate::layout::narrow_rows::{self, NarrowRow};
use crate::scalar::attention::{self, AttentionState};
use crate::scalar::dense::{self, DenseRow};
use crate::scalar::narrow::{self, RowFacts, TokenFacts};
use crate::scalar::quantize::{self, QuantizedRow};
use crate::scalar::{exp, gate, int8 as scalar_int8, norm, rope};
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after detection of
/// AVX2 and F16C: this is what the `unsafe` calls below rely on.
pub(crate) static KERNELS: Kernels = ENTRIES;

/// The entries, for the tiers above to take over.
pub(crate) const ENTRIES: Kernels = Kernels {
    isa: Isa::Avx2,
    row_quarters: TernaryKernels {
        // SAFETY: for each entry, AVX2 and F16C were detected (see above).
        i8: |codes, x, sums, out| unsafe { ternary::row_quarters_i8(codes, x, sums, out) },
        // SAFETY: as above.
        f32: |codes, cols, x, out| unsafe { float::row_quarters_f32(codes, cols, x, out) },
    },
    row_fifths: TernaryKernels {
        // SAFETY: as above.
        i8: |codes, x, sums, out| unsafe { row_fifths::row_fifths_i8(codes, x, sums, out) },
        // SAFETY: as above.
        f32: |codes, cols, x, out| unsafe { float::row_fifths_f32(codes, cols, x, out) },
    },
    flat: flat::ENTRIES,
    affine: affine::ENTRIES,
    casts: casts::ENTRIES,
    // SAFETY: as above.
    int6_planes: |rows, planes, sums, out| unsafe { int6::int6_planes(rows, planes, sums, out) },
    // SAFETY: as above.
    int8_i16: |rows, cols, x, out| unsafe { int8::int8_i16(rows, cols, x, out) },
    // SAFETY: as above.
    narrow_logits: |acc, steps, token_step, out| unsafe { narrow_logits(acc, steps, token_step, out) },
    // SAFETY: as above.
    narrow_candidates: |logits, rows, token, floor| unsafe { narrow_candidates(logits, rows, token, floor) },
    // SAFETY: as above.
    quantize_row: |row, most, out| unsafe { quantize_row(row, most, out) },
    // SAFETY: as above.
    quantize_i16: |x, most, q| unsafe { quantize_i16(x, most, q) },
    // SAFETY: as above.
    dense: |row, x, out| unsafe { float::dense(row, x, out) },
    // SAFETY: as above.
    dense_rows: |rows, cols, x, out| unsafe { float::dense_rows(rows, cols, x, out) },
    // SAFETY: as above.
    widen: |row, out| unsafe { widen(row, out) },
    // SAFETY: as above.
    rms_norm: |x, weight, eps, out| unsafe { rms_norm(x, weight, eps, out) },
    // SAFETY: as above.
    quantize: |x, q| unsafe { quantize(x, q) },
    // SAFETY: as above.
    squared_relu: |gate, up, out| unsafe { squared_relu(gate, up, out) },
    // SAFETY: as above.
    silu: |gate, up, out| unsafe { silu(gate, up, out) },
    // SAFETY: as above.
    exponentiate: |values, greatest, temperature| unsafe { exponentiate(values, greatest, temperature) },
    // SAFETY: as above.
    rotate: |row, head_dim, cos, sin| unsafe { rotate(row, head_dim, cos, sin) },
    // SAFETY: as above.
    attend: |block, counts, queries, states, out, scratch| unsafe {
        float::attend(block, counts, queries, states, out, scratch)
    },
    // SAFETY: as above.
    merge: |own, values, states, out| unsafe { merge(own, values, states, out) },
    // SAFETY: as above.
    finish: |states, out| unsafe { finish(states, out) },
    // SAFETY: as above.
    dequantize: |acc, step, scale, accumulate, out| unsafe {
        dequantize::dequantize(acc, step, scale, accumulate, out)
    },
};

#[target_feature(enable = "avx2,f16c")]
fn narrow_logits(acc: &[i32], steps: &[f32], token_step: f32, out: &mut [f32]) -> f32 {
    narrow::narrow_logits(acc, steps, token_step, out)
}

#[target_feature(enable = "avx2,f16c")]
fn narrow_candidates(logits: &[f32], rows: RowFacts<'_>, token: TokenFacts, floor: f32) -> usize {
    narrow::narrow_candidates(logits, rows, token, floor)
}

#[target_feature(enable = "avx2,f16c")]
fn quantize_row(row: &[f32], most: i8, out: &mut [i8]) -> NarrowRow {
    narrow_rows::quantize_row(row, most, out)
}

#[target_feature(enable = "avx2,f16c")]
fn quantize_i16(x: &[f32], most: i32, q: &mut [i16]) -> f32 {
    scalar_int8::quantize_i16(x, most, q)
}

#[target_feature(enable = "avx2,f16c")]
fn widen(row: DenseRow<'_>, out: &mut [f32]) {
    dense::widen(row, out);
}

#[target_feature(enable = "avx2,f16c")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    norm::rms_norm(x, weight, eps, out);
}

#[target_feature(enable = "avx2,f16c")]
fn quantize(x: &[f32], q: &mut [i8]) -> QuantizedRow {
    quantize::quantize(x, q)
}

#[target_feature(enable = "avx2,f16c")]
fn squared_relu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    gate::squared_relu(gate, up, out);
}

#[target_feature(enable = "avx2,f16c")]
fn silu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    gate::silu(gate, up, out);
}

#[target_feature(enable = "avx2,f16c")]
fn exponentiate(values: &mut [f32], greatest: f32, temperature: f32) -> f64 {
    exp::exponentiate(values, greatest, temperature)
}

#[target_feature(enable = "avx2,f16c")]
fn rotate(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    rope::rotate(row, head_dim, cos, sin);
}

#[target_feature(enable = "avx2,f16c")]
fn merge(own: &[AttentionState], values: &[f32], states: &mut [AttentionState], out: &mut [f32]) {
    attention::merge(own, values, states, out);
}

#[target_feature(enable = "avx2,f16c")]
fn finish(states: &[AttentionState], out: &mut [f32]) {
    attention::finish(states, out);
}
