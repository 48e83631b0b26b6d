//! Integer codes of floats: `q = clamp(round_half_even(x * (1 / scale)) + zero_point)`, `x' = (q - zero_point) scale`: with
//! the reciprocal, as PyTorch has it, so that a division is not the dearest part of a weight.
//!
//! *Symmetric* codes use -127..=127 or -7..=7 with zero point 0: `scale = max |x| / 127`. *Asymmetric* ones use 0..=255
//! or 0..=15 over the range widened to hold 0, so that zero is exact: `scale = (max - min) / 255`,
//! `zero_point = round_half_even(-min / scale)`. A range of nothing but zero has scale 1, and no scale is below the least
//! normal number: what is smaller becomes 0. The value of every code is finite; where an end of the range is so large that
//! its code would not be, the code next to it stands for it, or the scale is the number below.

use bitnet_kernels::{AffineSteps, Kernels};

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

/// Scale and zero point of codes, as a range or a mean magnitude gives them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineParams {
    pub(super) scale: f32,
    pub(super) zero_point: i16,
    pub(super) least: i16,
    pub(super) greatest: i16,
}

impl AffineParams {
    /// Returns the parameters that cover a range; `None` of ends that are not finite, or the least of which is the greater.
    pub fn for_range(range: ValueRange, bits: Bits, symmetry: Symmetry) -> Option<AffineParams> {
        let ValueRange { min, max } = range;
        let (least, greatest) = match (bits, symmetry) {
            (Bits::Eight, Symmetry::Symmetric) => (-127, 127),
            (Bits::Eight, Symmetry::Asymmetric) => (0, 255),
            (Bits::Four, Symmetry::Symmetric) => (-7, 7),
            (Bits::Four, Symmetry::Asymmetric) => (0, 15),
        };
        let (low, high, steps) = (min.min(0.0), max.max(0.0), f32::from(greatest));
        let with_scale = |scale: f32| {
            let zero_point = match symmetry {
                Symmetry::Symmetric => 0,
                Symmetry::Asymmetric => (-low / scale).round_ties_even().clamp(0.0, steps) as i16,
            };
            AffineParams { scale, zero_point, least, greatest }
        };
        let width = match symmetry {
            Symmetry::Symmetric => low.abs().max(high),
            Symmetry::Asymmetric => high - low,
        };
        if min <= max && width < f32::MAX {
            let scale = (width / steps).max(f32::MIN_POSITIVE);
            return Some(with_scale(if width == 0.0 { 1.0 } else { scale }));
        }
        if !(min <= max && min.is_finite() && max.is_finite()) {
            return None;
        }
        let scale = match symmetry {
            Symmetry::Symmetric => width / steps,
            Symmetry::Asymmetric => high / steps - low / steps,
        };
        Some(with_scale(scale).kept_finite())
    }

    /// Returns the parameters without codes whose value is past f32.
    #[cold]
    fn kept_finite(mut self) -> Self {
        let finite = |params: &Self, code| params.dequantize(code).is_finite();
        if self.zero_point == 0 && !finite(&self, self.greatest) {
            // The quotient was rounded up.
            self.scale = self.scale.next_down();
        }
        // Of a range twice as wide as f32 one end is half a step past it.
        self.least += i16::from(!finite(&self, self.least));
        self.greatest -= i16::from(!finite(&self, self.greatest));
        self
    }

    /// Returns the parameters of values themselves; `None` of no values, or where one is not finite.
    pub fn dynamic(values: &[f32], bits: Bits, symmetry: Symmetry) -> Option<AffineParams> {
        Self::for_range(ValueRange::of(values)?, bits, symmetry)
    }

    /// Returns what one step of a code is worth: a normal number above 0.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Returns the code of 0.
    pub fn zero_point(&self) -> i16 {
        self.zero_point
    }

    /// Returns the least and the greatest code.
    pub fn codes(&self) -> (i16, i16) {
        (self.least, self.greatest)
    }

    /// Returns the steps of stored codes: a code is stored less `offset`.
    pub(crate) fn steps(&self, offset: i16) -> AffineSteps {
        let AffineParams { scale, zero_point, least, greatest } = *self;
        let (least, greatest) = (least - zero_point, greatest - zero_point);
        AffineSteps { scale, least, greatest, shift: zero_point - offset }
    }

    /// Returns what is taken off codes so that they fit a signed byte.
    pub(super) fn byte_offset(&self) -> i16 {
        if self.greatest > i16::from(i8::MAX) { 128 } else { 0 }
    }

    /// Returns the code of a value: the least or the greatest one past the range, the code of 0 of NaN.
    pub fn quantize(&self, value: f32) -> i16 {
        // The kernel takes numbers only, and gives codes that fit a signed byte.
        let value = if value.is_nan() { 0.0 } else { value };
        let offset = self.byte_offset();
        let mut stored = [0];
        (Kernels::SCALAR.affine.codes)(&[value], self.steps(offset), &mut stored);
        i16::from(stored[0]) + offset
    }

    /// Returns the value of a code.
    #[inline]
    pub fn dequantize(&self, code: i16) -> f32 {
        (i32::from(code) - i32::from(self.zero_point)) as f32 * self.scale
    }
}
