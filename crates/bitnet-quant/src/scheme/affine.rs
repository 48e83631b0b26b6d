//! Integer codes of floats: `q = clamp(round_half_even(x * (1 / scale)) + zero_point)`, `x' = (q - zero_point) scale`: with
//! the reciprocal, as PyTorch has it, so that a division is not the dearest part of a weight.
//!
//! *Symmetric* codes use -127..=127 or -7..=7 with zero point 0: `scale = max |x| / 127`. *Asymmetric* ones use 0..=255
//! or 0..=15 over the range widened to hold 0, so that zero is exact: `scale = (max - min) / 255`,
//! `zero_point = round_half_even(-min / scale)`. A range of nothing but zero has scale 1.

use bitnet_kernels::AffineSteps;

use super::ValueRange;

/// How wide a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bits {
    /// Four bits.
    Four,
    /// Eight bits.
    Eight,
}

/// Whether codes are even around zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Symmetry {
    /// Even around zero, with zero point 0.
    Symmetric,
    /// Over the range of the values, with a zero point.
    Asymmetric,
}

/// Scale and zero point of codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineParams {
    /// What one step of a code is worth.
    pub scale: f32,
    /// The code of 0.
    pub zero_point: i16,
    /// Least code.
    pub least: i16,
    /// Greatest code.
    pub greatest: i16,
}

impl AffineParams {
    /// Returns the parameters that cover a range; `None` where the scale does not fit f32.
    pub fn for_range(range: ValueRange, bits: Bits, symmetry: Symmetry) -> Option<AffineParams> {
        let ValueRange { min, max } = range;
        let (least, greatest) = match (bits, symmetry) {
            (Bits::Eight, Symmetry::Symmetric) => (-127, 127),
            (Bits::Eight, Symmetry::Asymmetric) => (0, 255),
            (Bits::Four, Symmetry::Symmetric) => (-7, 7),
            (Bits::Four, Symmetry::Asymmetric) => (0, 15),
        };
        let (low, high) = (min.min(0.0), max.max(0.0));
        let width = match symmetry {
            Symmetry::Symmetric => low.abs().max(high),
            // In f64, where the difference of two f32 cannot overflow.
            Symmetry::Asymmetric => (f64::from(high) - f64::from(low)) as f32,
        };
        let scale = if width == 0.0 { 1.0 } else { width / f32::from(greatest) };
        if !scale.is_normal() {
            return None;
        }
        let zero_point = match symmetry {
            Symmetry::Symmetric => 0,
            Symmetry::Asymmetric => (-low / scale).round_ties_even().clamp(0.0, f32::from(greatest)) as i16,
        };
        Some(AffineParams { scale, zero_point, least, greatest })
    }

    /// Returns the parameters of values themselves; `None` as [`for_range`](Self::for_range), or where a value is not finite.
    pub fn dynamic(values: &[f32], bits: Bits, symmetry: Symmetry) -> Option<AffineParams> {
        Self::for_range(ValueRange::of(values)?, bits, symmetry)
    }

    /// Returns the steps of stored codes: a code is stored less `offset`.
    pub(crate) fn steps(&self, offset: i16) -> AffineSteps {
        let AffineParams { scale, zero_point, least, greatest } = *self;
        let (least, greatest) = (least - zero_point, greatest - zero_point);
        AffineSteps { scale, least, greatest, shift: zero_point - offset }
    }

    /// Returns the code of a value.
    #[inline]
    pub fn quantize(&self, value: f32) -> i16 {
        // In 1.5 * 2^23 + x the integer sits in the low bits of the sum, rounded half to even by the addition itself;
        // what lies far outside is clamped first, to ends that are integers.
        const ROUND: f32 = 12_582_912.0;
        let (least, greatest) = (self.least - self.zero_point, self.greatest - self.zero_point);
        let steps = (value * (1.0 / self.scale)).clamp(f32::from(least), f32::from(greatest));
        let rounded = (steps + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i16;
        rounded + self.zero_point
    }

    /// Returns the value of a code.
    #[inline]
    pub fn dequantize(&self, code: i16) -> f32 {
        (i32::from(code) - i32::from(self.zero_point)) as f32 * self.scale
    }
}
