//! Ranges of values for static quantisation, from values that stream past.

use super::{AffineParams, Bits, Symmetry};
use crate::QuantError;

/// The range that codes cover.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValueRange {
    /// Least value.
    pub min: f32,
    /// Greatest value.
    pub max: f32,
}

impl ValueRange {
    /// Returns the range of values; `None` of no values or where one is not finite.
    pub fn of(values: &[f32]) -> Option<ValueRange> {
        let range = (crate::packing::kernels().affine.range)(values)?;
        Some(ValueRange { min: range.min, max: range.max })
    }
}

/// How a range is chosen from what was seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Calibration {
    /// All of it.
    MinMax,
    /// What holds this share of the magnitudes, 0 to 1.
    Percentile(f64),
    /// The clipping whose codes have the least mean squared error.
    Mse(Bits, Symmetry),
}

/// Bins on either side of zero.
const HALF: usize = 2048;
/// Clippings that are tried.
const CLIPPINGS: usize = 128;

/// Watches values that stream past; memory does not grow with them.
///
/// Beside the exact least and greatest values it keeps 4096 bins over `-reach..reach`; where a value lies outside,
/// the reach is doubled and pairs of bins are joined, so that a bin is never wider than a 1024th of the greatest
/// magnitude.
#[derive(Debug, Clone)]
pub struct Observer {
    calibration: Calibration,
    range: Option<ValueRange>,
    reach: f64,
    bins: Vec<u64>,
    count: u64,
}

impl Observer {
    /// Begins with nothing seen.
    pub fn new(calibration: Calibration) -> Self {
        Observer { calibration, range: None, reach: 0.0, bins: vec![0; 2 * HALF], count: 0 }
    }

    /// Takes values in.
    ///
    /// # Errors
    /// The first value that is not finite, as column of row 0; none of these values is taken then.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), QuantError> {
        if let Some(col) = values.iter().position(|value| !value.is_finite()) {
            return Err(QuantError::NotFinite { row: 0, col, value: values[col] });
        }
        let Some(now) = ValueRange::of(values) else { return Ok(()) };
        self.range =
            Some(self.range.map_or(now, |range| ValueRange {
                min: range.min.min(now.min),
                max: range.max.max(now.max),
            }));
        self.widen(f64::from(now.min.abs().max(now.max.abs())));
        if self.reach > 0.0 {
            let per_value = HALF as f64 / self.reach;
            for &value in values {
                let bin = (f64::from(value) * per_value).floor() as i64 + HALF as i64;
                self.bins[bin.clamp(0, 2 * HALF as i64 - 1) as usize] += 1;
            }
        } else {
            self.bins[HALF] += values.len() as u64;
        }
        self.count += values.len() as u64;
        Ok(())
    }

    fn widen(&mut self, magnitude: f64) {
        if self.reach == 0.0 {
            // What was seen so far was zero and stays in the bin at zero.
            self.reach = magnitude;
        }
        while magnitude > self.reach {
            let mut joined = vec![0; 2 * HALF];
            for (index, &count) in self.bins.iter().enumerate() {
                joined[HALF / 2 + index / 2] += count;
            }
            self.bins = joined;
            self.reach *= 2.0;
        }
    }

    /// Returns the range; `None` when nothing was seen.
    pub fn range(&self) -> Option<ValueRange> {
        let seen = self.range?;
        let cut = |limit: f64| ValueRange {
            min: (f64::from(seen.min).max(-limit)) as f32,
            max: (f64::from(seen.max).min(limit)) as f32,
        };
        Some(match self.calibration {
            Calibration::MinMax => seen,
            Calibration::Percentile(share) => cut(self.percentile(share)),
            Calibration::Mse(bits, symmetry) => {
                let error = |range| self.squared_error(range, bits, symmetry);
                let ranges = (1..=CLIPPINGS).rev().map(|part| {
                    let share = part as f32 / CLIPPINGS as f32;
                    ValueRange { min: seen.min * share, max: seen.max * share }
                });
                ranges.min_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap_or(seen)
            }
        })
    }

    /// Returns the magnitude below which lies this share of the values, to the width of a bin.
    fn percentile(&self, share: f64) -> f64 {
        let wanted = (share.clamp(0.0, 1.0) * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for distance in 0..HALF {
            seen += self.bins[HALF + distance] + self.bins[HALF - 1 - distance];
            if seen >= wanted {
                return (distance + 1) as f64 / HALF as f64 * self.reach;
            }
        }
        self.reach
    }

    /// Sums squared errors of the middles of the bins.
    fn squared_error(&self, range: ValueRange, bits: Bits, symmetry: Symmetry) -> f64 {
        let Some(params) = AffineParams::for_range(range, bits, symmetry) else { return f64::INFINITY };
        let width = self.reach / HALF as f64;
        let bins = self.bins.iter().enumerate().filter(|(_, count)| **count > 0);
        let error = |(index, &count): (usize, &u64)| {
            let middle = ((index as f64 + 0.5 - HALF as f64) * width) as f32;
            let error = f64::from(params.dequantize(params.quantize(middle)) - middle);
            count as f64 * error * error
        };
        bins.map(error).sum()
    }
}
