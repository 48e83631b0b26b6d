//! Products of int8 rows (`layout::narrow_rows`) with finely quantised activations.
//!
//! The activations of the language-model head are not part of what a ternary model was trained to quantise
//! to eight bits. They are taken to as many bits as an exact 32-bit sum allows (about 13 for 2,560 columns),
//! so that the error of the product is that of the weights alone, and the sum is an integer: the same on
//! every tier.

/// Returns the greatest magnitude of a quantised activation such that `cols` products with int8 cannot
/// overflow 32 bits.
pub const fn limit(cols: usize) -> i32 {
    match (i32::MAX as usize / 127).checked_div(cols) {
        Some(most) if most < i16::MAX as usize => most as i32,
        _ => i16::MAX as i32,
    }
}

/// Quantises one row of activations to `-most..=most` and returns its step: `x ~ q * step`.
///
/// A row that holds a NaN or an infinity gets a NaN step and zeros. Slices have one length.
#[inline(always)]
pub fn quantize_i16(x: &[f32], most: i32, q: &mut [i16]) -> f32 {
    let bits = |x: f32| (x.to_bits() & 0x7fff_ffff) as i32;
    // Magnitudes of floats order like their bits, and NaN lies above infinity.
    let absmax = f32::from_bits(x.iter().fold(0, |max, &x| max.max(bits(x))) as u32);
    // Below the smallest normal number the reciprocal is not finite; such a row rounds to zeros.
    let most = most as f32;
    if !absmax.is_finite() {
        q.fill(0);
        return f32::NAN;
    }
    let floor = if absmax < 1e-30 { 1e-30 } else { absmax };
    let scale = most / floor;
    for (q, &x) in q.iter_mut().zip(x) {
        const ROUND: f32 = 12_582_912.0;
        let value = (x * scale + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        *q = value as i16;
    }
    floor / most
}

/// Writes, for each row and token, the exact product.
///
/// # Shapes
/// `rows` `[rows, cols]`, `x` `[tokens, cols]` within [`limit`] of `cols`, `out` `[rows, tokens]`.
#[inline(always)]
pub fn int8_i16(rows: &[i8], cols: usize, x: &[i16], out: &mut [i32]) {
    if cols == 0 || x.is_empty() {
        out.fill(0);
        return;
    }
    for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(x.len() / cols)) {
        for (x, out) in x.chunks_exact(cols).zip(out) {
            *out = row.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
        }
    }
}
