//! Q6_K: super-blocks of 256 in 210 bytes, a signed 8-bit scale for each 16.
//!
//! ```text
//! 0 low nibbles 128 | 128 high pairs 64 | 192 scales i8 16 | 208 d f16
//! ```
//!
//! A half of 128 elements takes 64 bytes of nibbles and 32 of pairs. For `l < 32`: elements `l` and `l + 32` are
//! the low nibbles of bytes `l` and `l + 32`, elements `l + 64` and `l + 96` their high nibbles; pair `n` of
//! byte `l` belongs to element `32 n + l`. Value: `d * scale * (q - 32)`.

use half::f16;

use super::plain::half_at;

const SCALES: usize = 192;
const D: usize = 208;

/// Returns where element `index` of 256 has its nibble (byte, shift) and its pair (byte, shift).
fn place(index: usize) -> ((usize, usize), (usize, usize)) {
    let (half, run, l) = (index / 128, index % 128 / 32, index % 32);
    ((half * 64 + run % 2 * 32 + l, run / 2 * 4), (128 + half * 32 + l, run * 2))
}

pub(super) fn decode(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, D);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let step = d * f32::from(block[SCALES + group] as i8);
        for (at, out) in out.iter_mut().enumerate() {
            let ((low, low_shift), (high, high_shift)) = place(group * 16 + at);
            let q = block[low] >> low_shift & 15 | (block[high] >> high_shift & 3) << 4;
            *out = step * (i32::from(q) - 32) as f32;
        }
    }
}

/// Chooses each group's scale by trying divisors around the exact one and keeping the least squared error,
/// weighted by the squares of the values; quantises the scales to 8 bits; rounds the quants anew to those.
pub(super) fn encode(values: &[f32], out: &mut [u8]) {
    let mut steps = [0f32; 16];
    for (step, group) in steps.iter_mut().zip(values.chunks_exact(16)) {
        *step = best_step(group);
    }
    let greatest = steps.iter().copied().fold(0f32, |best, s| if s.abs() > best.abs() { s } else { best });
    out.fill(0);
    // The scale of the greatest step is -128, so that all 8 bits are used.
    let d = f16::from_f32(greatest / -128.0);
    let wide = d.to_f32();
    if wide == 0.0 || !wide.is_finite() {
        // Nothing to scale, or nothing that a half can: quants of zero.
        values_of_zero(out);
        return;
    }
    out[D..D + 2].copy_from_slice(&d.to_le_bytes());
    for (group, values) in values.chunks_exact(16).enumerate() {
        let scale = (steps[group] / wide).round_ties_even().clamp(-128.0, 127.0);
        out[SCALES + group] = scale as i8 as u8;
        let step = wide * scale;
        for (at, &value) in values.iter().enumerate() {
            let q = if step == 0.0 { 0.0 } else { (value / step).round_ties_even().clamp(-32.0, 31.0) };
            put(out, group * 16 + at, (q as i32 + 32) as u8);
        }
    }
}

fn values_of_zero(out: &mut [u8]) {
    (0..256).for_each(|index| put(out, index, 32));
}

fn put(out: &mut [u8], index: usize, q: u8) {
    let ((low, low_shift), (high, high_shift)) = place(index);
    out[low] |= (q & 15) << low_shift;
    out[high] |= (q >> 4) << high_shift;
}

/// Finds the step of one group; its sign is such that the value of greatest magnitude becomes quant -32.
fn best_step(group: &[f32]) -> f32 {
    let extreme = group.iter().copied().fold(0f32, |best, v| if v.abs() > best.abs() { v } else { best });
    if extreme == 0.0 || !extreme.is_finite() {
        return 0.0;
    }
    let (mut best, mut best_gain) = (0f32, f32::NEG_INFINITY);
    for trial in -9i32..=9 {
        let inverse = -(32.0 + 0.1 * trial as f32) / extreme;
        let (mut cross, mut square) = (0f32, 0f32);
        for &value in group {
            let q = (value * inverse).round_ties_even().clamp(-32.0, 31.0);
            let weight = value * value;
            cross += weight * value * q;
            square += weight * q * q;
        }
        // The least squares fit of one factor, and by how much it lowers the error.
        let gain = if square > 0.0 { cross * (cross / square) } else { f32::NEG_INFINITY };
        if gain > best_gain {
            (best, best_gain) = (cross / square, gain);
        }
    }
    // Squares of tiny or huge values leave f32: the plain step then.
    if best.is_finite() && best != 0.0 { best } else { extreme / -32.0 }
}
