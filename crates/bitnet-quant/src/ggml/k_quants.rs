//! Super-blocks of 256 with quantised scales: Q2_K, Q3_K, Q4_K, Q5_K (Q6_K is in `q6_k.rs`).
//!
//! | type | bytes in order | value of quant q |
//! |---|---|---|
//! | Q2_K | scale + minimum nibbles 16, quants 64, d, m | d s q - m t, s and t for 16 |
//! | Q3_K | high bits 32, quants 64, 6-bit scales 12, d | d (s - 32) (q - 4) for 16 |
//! | Q4_K | d, m, 6-bit scales and minima 12, nibbles 128 | d s q - m t for 32 |
//! | Q5_K | d, m, 6-bit scales and minima 12, fifth bits 32, nibbles 128 | d s q - m t for 32 |
//!
//! Two-bit quants: a half of 128 elements is 32 bytes, whose bit pairs 0, 1, 2, 3 are four runs of 32 elements.

use super::plain::half_at;

/// Returns the two-bit quant of element `index` of 256.
fn pair(quants: &[u8], index: usize) -> u8 {
    let (half, run, at) = (index / 128, index % 128 / 32, index % 32);
    quants[half * 32 + at] >> (2 * run) & 3
}

pub(super) fn decode_q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, m) = (half_at(block, 80), half_at(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (step, least) = (d * f32::from(scales[group] & 15), m * f32::from(scales[group] >> 4));
        for (at, out) in out.iter_mut().enumerate() {
            *out = step * f32::from(pair(quants, group * 16 + at)) - least;
        }
    }
}

pub(super) fn decode_q3_k(block: &[u8], out: &mut [f32]) {
    let (high, quants, scales, d) = (&block[..32], &block[32..96], &block[96..108], half_at(block, 108));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let low = if group < 8 { scales[group] & 15 } else { scales[group - 8] >> 4 };
        let top = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let step = d * (i32::from(low | top << 4) - 32) as f32;
        for (at, out) in out.iter_mut().enumerate() {
            let index = group * 16 + at;
            let bit = high[index % 32] >> (index / 32) & 1;
            *out = step * (i32::from(pair(quants, index) | bit << 2) - 4) as f32;
        }
    }
}

/// Returns the 6-bit scale and minimum of group `j` of 8.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

pub(super) fn decode_q4_k(block: &[u8], out: &mut [f32]) {
    nibble_groups(block, &block[16..144], out, |_, _| 0);
}

pub(super) fn decode_q5_k(block: &[u8], out: &mut [f32]) {
    let high = &block[16..48];
    nibble_groups(block, &block[48..176], out, |group, at| (high[at] >> group & 1) << 4);
}

/// Groups of 32: an even group in the low, the next in the high nibbles of the same 32 bytes.
fn nibble_groups(block: &[u8], nibbles: &[u8], out: &mut [f32], high: impl Fn(usize, usize) -> u8) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], group);
        let (step, least) = (d * scale, m * minimum);
        let (bytes, shift) = (&nibbles[group / 2 * 32..][..32], 4 * (group % 2));
        for (at, (out, byte)) in out.iter_mut().zip(bytes).enumerate() {
            *out = step * f32::from(byte >> shift & 15 | high(group, at)) - least;
        }
    }
}
