//! Which scale a conversion has, and so how its values are rounded.

use bitnet_backend::{BitNetDType, BitNetError, Result};
use bitnet_kernels::{CodeRule, Kernels};
use half::f16;

use super::cast::{Cast, Rounding};
use super::config::{Arithmetic, ConversionConfig, ConversionStrategy};
use super::fill::{PART, parts};
use super::number::{BLOCK, codes_of};
use super::source::{BLOCK_BYTES, Source};

/// The least mean magnitude of a ternary tensor: zeros have a scale too.
const MIN_MEAN_ABS: f32 = 1e-5;
/// Candidates of a row for the scale of least squared error.
const CANDIDATES: usize = 17;

/// Decides the conversion of `source` to `to`, and the scale of its result.
///
/// # Errors
/// Those of reading the source; `Mismatch` for values whose scale is no f32.
pub fn decide(
    config: &ConversionConfig,
    kernels: &Kernels,
    source: &dyn Source,
    to: BitNetDType,
) -> Result<(Cast, Option<f32>)> {
    let from = source.dtype();
    let from_scale = source.scale().unwrap_or(1.0);
    let cast = |rounding, from_scale| Cast { from, from_scale, to, rounding, past: false };
    if keeps_codes(from, to, source.scale()) {
        return Ok((cast(Rounding::Codes, 1.0), source.scale()));
    }
    let rounded = |rounding| cast(rounding, from_scale);
    let values = Values { kernels, source, cast: rounded(Rounding::Nearest), config };
    let limit = codes_of(to).map(|(_, greatest)| greatest);
    let has_neighbours = from.is_float() || to.is_float() || source.scale().is_some();
    let (rounding, scale) = match (config.strategy, limit) {
        (ConversionStrategy::Direct, _) => (Rounding::Nearest, None),
        // An integer is one, or is beyond the range: there is nothing to choose.
        (ConversionStrategy::StochasticRounding, None) if !has_neighbours => (Rounding::Nearest, None),
        (ConversionStrategy::StochasticRounding, None) => match to {
            BitNetDType::F64 | BitNetDType::Bool => (Rounding::Nearest, None),
            _ => (Rounding::Stochastic { scale: 1.0, seed: config.seed }, None),
        },
        (ConversionStrategy::Scaled, None) if to == BitNetDType::F16 => {
            let scale = shift(values.absmax()?)?;
            match scale {
                1.0 => (Rounding::Nearest, None),
                _ => (Rounding::Shifted { factor: 1.0 / scale }, Some(scale)),
            }
        }
        (_, None) => (Rounding::Nearest, None),
        (strategy, Some(limit)) => {
            let (inverse, scale) = match strategy {
                ConversionStrategy::Scaled if to.is_ternary() => of_mean(values.mean()?),
                ConversionStrategy::QuantizationAware => values.least_error(to, limit)?,
                _ => of_greatest(values.absmax()?, limit),
            };
            if !(scale > 0.0 && scale.is_finite()) {
                let what = format!("scale of a {from} tensor as {to}");
                return Err(BitNetError::mismatch(what, "a finite f32 above zero", format!("{scale:e}")));
            }
            let exact = config.arithmetic == Arithmetic::Double || !inverse.is_normal();
            let rounding = match strategy {
                ConversionStrategy::StochasticRounding => Rounding::Stochastic { scale, seed: config.seed },
                _ => Rounding::Scaled { inverse, scale, limit, exact },
            };
            (rounding, Some(scale))
        }
    };
    Ok((rounded(rounding), scale))
}

/// Reports whether the elements of `to` can stand for the same codes: of the same type, or of a wider one when a scale
/// says that they are codes.
fn keeps_codes(from: BitNetDType, to: BitNetDType, scale: Option<f32>) -> bool {
    if from == to {
        return true;
    }
    match (codes_of(from), codes_of(to)) {
        (Some((_, from)), Some((_, to))) => scale.is_some() && from <= to,
        _ => false,
    }
}

