//! Types without blocks: F32, F16, BF16, I8, I32.

use half::{bf16, f16};

use crate::matrix::{Brain, Byte, Element, Half, Single};

pub(super) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    Single::widen(bytes, out);
}

pub(super) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    Half::widen(bytes, out);
}

pub(super) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    Brain::widen(bytes, out);
}

pub(super) fn decode_i8(bytes: &[u8], out: &mut [f32]) {
    Byte::widen(bytes, out);
}

pub(super) fn decode_i32(bytes: &[u8], out: &mut [f32]) {
    out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(out, &b)| *out = i32::from_le_bytes(b) as f32);
}

pub(super) fn encode_f32(values: &[f32], out: &mut [u8]) {
    out.as_chunks_mut::<4>().0.iter_mut().zip(values).for_each(|(out, v)| *out = v.to_le_bytes());
}

pub(super) fn encode_f16(values: &[f32], out: &mut [u8]) {
    for (out, &value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *out = f16::from_f32(value).to_le_bytes();
    }
}

/// Rounds to nearest, ties to even, as `half` does; NaN stays NaN.
pub(super) fn encode_bf16(values: &[f32], out: &mut [u8]) {
    for (out, &value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *out = bf16::from_f32(value).to_le_bytes();
    }
}

/// Reads the f16 at `at`.
pub(super) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
