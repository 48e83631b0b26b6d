//! Rows of narrow codes with one step each: a dense matrix at a half of its bytes and less.
//!
//! Row `r` of a matrix `[rows, cols]` is `w[c] = q[c] * step`, `step = max |w| / most`, `q` rounded half to
//! even: int8 as it stands with `most` 127, [`int6_rows`](super::int6_rows) with 31.

/// What is known of a quantised row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NarrowRow {
    /// Size of a code's unit: 0 for a row of zeros, NaN for one that holds a NaN or an infinity.
    pub step: f32,
    /// Euclidean norm of `w - q * step`, or more.
    pub error: f32,
    /// Euclidean norm of `w`, or more.
    pub norm: f32,
}

/// Quantises one row to `-most..=most`.
///
/// # Panics
/// When the slices differ in length.
#[inline(always)]
pub fn quantize_row(row: &[f32], most: i8, out: &mut [i8]) -> NarrowRow {
    assert_eq!(row.len(), out.len(), "a row and its codes");
    let mut absmax = 0i32;
    // Magnitudes of floats order like their bits, and NaN lies above infinity.
    row.iter().for_each(|value| absmax = absmax.max((value.to_bits() & 0x7fff_ffff) as i32));
    let absmax = f32::from_bits(absmax as u32);
    if !absmax.is_finite() || absmax == 0.0 {
        out.fill(0);
        let step = if absmax == 0.0 { 0.0 } else { f32::NAN };
        return NarrowRow { step, error: step, norm: step };
    }
    let most = f32::from(most);
    let inverse = most / absmax;
    for (out, &value) in out.iter_mut().zip(row) {
        // The reciprocal of a subnormal is not finite.
        let scaled = if inverse.is_finite() { value * inverse } else { value / absmax * most };
        *out = round_half_even(scaled) as i8;
    }
    let step = absmax / most;
    let (error, norm) = bounds(row, out, step);
    NarrowRow { step, error, norm }
}

/// Returns upper bounds of the Euclidean norms of `x - q * step` and of `x`.
///
/// Over 32 lanes a sum of `n` squares is `n / 32 + 6` roundings of `2^-24` off, less than `2^-13` up to 65,536
/// of them; a difference `x - q * step` is two roundings of `|x|` off, so that the norm of the differences is
/// less than `2^-22` of the norm of `x` off. Below are twice these and more. Scaling by the step keeps squares
/// from overflow and underflow; the smallest normal number covers rows of subnormals.
#[inline(always)]
pub fn bounds<Q: Copy + Into<f32>>(x: &[f32], q: &[Q], step: f32) -> (f32, f32) {
    const LANES: usize = 32;
    let (mut errors, mut squares) = ([0f32; LANES], [0f32; LANES]);
    let inverse = 1.0 / step;
    let scale = if inverse.is_finite() { inverse } else { f32::MAX };
    let term = |x: f32, q: Q| {
        let difference = (x - q.into() * step) * scale;
        (difference * difference, (x * scale) * (x * scale))
    };
    let (x_whole, x_rest) = x.as_chunks::<LANES>();
    let (q_whole, q_rest) = q.as_chunks::<LANES>();
    for (x, q) in x_whole.iter().zip(q_whole) {
        for lane in 0..LANES {
            let (error, square) = term(x[lane], q[lane]);
            errors[lane] += error;
            squares[lane] += square;
        }
    }
    for (lane, (&x, &q)) in x_rest.iter().zip(q_rest).enumerate() {
        let (error, square) = term(x, q);
        errors[lane] += error;
        squares[lane] += square;
    }
    let root = |lanes: [f32; LANES]| lanes.iter().sum::<f32>().sqrt() / scale;
    let (error, norm) = (root(errors), root(squares));
    ((error + norm * 1e-6) * 1.001 + f32::MIN_POSITIVE, norm * 1.001 + f32::MIN_POSITIVE)
}

/// Rounds a number of magnitude below 2^22.
#[inline(always)]
fn round_half_even(x: f32) -> i32 {
    // In 1.5 * 2^23 + x the integer sits in the low bits of the sum, rounded by the addition itself.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}
