//! Ranges of values for static quantisation, from values that stream past.

use bitnet_kernels::Kernels;

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
    /// Returns the range of values, by the scalar text; `None` of no values or where one is not finite.
    pub fn of(values: &[f32]) -> Option<ValueRange> {
        Self::by(Kernels::SCALAR, values)
    }

    /// As [`of`](Self::of), by the kernels of a tier.
    pub(crate) fn by(kernels: &Kernels, values: &[f32]) -> Option<ValueRange> {
        let range = (kernels.affine.range)(values)?;
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
    /// The clipping whose codes have the least mean squared error, to a 128th of what was seen: of symmetric codes one for both
    /// ends, of asymmetric ones each end has its own, searched in turn until neither gains.
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
    kernels: &'static Kernels,
    calibration: Calibration,
    range: Option<ValueRange>,
    reach: f64,
    bins: Vec<u64>,
    count: u64,
}

impl Observer {
    /// Begins with nothing seen.
    ///
    /// # Errors
    /// A percentile that is not from 0 to 1; a forced instruction set that is missing.
    pub fn new(calibration: Calibration) -> Result<Self, QuantError> {
        if let Calibration::Percentile(found) = calibration
            && !(0.0..=1.0).contains(&found)
        {
            return Err(QuantError::Percentile { found });
        }
        let bins = vec![0; 2 * HALF];
        Ok(Observer { kernels: Kernels::select()?, calibration, range: None, reach: 0.0, bins, count: 0 })
    }

    /// Takes values in.
    ///
    /// # Errors
    /// The first value that is not finite, as column of row 0; none of these values is taken then.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), QuantError> {
        if let Some(col) = values.iter().position(|value| !value.is_finite()) {
            return Err(QuantError::NotFinite { row: 0, col, value: values[col] });
        }
        let Some(now) = ValueRange::by(self.kernels, values) else { return Ok(()) };
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
        let cut = |limit: f64| {
            let end = |end: f32| f64::from(end).clamp(-limit, limit) as f32;
            ValueRange { min: end(seen.min), max: end(seen.max) }
        };
        Some(match self.calibration {
            Calibration::MinMax => seen,
            Calibration::Percentile(share) => cut(self.percentile(share)),
            Calibration::Mse(bits, symmetry) => self.least_error(seen, bits, symmetry),
        })
    }

    /// Returns the clipping of what was seen with the least squared error.
    fn least_error(&self, seen: ValueRange, bits: Bits, symmetry: Symmetry) -> ValueRange {
        let middles = Middles::of(self);
        let best = |ranges: &dyn Fn(f32) -> ValueRange| {
            let shares = (1..=CLIPPINGS).rev().map(|part| part as f32 / CLIPPINGS as f32);
            let error = |range| (middles.squared_error(self.kernels, range, bits, symmetry), range);
            shares.map(|share| error(ranges(share))).min_by(|(a, _), (b, _)| a.total_cmp(b))
        };
        let both = |share: f32| ValueRange { min: seen.min * share, max: seen.max * share };
        let Some((mut least, mut range)) = best(&both) else { return seen };
        if symmetry == Symmetry::Symmetric {
            return range;
        }
        // From both ends as from each: what the one should be depends on the other.
        for start in [range, seen] {
            let (mut at, mut error) = (start, f64::INFINITY);
            loop {
                let max = best(&|share| ValueRange { max: seen.max * share, ..at });
                at = max.map_or(at, |(_, found)| found);
                let min = best(&|share| ValueRange { min: seen.min * share, ..at });
                let Some((now, found)) = min.filter(|(now, _)| *now < error) else { break };
                (at, error) = (found, now);
            }
            if error < least {
                (least, range) = (error, at);
            }
        }
        range
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
}

/// The middles of the bins that hold values.
struct Middles {
    values: Vec<f32>,
    counts: Vec<f64>,
}

impl Middles {
    fn of(observer: &Observer) -> Self {
        let width = observer.reach / HALF as f64;
        // The last bin of the greatest values can reach past f32.
        let last = f64::from(f32::MAX);
        let middle = |index: usize| ((index as f64 + 0.5 - HALF as f64) * width).clamp(-last, last) as f32;
        let there = observer.bins.iter().enumerate().filter(|(_, count)| **count > 0);
        let (values, counts) = there.map(|(index, &count)| (middle(index), count as f64)).unzip();
        Middles { values, counts }
    }

    /// Sums squared errors of codes that cover a range.
    fn squared_error(&self, kernels: &Kernels, range: ValueRange, bits: Bits, symmetry: Symmetry) -> f64 {
        let Some(params) = AffineParams::for_range(range, bits, symmetry) else { return f64::INFINITY };
        let steps = params.steps(params.byte_offset());
        let (mut codes, mut found) = ([0i8; 256], [0f32; 256]);
        let mut sum = 0.0;
        for (values, counts) in self.values.chunks(256).zip(self.counts.chunks(256)) {
            let (codes, found) = (&mut codes[..values.len()], &mut found[..values.len()]);
            (kernels.affine.codes)(values, steps, codes);
            (kernels.affine.values)(codes, steps, found);
            for ((&value, &found), count) in values.iter().zip(&*found).zip(counts) {
                sum += count * (f64::from(found) - f64::from(value)).powi(2);
            }
        }
        sum
    }
}
