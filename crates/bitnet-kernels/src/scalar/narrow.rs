//! Logits of narrow rows (`layout::narrow_rows`), and which of them the stored rows have to decide.

/// Columns up to which the bounds below hold and activations keep at least eight bits.
pub const MAX_COLS: usize = 1 << 16;

/// Share of the norms' product within which sums of up to [`MAX_COLS`] products in f32, over virtual lanes,
/// stay beside their exact value: `(65,536 / 32 + 5 + 2)` roundings of `2^-24` each, doubled.
pub const ROUNDING: f32 = 2.5e-4;

/// What is known of a stretch of narrow rows: see [`NarrowRow`](crate::layout::narrow_rows::NarrowRow). Slices have
/// one length.
#[derive(Debug, Clone, Copy)]
pub struct RowFacts<'a> {
    /// Norms of the rows' errors.
    pub errors: &'a [f32],
    /// Norms of the rows.
    pub norms: &'a [f32],
}

/// What is known of a quantised row of activations.
#[derive(Debug, Clone, Copy)]
pub struct TokenFacts {
    /// Norm of the row, or more.
    pub norm: f32,
    /// Norm of its error, or more.
    pub error: f32,
}

impl TokenFacts {
    /// Returns how far a narrow row's logit can be from the stored one: Cauchy and Schwarz's inequality for the error
    /// of the row and that of the activations, and the roundings of both sums.
    #[inline(always)]
    pub fn logit_error(self, row_error: f32, row_norm: f32) -> f32 {
        row_error * self.norm + (row_norm + row_error) * self.error + ROUNDING * row_norm * self.norm
    }
}

/// Lanes of what follows, which has no order: its results are the same on any number of them.
const LANES: usize = 32;

/// Writes the logits of exact products `acc` of rows and a token, given the sizes of their codes' units, and returns
/// the greatest that is a number.
///
/// # Panics
/// When slices differ in length.
#[inline(always)]
pub fn narrow_logits(acc: &[i32], steps: &[f32], token_step: f32, out: &mut [f32]) -> f32 {
    assert!(acc.len() == out.len() && steps.len() == out.len());
    let mut greatest = [f32::NEG_INFINITY; LANES];
    let (acc_whole, acc_rest) = acc.as_chunks::<LANES>();
    let (steps_whole, steps_rest) = steps.as_chunks::<LANES>();
    let (out_whole, out_rest) = out.as_chunks_mut::<LANES>();
    let logit = |acc: i32, step: f32| acc as f32 * (token_step * step);
    // A comparison with what is not a number is false.
    let greater = |value: f32, than: f32| if value > than { value } else { than };
    for ((acc, steps), out) in acc_whole.iter().zip(steps_whole).zip(out_whole) {
        for lane in 0..LANES {
            out[lane] = logit(acc[lane], steps[lane]);
            greatest[lane] = greater(out[lane], greatest[lane]);
        }
    }
    for ((&acc, &step), out) in acc_rest.iter().zip(steps_rest).zip(out_rest) {
        *out = logit(acc, step);
        greatest[0] = greater(*out, greatest[0]);
    }
    greatest.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Reports for how many of the rows the stored logit may reach `floor`, given the narrow ones.
///
/// # Panics
/// When slices differ in length.
#[inline(always)]
pub fn narrow_candidates(logits: &[f32], rows: RowFacts<'_>, token: TokenFacts, floor: f32) -> usize {
    let RowFacts { errors, norms } = rows;
    assert!(errors.len() == logits.len() && norms.len() == logits.len());
    let mut count = 0u32;
    for ((&value, &error), &norm) in logits.iter().zip(errors).zip(norms) {
        count += u32::from(value + token.logit_error(error, norm) >= floor);
    }
    count as usize
}
