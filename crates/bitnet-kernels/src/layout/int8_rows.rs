//! Rows of int8 with one step each: a dense matrix at a half or a quarter of its bytes.
//!
//! Row `r` of a matrix `[rows, cols]` is `w[c] = q[c] * step`, `step = max |w| / 127`, `q` rounded half to
//! even.

/// Quantises one row and returns its step: 0 for a row of zeros, NaN for one that holds a NaN or an infinity.
///
/// # Panics
/// When the slices differ in length.
#[inline(always)]
pub fn quantize_row(row: &[f32], out: &mut [i8]) -> f32 {
    assert_eq!(row.len(), out.len(), "a row and its codes");
    let mut absmax = 0i32;
    // Magnitudes of floats order like their bits, and NaN lies above infinity.
    row.iter().for_each(|value| absmax = absmax.max((value.to_bits() & 0x7fff_ffff) as i32));
    let absmax = f32::from_bits(absmax as u32);
    if !absmax.is_finite() || absmax == 0.0 {
        out.fill(0);
        return if absmax == 0.0 { 0.0 } else { f32::NAN };
    }
    // Rows of subnormals, whose reciprocal overflows, are quantised by division all the same.
    let inverse = 127.0 / absmax;
    for (out, &value) in out.iter_mut().zip(row) {
        let scaled = if inverse.is_finite() { value * inverse } else { value / absmax * 127.0 };
        *out = round_half_even(scaled) as i8;
    }
    absmax / 127.0
}

/// Rounds a number of magnitude below 2^22.
#[inline(always)]
fn round_half_even(x: f32) -> i32 {
    // In 1.5 * 2^23 + x the integer sits in the low bits of the sum, rounded by the addition itself.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}
