//! Per-token int8 quantisation of activations.

/// What a dot product needs to know of a quantised row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizedRow {
    /// `127 / max(max |x|, 1e-5)`; NaN when the row holds a NaN.
    pub scale: f32,
    /// Sum of the quantised values.
    pub sum: i32,
}

/// Quantises one row: `q = clamp(round_half_even(x * s), -128, 127)`, `s = 127 / max(max |x|, 1e-5)`.
///
/// Source: `activation_quant` in `transformers/integrations/bitnet.py`, evaluated in f32. A row that
/// holds a NaN gets a NaN scale, so that the NaN reaches the product. Slices have one length.
#[inline(always)]
pub fn quantize(x: &[f32], q: &mut [i8]) -> QuantizedRow {
    // Magnitudes of floats order like their bits, and NaN lies above infinity: an integer maximum is
    // exact and keeps a NaN.
    let bits = x.iter().fold(0, |max: i32, x| max.max((x.to_bits() & 0x7fff_ffff) as i32));
    let absmax = f32::from_bits(bits as u32);
    let floor = if absmax < 1e-5 { 1e-5 } else { absmax };
    let scale = 127.0 / floor;
    let mut sum = 0;
    for (q, &x) in q.iter_mut().zip(x) {
        let value = round_half_even(x * scale);
        let value = value.clamp(-128, 127);
        *q = value as i8;
        sum += value;
    }
    QuantizedRow { scale, sum }
}

/// Rounds a number of magnitude below 2^22 to the nearest integer, halves to even.
#[inline(always)]
fn round_half_even(x: f32) -> i32 {
    // In 1.5 * 2^23 + x the integer sits in the low bits of the sum, rounded by the addition itself.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_even() {
        let halves = [-2.5f32, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5];
        assert_eq!(halves.map(round_half_even), [-2, -2, 0, 0, 2, 2, 126]);
    }

    #[test]
    fn a_nan_reaches_the_scale() {
        let mut q = [0; 3];
        assert!(quantize(&[1.0, f32::NAN, -2.0], &mut q).scale.is_nan());
    }

    #[test]
    fn an_all_zero_row_stays_zero() {
        let mut q = [1; 4];
        let row = quantize(&[0.0; 4], &mut q);
        assert_eq!((q, row.sum, row.scale), ([0; 4], 0, 127.0 / 1e-5));
    }
}
