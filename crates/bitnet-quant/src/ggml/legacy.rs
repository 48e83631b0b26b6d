//! Blocks of 32 with one or two f16 in front.
//!
//! | type | bytes | value of quant q |
//! |---|---|---|
//! | Q4_0 | d, nibbles 16 | d (q - 8) |
//! | Q4_1 | d, m, nibbles 16 | d q + m |
//! | Q5_0 | d, fifth bits u32, nibbles 16 | d (q - 16) |
//! | Q5_1 | d, m, fifth bits u32, nibbles 16 | d q + m |
//! | Q8_0 | d, i8 32 | d q |
//!
//! Nibble byte `j` holds element `j` in its low and `j + 16` in its high half; bit `j` of the fifth bits
//! belongs to element `j`.

use half::f16;

use super::plain::half_at;

pub(super) fn decode_q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], out, |_, q| (i32::from(q) - 8) as f32 * d);
}

pub(super) fn decode_q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], out, |_, q| f32::from(q) * d + m);
}

pub(super) fn decode_q5_0(block: &[u8], out: &mut [f32]) {
    let (d, high) = (half_at(block, 0), fifth_bits(&block[2..]));
    nibbles(&block[6..], out, |j, q| (i32::from(q | high(j)) - 16) as f32 * d);
}

pub(super) fn decode_q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m, high) = (half_at(block, 0), half_at(block, 2), fifth_bits(&block[4..]));
    nibbles(&block[8..], out, |j, q| f32::from(q | high(j)) * d + m);
}

pub(super) fn decode_q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    out.iter_mut().zip(&block[2..]).for_each(|(out, &q)| *out = f32::from(q as i8) * d);
}

/// Scale = greatest magnitude / 127; quants round half away from zero, as the reference does.
pub(super) fn encode_q8_0(values: &[f32], out: &mut [u8]) {
    let greatest = values.iter().fold(0f32, |max, v| max.max(v.abs()));
    let d = greatest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    out[2..].iter_mut().zip(values).for_each(|(q, v)| *q = (v * inverse).round() as i8 as u8);
}

fn nibbles(bytes: &[u8], out: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    for (j, &byte) in bytes[..16].iter().enumerate() {
        out[j] = value(j, byte & 15);
        out[j + 16] = value(j + 16, byte >> 4);
    }
}

fn fifth_bits(bytes: &[u8]) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    move |j| ((bits >> j & 1) as u8) << 4
}
