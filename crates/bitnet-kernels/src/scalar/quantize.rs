//! Per-token int8 quantisation of activations.

/// What a dot product needs to know of a quantised row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizedRow {
    /// `1 / max(max |x|, 1e-5) * 127`; NaN when the row holds a NaN or an infinity.
    pub scale: f32,
    /// Sum of the quantised values.
    pub sum: i32,
}

/// Quantises one row: `q = clamp(round_half_even(x * s), -128, 127)`, `s = 1 / max(max |x|, 1e-5) * 127`.
///
/// Source: `activation_quant` in `transformers/integrations/bitnet.py`, evaluated in f32; dividing a number
/// by a tensor rounds twice there, as the reciprocal and as the product. A row that holds a NaN or an
/// infinity gets a NaN scale, which reaches the product, and zeros. Slices have one length.
#[inline(always)]
pub fn quantize(x: &[f32], q: &mut [i8]) -> QuantizedRow {
    let absmax = absmax(x);
    let floor = if absmax < 1e-5 { 1e-5 } else { absmax };
    if !floor.is_finite() {
        // What a NaN rounds to depends on the processor.
        q.fill(0);
        return QuantizedRow { scale: f32::NAN, sum: 0 };
    }
    let scale = (1.0 / floor) * 127.0;
    let (x_whole, x_rest) = x.as_chunks::<STRIDE>();
    let (q_whole, q_rest) = q.as_chunks_mut::<STRIDE>();
    let mut sums = [0i32; STRIDE];
    for (x, q) in x_whole.iter().zip(q_whole) {
        let values: [i32; STRIDE] = std::array::from_fn(|l| quantized(x[l], scale));
        for l in 0..STRIDE {
            q[l] = values[l] as i8;
            sums[l] += values[l];
        }
    }
    let mut sum: i32 = sums.iter().sum();
    for (&x, q) in x_rest.iter().zip(q_rest) {
        let value = quantized(x, scale);
        *q = value as i8;
        sum += value;
    }
    QuantizedRow { scale, sum }
}

/// Values handled together.
const STRIDE: usize = 32;

/// Returns the greatest magnitude, or a NaN when there is one.
#[inline(always)]
fn absmax(x: &[f32]) -> f32 {
    // Magnitudes of floats order like their bits, and NaN lies above infinity: an integer maximum is
    // exact and keeps a NaN.
    let bits = |x: f32| (x.to_bits() & 0x7fff_ffff) as i32;
    let (whole, rest) = x.as_chunks::<STRIDE>();
    let mut lanes = [0i32; STRIDE];
    for x in whole {
        for l in 0..STRIDE {
            lanes[l] = lanes[l].max(bits(x[l]));
        }
    }
    let max = rest.iter().map(|&x| bits(x)).chain(lanes).fold(0, i32::max);
    f32::from_bits(max as u32)
}

#[inline(always)]
fn quantized(x: f32, scale: f32) -> i32 {
    round_half_even(x * scale).clamp(-128, 127)
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
    fn a_nan_or_an_infinity_reaches_the_scale() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut q = [7; 3];
            let row = quantize(&[1.0, bad, -2.0], &mut q);
            assert!(row.scale.is_nan() && row.sum == 0 && q == [0; 3], "{bad}");
        }
    }

    #[test]
    fn an_all_zero_row_stays_zero() {
        let mut q = [1; 4];
        let row = quantize(&[0.0; 4], &mut q);
        assert_eq!((q, row.sum, row.scale), ([0; 4], 0, 1.0 / 1e-5 * 127.0));
    }
}
