//! Types without blocks: F32, F16, BF16, I8, I32.

use half::f16;

use crate::matrix::{Byte, Element, Single};

/// A kernel of casts, from elements of `I` bytes to elements of `O`.
type Cast<const I: usize, const O: usize> = fn(&[[u8; I]], &mut [[u8; O]], bool);

pub(super) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    Single::widen(bytes, out);
}

/// Widens little-endian halves.
pub(super) fn widen(cast: Cast<2, 4>, bytes: &[u8], out: &mut [f32]) {
    let (pairs, out) = (bytes.as_chunks::<2>().0, bytemuck::cast_slice_mut(out));
    if cfg!(target_endian = "little") {
        return cast(pairs, out, false);
    }
    pairs
        .iter()
        .zip(out)
        .for_each(|(&[low, high], out)| cast(&[[high, low]], std::slice::from_mut(out), false));
}

/// Rounds to little-endian halves, to nearest, ties to even; NaN stays NaN.
pub(super) fn narrow(cast: Cast<4, 2>, values: &[f32], out: &mut [u8]) {
    let out = out.as_chunks_mut::<2>().0;
    cast(bytemuck::cast_slice(values), out, false);
    if cfg!(target_endian = "big") {
        out.iter_mut().for_each(|half| half.reverse());
    }
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

/// Reads the f16 at `at`.
pub(super) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
