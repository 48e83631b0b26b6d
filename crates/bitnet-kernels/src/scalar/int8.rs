//! Products of int8 rows (`layout::int8_rows`) with finely quantised activations.
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

/// Columns up to which activations keep at least eight bits.
pub const MAX_COLS: usize = 1 << 16;

/// Quantises one row of activations to `-limit..=limit` and returns its step: `x ~ q * step`.
///
/// A row that holds a NaN or an infinity gets a NaN step and zeros. Slices have one length.
#[inline(always)]
pub fn quantize_i16(x: &[f32], q: &mut [i16]) -> f32 {
    let bits = |x: f32| (x.to_bits() & 0x7fff_ffff) as i32;
    // Magnitudes of floats order like their bits, and NaN lies above infinity.
    let absmax = f32::from_bits(x.iter().fold(0, |max, &x| max.max(bits(x))) as u32);
    // Below the smallest normal number the reciprocal is not finite; such a row rounds to zeros.
    let limit = limit(x.len()) as f32;
    if !absmax.is_finite() {
        q.fill(0);
        return f32::NAN;
    }
    let floor = if absmax < 1e-30 { 1e-30 } else { absmax };
    let scale = limit / floor;
    for (q, &x) in q.iter_mut().zip(x) {
        const ROUND: f32 = 12_582_912.0;
        let value = (x * scale + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        *q = value as i16;
    }
    floor / limit
}

/// Share of the norms' product within which sums of up to [`MAX_COLS`] products in f32, over virtual lanes,
/// stay beside their exact value: `(65,536 / 32 + 5 + 2)` roundings of `2^-24` each, doubled.
pub const ROUNDING: f32 = 2.5e-4;

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

/// What is known of a stretch of int8 rows: see [`Int8Row`](crate::layout::int8_rows::Int8Row). Slices have one
/// length.
#[derive(Debug, Clone, Copy)]
pub struct RowFacts<'a> {
    /// Sizes of the codes' units.
    pub steps: &'a [f32],
    /// Norms of the rows' errors.
    pub errors: &'a [f32],
    /// Norms of the rows.
    pub norms: &'a [f32],
}

/// What is known of a quantised row of activations.
#[derive(Debug, Clone, Copy)]
pub struct TokenFacts {
    /// Size of a unit.
    pub step: f32,
    /// Norm of the row, or more.
    pub norm: f32,
    /// Norm of its error, or more.
    pub error: f32,
}

impl TokenFacts {
    /// Returns how far an int8 logit can be from the stored one: Cauchy and Schwarz's inequality for the error
    /// of the row and that of the activations, and the roundings of both sums.
    #[inline(always)]
    fn logit_error(self, row_error: f32, row_norm: f32) -> f32 {
        row_error * self.norm + (row_norm + row_error) * self.error + ROUNDING * row_norm * self.norm
    }
}

/// Lanes of what follows, which has no order: its results are the same on any number of them.
const LANES: usize = 32;

/// Writes the logits of exact products `acc` of a stretch of rows, and returns a bound that the greatest of the
/// stored logits is sure to reach.
///
/// # Panics
/// When slices differ in length.
#[inline(always)]
pub fn int8_logits(acc: &[i32], rows: RowFacts<'_>, token: TokenFacts, out: &mut [f32]) -> f32 {
    let RowFacts { steps, errors, norms } = rows;
    let len = out.len();
    assert!(acc.len() == len && steps.len() == len && errors.len() == len && norms.len() == len);
    let logit = |row: usize| acc[row] as f32 * (token.step * steps[row]);
    let mut floors = [f32::NEG_INFINITY; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let (acc, out) = (&acc[start..start + LANES], &mut out[start..start + LANES]);
        let (steps, errors) = (&steps[start..start + LANES], &errors[start..start + LANES]);
        let norms = &norms[start..start + LANES];
        for lane in 0..LANES {
            let value = acc[lane] as f32 * (token.step * steps[lane]);
            out[lane] = value;
            let floor = value - token.logit_error(errors[lane], norms[lane]);
            // Not a number stays out of it.
            floors[lane] = if floor > floors[lane] { floor } else { floors[lane] };
        }
    }
    for row in whole..len {
        out[row] = logit(row);
        let floor = out[row] - token.logit_error(errors[row], norms[row]);
        floors[0] = if floor > floors[0] { floor } else { floors[0] };
    }
    floors.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Reports for how many of the rows the stored logit may reach `floor`, given the int8 ones.
///
/// # Panics
/// When slices differ in length.
#[inline(always)]
pub fn int8_candidates(logits: &[f32], rows: RowFacts<'_>, token: TokenFacts, floor: f32) -> usize {
    let RowFacts { errors, norms, .. } = rows;
    assert!(errors.len() == logits.len() && norms.len() == logits.len());
    let mut count = 0u32;
    for ((&value, &error), &norm) in logits.iter().zip(errors).zip(norms) {
        count += u32::from(value + token.logit_error(error, norm) >= floor);
    }
    count as usize
}
