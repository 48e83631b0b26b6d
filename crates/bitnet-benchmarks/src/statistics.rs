//! What is said of repeated measurements.

/// The middle and the ends of repeated measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Nothing was measured.
    pub const NONE: Summary = Summary { median: f64::NAN, min: f64::NAN, max: f64::NAN };

    /// Sums up values; [`NONE`](Self::NONE) of none, or where one is NaN.
    pub fn of(values: &[f64]) -> Summary {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Summary::NONE };
        if values.iter().any(|value| value.is_nan()) {
            return Summary::NONE;
        }
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Summary { median: low + (high - low) / 2.0, min, max }
    }
}

/// Returns the median of the ratios of neighbours, of measurements in turn; NaN as [`Summary::of`].
pub fn ratio(above: &[f64], below: &[f64]) -> f64 {
    let ratios: Vec<f64> = above.iter().zip(below).map(|(above, below)| above / below).collect();
    Summary::of(&ratios).median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]), Summary { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Summary::of(&[5.0]), Summary { median: 5.0, min: 5.0, max: 5.0 });
    }

    #[test]
    fn a_ratio_is_of_neighbours() {
        // That of the medians is 3.
        assert_eq!(ratio(&[8.0, 2.0, 6.0], &[2.0, 2.0, 3.0]), 2.0);
        assert_eq!(ratio(&[1.0, 10.0, 100.0], &[1.0, 100.0, 10.0]), 1.0);
        assert!(ratio(&[], &[]).is_nan() && ratio(&[f64::NAN], &[1.0]).is_nan());
    }

    #[test]
    fn of_nothing_and_of_what_is_no_number_nothing_is_said() {
        assert!(Summary::of(&[]).median.is_nan());
        assert!(Summary::of(&[1.0, f64::NAN, 2.0]).max.is_nan());
    }
}
