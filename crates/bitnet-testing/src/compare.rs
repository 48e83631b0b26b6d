//! Comparisons of results with a reference, and the verdict whole-model tests go by.
//!
//! An integer engine that computes one float differently by an ulp flips a rare rounding, which moves
//! a position's logits by about 1e-3. So the verdict has three parts: most positions agree to float
//! precision (median), all together stay near (whole), and the prediction is the same wherever the
//! reference is not nearly undecided (argmax).

/// Sets the limits of [`check_logits`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest median over positions of the relative rms error.
    pub median_position_rms: f64,
    /// Largest relative rms error over all positions.
    pub whole_rms: f64,
    /// Margin between the reference's two largest logits above which the argmax must be the same.
    pub argmax_margin: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { median_position_rms: 1e-5, whole_rms: 5e-3, argmax_margin: 0.2 }
    }
}

/// Reports a comparison that passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitsReport {
    /// Positions compared.
    pub positions: usize,
    /// Median over positions of the relative rms error.
    pub median_position_rms: f64,
    /// Relative rms error over all positions.
    pub whole_rms: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Positions whose margin was large enough for the argmax to count.
    pub decided_positions: usize,
}

/// Returns rms(candidate - expected) / rms(expected) of each row of `cols` values.
///
/// Panics when the lengths differ or are no multiple of `cols`. A row of zeros that agrees gives 0.
pub fn rms_relative_per_row(candidate: &[f32], expected: &[f32], cols: usize) -> Vec<f64> {
    assert_eq!(candidate.len(), expected.len(), "values to compare");
    assert!(cols > 0 && expected.len().is_multiple_of(cols), "rows of {cols} values");
    let rows = candidate.chunks_exact(cols).zip(expected.chunks_exact(cols));
    rows.map(|(c, e)| whole_rms_relative(c, e)).collect()
}

/// Returns rms(candidate - expected) / rms(expected) over all values; 0 when both are zero throughout.
///
/// Panics when the lengths differ.
pub fn whole_rms_relative(candidate: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(candidate.len(), expected.len(), "values to compare");
    let (mut error, mut size) = (0.0, 0.0);
    for (c, e) in candidate.iter().zip(expected) {
        error += (f64::from(*c) - f64::from(*e)).powi(2);
        size += f64::from(*e).powi(2);
    }
    if error == 0.0 { 0.0 } else { (error / size).sqrt() }
}

/// Returns the median (the upper one of two); NaN sorts last. Panics on an empty slice.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Returns the index of the largest value (the first of equals) and its lead over the second largest.
///
/// Panics on fewer than two values. NaN is never the largest.
pub fn top2_margin(row: &[f32]) -> (usize, f64) {
    assert!(row.len() >= 2, "two values to compare");
    let (mut best, mut top, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (i, v) in row.iter().enumerate() {
        if *v > top {
            (best, second, top) = (i, top, *v);
        } else if *v > second {
            second = *v;
        }
    }
    (best, f64::from(top) - f64::from(second))
}

/// Tells whether a figure is above its limit; NaN is above every limit.
fn exceeds(figure: f64, limit: f64) -> bool {
    figure.is_nan() || figure > limit
}

/// Decides whether `candidate` is the same model as `expected`, both `[positions, vocab]`.
///
/// Errors: the first limit that is passed, with the figures. NaN passes no limit.
pub fn check_logits(
    candidate: &[f32],
    expected: &[f32],
    vocab: usize,
    tolerance: Tolerance,
) -> Result<LogitsReport, String> {
    if candidate.len() != expected.len() || expected.is_empty() || !expected.len().is_multiple_of(vocab) {
        return Err(format!(
            "expected {} logits in rows of {vocab}, found {}",
            expected.len(),
            candidate.len()
        ));
    }
    let median_position_rms = median(&rms_relative_per_row(candidate, expected, vocab));
    let whole_rms = whole_rms_relative(candidate, expected);
    let figures = format!("median position rms {median_position_rms:.2e}, whole rms {whole_rms:.2e}");
    if exceeds(median_position_rms, tolerance.median_position_rms) {
        return Err(format!("{figures}: the median is above {:.0e}", tolerance.median_position_rms));
    }
    if exceeds(whole_rms, tolerance.whole_rms) {
        return Err(format!("{figures}: the whole is above {:.0e}", tolerance.whole_rms));
    }
    let mut decided_positions = 0;
    for (position, (c, e)) in candidate.chunks_exact(vocab).zip(expected.chunks_exact(vocab)).enumerate() {
        let (best, margin) = top2_margin(e);
        if margin > tolerance.argmax_margin {
            decided_positions += 1;
            let found = top2_margin(c).0;
            if found != best {
                return Err(format!(
                    "position {position}: expected argmax {best} (margin {margin:.3}), found {found}; {figures}"
                ));
            }
        }
    }
    let max_abs = candidate.iter().zip(expected).map(|(c, e)| f64::from((c - e).abs())).fold(0.0, f64::max);
    let positions = expected.len() / vocab;
    Ok(LogitsReport { positions, median_position_rms, whole_rms, max_abs, decided_positions })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: [f32; 8] = [1.0, 3.0, 2.0, 0.0, 5.0, 4.9, 0.0, 0.0];

    fn check(candidate: &[f32]) -> Result<LogitsReport, String> {
        check_logits(candidate, &EXPECTED, 4, Tolerance::default())
    }

    #[test]
    fn figures_are_right() {
        assert_eq!(rms_relative_per_row(&[3.0, 4.0, 0.0, 0.0], &[3.0, 0.0, 0.0, 0.0], 2), [4.0 / 3.0, 0.0]);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(top2_margin(&[1.0, 3.0, 2.5]), (1, 0.5));
        assert_eq!(top2_margin(&[f32::NAN, 1.0, 1.0]), (1, 0.0));
    }

    #[test]
    fn equal_logits_pass_with_the_decided_positions_counted() {
        let report = check(&EXPECTED).unwrap();
        assert_eq!((report.positions, report.decided_positions, report.max_abs), (2, 1, 0.0));
        let near = EXPECTED.map(|v| v * (1.0 + 1e-6));
        assert!(check(&near).is_ok());
    }

    #[test]
    fn each_limit_refuses() {
        let scaled = EXPECTED.map(|v| v * 1.001);
        assert!(check(&scaled).unwrap_err().contains("the median"));
        let loose = Tolerance { median_position_rms: 1.0, ..Tolerance::default() };
        let far = EXPECTED.map(|v| v * 1.01);
        assert!(check_logits(&far, &EXPECTED, 4, loose).unwrap_err().contains("the whole"));
        let looser = Tolerance { whole_rms: 10.0, ..loose };
        let mut swapped = EXPECTED;
        swapped.swap(1, 2);
        assert!(check_logits(&swapped, &EXPECTED, 4, looser).unwrap_err().contains("expected argmax 1"));
        // The second row is nearly undecided: its argmax does not count.
        let mut other = EXPECTED;
        other.swap(4, 5);
        assert!(check_logits(&other, &EXPECTED, 4, looser).is_ok());
        assert!(check(&EXPECTED[..4]).is_err());
    }

    #[test]
    fn a_nan_is_refused() {
        let mut candidate = EXPECTED;
        candidate[7] = f32::NAN;
        assert!(check(&candidate).is_err());
        assert!(check(&[f32::NAN; 8]).is_err());
    }
}
