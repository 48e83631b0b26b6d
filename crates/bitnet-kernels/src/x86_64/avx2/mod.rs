//! AVX2 with F16C: hand-written ternary int8 products, and the scalar bodies compiled for 256 bits.
//!
//! The float kernels keep the scalar text on purpose: their sums run over fixed virtual lanes, which the
//! compiler maps to four registers by itself, and one text cannot drift from the truth.

#![allow(unsafe_code)]

mod ternary;

use crate::scalar::attention::{self, AttentionBlock, AttentionState};
use crate::scalar::dense::{self, DenseRow};
use crate::scalar::quantize::{self, QuantizedRow};
use crate::scalar::{gate, norm, rope, ternary as scalar_ternary};
use crate::{Isa, Kernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after detection of
/// AVX2 and F16C: this is what the `unsafe` calls below rely on.
pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::Avx2,
    // SAFETY: for each entry, AVX2 and F16C were detected (see above).
    ternary_i8: |codes, x, sums, out| unsafe { ternary::ternary_i8(codes, x, sums, out) },
    // SAFETY: as above.
    ternary_f32: |codes, x, out| unsafe { ternary_f32(codes, x, out) },
    // SAFETY: as above.
    dense: |row, x, out| unsafe { dense(row, x, out) },
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
    rotate: |row, head_dim, cos, sin| unsafe { rotate(row, head_dim, cos, sin) },
    // SAFETY: as above.
    attend: |block, queries, states, out| unsafe { attend(block, queries, states, out) },
    // SAFETY: as above.
    finish: |states, head_dim, out| unsafe { finish(states, head_dim, out) },
};

#[target_feature(enable = "avx2,f16c")]
fn ternary_f32(codes: &[u8], x: &[f32], out: &mut [[f32; 4]]) {
    scalar_ternary::ternary_f32(codes, x, out);
}

#[target_feature(enable = "avx2,f16c")]
fn dense(row: DenseRow<'_>, x: &[f32], out: &mut [f32]) {
    dense::dense(row, x, out);
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
fn rotate(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    rope::rotate(row, head_dim, cos, sin);
}

#[target_feature(enable = "avx2,f16c")]
fn attend(block: AttentionBlock<'_>, queries: &[f32], states: &mut [AttentionState], out: &mut [f32]) {
    attention::attend(block, queries, states, out);
}

#[target_feature(enable = "avx2,f16c")]
fn finish(states: &[AttentionState], head_dim: usize, out: &mut [f32]) {
    attention::finish(states, head_dim, out);
}