/// The reciprocal and the scale of a greatest magnitude. Zeros have the scale 1.
fn of_greatest(absmax: f32, limit: i8) -> (f32, f32) {
    if absmax == 0.0 {
        return (1.0, 1.0);
    }
    // The least positive number where the quotient is below it.
    let scale = (absmax / f32::from(limit)).max(f32::from_bits(1));
    (f32::from(limit) / absmax, scale)
}

/// The reciprocal and the scale of a mean magnitude, as BitNet b1.58 has them: a value stands for itself divided by the
/// rounded reciprocal.
fn of_mean(mean: f32) -> (f32, f32) {
    let inverse = 1.0 / mean.max(MIN_MEAN_ABS);
    (inverse, 1.0 / inverse)
}

/// The least power of two by which values up to `absmax` fit f16.
fn shift(absmax: f32) -> Result<f32> {
    let mut scale = 1.0f32;
    while absmax / scale > f16::MAX.to_f32() {
        scale *= 2.0;
    }
    Ok(scale)
}

/// The values of a source, as f32.
struct Values<'a> {
    kernels: &'a Kernels,
    source: &'a dyn Source,
    cast: Cast,
    config: &'a ConversionConfig,
}

impl Values<'_> {
    /// Folds over the values of each part, in runs; returns what became of the parts, in order, which depend on neither
    /// threads nor chunks.
    fn fold<T: Send + Clone + Sync>(
        &self,
        start: T,
        fold: impl Fn(&mut T, &[[u8; 4]]) + Sync + Send,
    ) -> Result<Vec<T>> {
        let plain = self.cast.from == BitNetDType::F32 && self.cast.from_scale == 1.0;
        parts(self.config, self.source.len(), PART, |range| {
            let mut state = start.clone();
            if let (true, Some(bytes)) = (plain, self.source.whole()) {
                fold(&mut state, &bytes.as_chunks::<4>().0[range]);
                return Ok(state);
            }
            let (mut room, mut values) = ([0; BLOCK_BYTES], [[0; 4]; BLOCK]);
            for first in range.clone().step_by(BLOCK) {
                let block = first..range.end.min(first + BLOCK);
                let values = &mut values[..block.len()];
                let bytes = self.source.read(self.kernels, block, &mut room)?;
                self.cast.read_single(self.kernels, bytes, values)?;
                fold(&mut state, values);
            }
            Ok(state)
        })
    }

    /// The greatest magnitude of the finite values.
    fn absmax(&self) -> Result<f32> {
        let found = self.fold(0f32, |absmax, values| {
            *absmax = absmax.max((self.kernels.casts.extent)(values).absmax);
        })?;
        Ok(found.into_iter().fold(0.0, f32::max))
    }

    /// The mean magnitude. Blocks of the four quarters of a part are read in turn: four places keep more of the memory
    /// busy than one.
    fn mean(&self) -> Result<f32> {
        let plain = self.cast.from == BitNetDType::F32 && self.cast.from_scale == 1.0;
        let whole = self.source.whole().filter(|_| plain);
        // A file may have them at any address.
        let direct: Option<&[f32]> = whole.and_then(|bytes| bytemuck::try_cast_slice(bytes).ok());
        let sums = parts(self.config, self.source.len(), PART, |part| {
            let mut sums = [[0f64; 8]; 4];
            let quarter = part.len().div_ceil(4 * BLOCK) * BLOCK;
            let (mut room, mut rows) = ([0; BLOCK_BYTES], [[0f32; BLOCK]; 4]);
            for first in (part.start..part.start + quarter).step_by(BLOCK) {
                let blocks = [0, 1, 2, 3].map(|k| {
                    let first = (first + k * quarter).min(part.end);
                    first..part.end.min(first + BLOCK)
                });
                let together = match direct {
                    Some(values) if blocks[3].len() == BLOCK => blocks.map(|block| &values[block]),
                    _ => {
                        for (row, block) in rows.iter_mut().zip(blocks) {
                            let (row, rest) = row.split_at_mut(block.len());
                            let bytes = self.source.read(self.kernels, block, &mut room)?;
                            self.cast.read_single(self.kernels, bytes, bytemuck::cast_slice_mut(row))?;
                            rest.fill(0.0);
                        }
                        rows.each_ref().map(|row| &row[..])
                    }
                };
                (self.kernels.flat.add_magnitudes)(together, &mut sums);
            }
            Ok(sums)
        })?;
        let sum: f64 = sums.iter().flatten().map(|lanes| lanes.iter().sum::<f64>()).sum();
        if !sum.is_finite() {
            let what = format!("mean magnitude of a {} tensor", self.cast.from);
            return Err(BitNetError::mismatch(what, "finite values", "a NaN or an infinity"));
        }
        Ok((sum / self.source.len().max(1) as f64) as f32)
    }

    /// The scale of least squared error: the best of a coarse row of [`CANDIDATES`], then of a fine row between the
    /// neighbours of that one, then the least-squares scale of its codes where that is better still.
    fn least_error(&self, to: BitNetDType, limit: i8) -> Result<(f32, f32)> {
        // Of zeros every scale has the same error.
        let coarse: [f32; CANDIDATES] = if to.is_ternary() {
            let mean = self.mean()?;
            if mean == 0.0 {
                return Ok(of_mean(mean));
            }
            std::array::from_fn(|index| mean * (0.5 + 0.125 * index as f32))
        } else {
            let absmax = self.absmax()?;
            if absmax == 0.0 {
                return Ok(of_greatest(absmax, limit));
            }
            // Products, as powers of the standard library may differ by platform.
            let mut scales = [of_greatest(absmax, limit).1; CANDIDATES];
            (0..CANDIDATES - 1).rev().for_each(|index| scales[index] = scales[index + 1] * 0.8);
            scales
        };
        let (_, best, _) = self.best_of(&coarse, limit)?;
        let (low, high) = (coarse[best.saturating_sub(1)], coarse[(best + 1).min(CANDIDATES - 1)]);
        let step = (high - low) / (CANDIDATES - 1) as f32;
        let fine: [f32; CANDIDATES] = std::array::from_fn(|index| low + step * index as f32);
        let (error, best, (product, square)) = self.best_of(&fine, limit)?;
        let mut scale = fine[best];
        let refined = if square > 0.0 { (product / square) as f32 } else { 0.0 };
        if refined.is_normal() && refined > 0.0 && self.best_of(&[refined], limit)?.0 < error {
            scale = refined;
        }
        Ok((1.0 / scale, scale))
    }

    /// Returns the least squared error (without the energy of the values, which all scales share), the index of its
    /// scale, and the moments of its codes.
    fn best_of<const N: usize>(&self, scales: &[f32; N], limit: i8) -> Result<(f64, usize, (f64, f64))> {
        let moments = self.moments(scales, limit)?;
        let error = |(&scale, &(product, square)): (&f32, &(f64, f64))| {
            let scale = f64::from(scale);
            scale * (scale * square - 2.0 * product)
        };
        let mut best = (f64::INFINITY, N - 1, (0.0, 0.0));
        for (index, pair) in scales.iter().zip(&moments).enumerate() {
            let error = error(pair);
            if error < best.0 {
                best = (error, index, *pair.1);
            }
        }
        Ok(best)
    }

    /// Returns the sums of value * code and of code * code for each scale.
    fn moments<const N: usize>(&self, scales: &[f32; N], limit: i8) -> Result<[(f64, f64); N]> {
        let casts = &self.kernels.casts;
        let found = self.fold([(0f64, 0f64); N], |sums, values| {
            let mut codes = [0; BLOCK];
            for values in values.chunks(BLOCK) {
                let codes = &mut codes[..values.len()];
                for (sum, scale) in sums.iter_mut().zip(scales) {
                    let rule = CodeRule { inverse: 1.0 / scale, least: -limit, greatest: limit };
                    (casts.f32_to_codes)(values, rule, codes, false);
                    let (product, square) = (casts.moments)(values, codes);
                    *sum = (sum.0 + product, sum.1 + square as f64);
                }
            }
        })?;
        Ok(std::array::from_fn(|index| {
            found.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part[index].0, sum.1 + part[index].1))
        }))
    }
}
