//! Rows of logits: their greatest, and what makes them unusable.

use crate::BitNetError;

/// Why a token cannot be chosen by a row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnusableLogits {
    /// The first value at this index that is NaN or +inf.
    Value(usize),
    /// Every value is -inf.
    AllMasked,
}

impl UnusableLogits {
    /// Returns the error of `row`, in which it was found.
    pub fn error(self, row: &[f32]) -> BitNetError {
        match self {
            UnusableLogits::Value(at) => {
                BitNetError::mismatch(format!("logit of token {at}"), "a finite number or -inf", row[at])
            }
            UnusableLogits::AllMasked => {
                let found = format!("{} times -inf", row.len());
                BitNetError::mismatch("row of logits", "at least one finite value", found)
            }
        }
    }
}

/// Returns the first index of the greatest logit. -inf masks a token.
///
/// # Errors
/// A NaN or +inf, or no finite value.
pub fn greatest_logit(row: &[f32]) -> Result<usize, UnusableLogits> {
    // As many values side by side as two of the narrowest registers hold, so that the compiler uses them.
    const LANES: usize = 8;
    let (whole, rest) = row.as_chunks::<LANES>();
    let (mut lanes, mut unordered) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    for values in whole {
        for l in 0..LANES {
            lanes[l] = if values[l] > lanes[l] { values[l] } else { lanes[l] };
            unordered[l] |= u32::from(values[l].is_nan());
        }
    }
    let max = rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, &value| max.max(value));
    if unordered != [0; LANES] || rest.iter().any(|value| value.is_nan()) || max == f32::INFINITY {
        let unusable = |value: &f32| value.is_nan() || *value == f32::INFINITY;
        return Err(UnusableLogits::Value(row.iter().position(unusable).unwrap_or(0)));
    }
    if max == f32::NEG_INFINITY {
        return Err(UnusableLogits::AllMasked);
    }
    let holds = |values: &[f32; LANES]| values.iter().fold(false, |found, &value| found | (value == max));
    let start = whole.iter().position(holds).unwrap_or(whole.len()) * LANES;
    Ok(start + row[start..].iter().position(|&value| value == max).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_greatest_is_found() {
        for len in 1..40 {
            for at in 0..len {
                let mut row: Vec<f32> = (0..len).map(|i| (i * 31 % 7) as f32).collect();
                row[at] = 9.0;
                row[len - 1] = 9.0;
                assert_eq!(greatest_logit(&row), Ok(at));
                let mut masked = vec![f32::NEG_INFINITY; len];
                masked[at] = f32::MIN;
                assert_eq!(greatest_logit(&masked), Ok(at));
                for unusable in [f32::NAN, f32::INFINITY] {
                    row[at] = unusable;
                    assert_eq!(greatest_logit(&row), Err(UnusableLogits::Value(at)));
                }
            }
            assert_eq!(greatest_logit(&vec![f32::NEG_INFINITY; len]), Err(UnusableLogits::AllMasked));
        }
        assert_eq!(greatest_logit(&[-0.0, 0.0, -0.0]), Ok(0));
    }

    #[test]
    fn errors_say_what_was_found() {
        let text = |row: &[f32]| greatest_logit(row).unwrap_err().error(row).to_string();
        let expected = "logit of token 1: expected a finite number or -inf, found inf";
        assert_eq!(text(&[0.0, f32::INFINITY, f32::NAN]), expected);
        let expected = "row of logits: expected at least one finite value, found 2 times -inf";
        assert_eq!(text(&[f32::NEG_INFINITY; 2]), expected);
    }
}
