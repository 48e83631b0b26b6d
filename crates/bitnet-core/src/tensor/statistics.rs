//! Reductions of tensors over dimensions.

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::arithmetic::Arithmetic;
use super::broadcast::float_type;
use super::cast::Cast;
use super::convert::for_number;
use super::elementwise::for_arithmetic;
use super::math::Real;
use super::output::pool_of;
use super::reduce::{Axes, reduce};
use super::reductions::{ExpSum, Extreme, FloatSum, Fold, Variance};
use super::source::{Source, Tile, unpacked};
use super::unary::for_real;
use crate::memory::Element;
use crate::memory::tensor::BitNetTensor;
use crate::memory::tensor::packed::Digits;

/// Returns the type of a sum of integers of a type.
fn sum_type(dtype: BitNetDType) -> BitNetDType {
    if dtype == BitNetDType::U64 { dtype } else { BitNetDType::I64 }
}

/// Sums in f64 what `map` makes of the elements, and rounds what `finish` makes of a sum to `dtype`.
fn float_sum<R: Real, S: Element + Cast<f64>>(
    operation: &str,
    tensor: &BitNetTensor,
    axes: &Axes,
    dtype: BitNetDType,
    map: impl Fn(R) -> R + Sync,
    finish: impl Fn(f64) -> f64 + Sync,
) -> Result<BitNetTensor>
where
    f64: Cast<R>,
{
    reduce::<R, _, S>(operation, tensor, axes, dtype, &FloatSum(map), |acc| S::cast(finish(acc)))
}

/// Reductions. `dims` are the dimensions that go, all where the list is empty; with `keepdim` they stay with length 1.
/// Functions of reals compute integers and truth values as f32.
///
/// # Errors
/// All: `Mismatch` for a dimension that the tensor lacks or that is named twice; `Unsupported` when the memory belongs
/// to no pool; otherwise as an allocation.
impl BitNetTensor {
    /// Sums; integers and truth values as 64-bit integers that wrap around. The sum of nothing is 0.
    pub fn sum(&self, dims: &[isize], keepdim: bool) -> Result<Self> {
        let axes = Axes::new("sum", self, dims, keepdim)?;
        if self.dtype().is_float() {
            return for_real!(self.dtype(), R, S => {
                float_sum::<R, S>("sum", self, &axes, self.dtype(), |x| x, |sum| sum)
            });
        }
        self.integers("sum", &axes, |a, b| a.wrapping_add(b), 0, |a, b| a.wrapping_add(b), 0)
    }

    /// Multiplies; integers and truth values as 64-bit integers that wrap around. The product of nothing is 1.
    pub fn prod(&self, dims: &[isize], keepdim: bool) -> Result<Self> {
        let axes = Axes::new("prod", self, dims, keepdim)?;
        let dtype = self.dtype();
        if dtype.is_float() {
            let fold = Fold { start: 1.0f64, fold: |a: f64, b: f64| a * b };
            return for_real!(dtype, R, S => reduce::<R, _, S>("prod", self, &axes, dtype, &fold, S::cast));
        }
        self.integers("prod", &axes, |a, b| a.wrapping_mul(b), 1, |a, b| a.wrapping_mul(b), 1)
    }

    fn integers(
        &self,
        operation: &str,
        axes: &Axes,
        signed: fn(i64, i64) -> i64,
        signed_start: i64,
        unsigned: fn(u64, u64) -> u64,
        unsigned_start: u64,
    ) -> Result<Self> {
        let dtype = sum_type(self.dtype());
        let plain = unpacked(self, operation, pool_of(operation, &[self])?)?;
        if dtype == BitNetDType::U64 {
            let fold = Fold { start: unsigned_start, fold: unsigned };
            return reduce::<u64, _, u64>(operation, &plain, axes, dtype, &fold, |sum| sum);
        }
        let fold = Fold { start: signed_start, fold: signed };
        for_number!(plain.dtype(), T => {
            reduce::<T, _, i64>(operation, &plain, axes, dtype, &fold, |sum| sum)
        }, packed => unreachable!("unpacked"))
    }

    /// Returns the mean; of nothing NaN.
    pub fn mean(&self, dims: &[isize], keepdim: bool) -> Result<Self> {
        let axes = Axes::new("mean", self, dims, keepdim)?;
        let (dtype, count) = (float_type(self.dtype()), axes.count(self) as f64);
        for_real!(dtype, R, S => float_sum::<R, S>("mean", self, &axes, dtype, |x| x, |sum| sum / count))
    }

    /// Returns the greatest element, NaN if one is NaN.
    ///
    /// # Errors
    /// As all; `Mismatch` when there are no elements.
    pub fn max(&self, dims: &[isize], keepdim: bool) -> Result<Self> {
        self.extreme("max", dims, keepdim, false)
    }

    /// Returns the least element, NaN if one is NaN.
    ///
    /// # Errors
    /// As [`max`](Self::max).
    pub fn min(&self, dims: &[isize], keepdim: bool) -> Result<Self> {
        self.extreme("min", dims, keepdim, true)
    }

    fn extreme(&self, operation: &str, dims: &[isize], keepdim: bool, least: bool) -> Result<Self> {
        fn run<C: Arithmetic, S: Element + Cast<C>>(
            operation: &str,
            tensor: &BitNetTensor,
            axes: &Axes,
            least: bool,
        ) -> Result<BitNetTensor> {
            let dtype = tensor.dtype();
            if least {
                let fold = Fold { start: C::HIGHEST, fold: C::lesser };
                reduce::<C, _, S>(operation, tensor, axes, dtype, &fold, S::cast)
            } else {
                let fold = Fold { start: C::LOWEST, fold: C::greater };
                reduce::<C, _, S>(operation, tensor, axes, dtype, &fold, S::cast)
            }
        }
        let axes = Axes::new(operation, self, dims, keepdim)?;
        axes.check_some(operation, self)?;
        let plain = unpacked(self, operation, pool_of(operation, &[self])?)?;
        for_arithmetic!(plain.dtype(), C, S => run::<C, S>(operation, &plain, &axes, least), bool => {
            run::<u8, u8>(operation, &plain, &axes, least)
        })
    }

    /// Returns the index, an i64, of the first greatest element of a dimension; the first NaN is the greatest.
    ///
    /// # Errors
    /// As all; `Mismatch` when there are no elements.
    pub fn argmax(&self, dim: isize, keepdim: bool) -> Result<Self> {
        self.arg_extreme("argmax", dim, keepdim, false)
    }

    /// Returns the index, an i64, of the first least element of a dimension; the first NaN is the least.
    ///
    /// # Errors
    /// As [`argmax`](Self::argmax).
    pub fn argmin(&self, dim: isize, keepdim: bool) -> Result<Self> {
        self.arg_extreme("argmin", dim, keepdim, true)
    }

    fn arg_extreme(&self, operation: &str, dim: isize, keepdim: bool, least: bool) -> Result<Self> {
        let axes = Axes::new(operation, self, &[dim], keepdim)?;
        axes.check_some(operation, self)?;
        let plain = unpacked(self, operation, pool_of(operation, &[self])?)?;
        let (dtype, extreme) = (BitNetDType::I64, Extreme { least });
        for_arithmetic!(plain.dtype(), C, _S => {
            reduce::<C, _, i64>(operation, &plain, &axes, dtype, &extreme, |(_, index)| index as i64)
        }, bool => reduce::<u8, _, i64>(operation, &plain, &axes, dtype, &extreme, |(_, index)| index as i64))
    }

    /// Returns the variance, the sum of squared deviations from the mean divided by the number less `correction`
    /// (1 for a sample, 0 for a population).
    pub fn var(&self, dims: &[isize], correction: f64, keepdim: bool) -> Result<Self> {
        let axes = Axes::new("var", self, dims, keepdim)?;
        let dtype = float_type(self.dtype());
        for_real!(dtype, R, S => {
            reduce::<R, _, S>("var", self, &axes, dtype, &Variance, |acc| S::cast(acc.variance(correction)))
        })
    }

    /// Returns the square root of [`var`](Self::var).
    pub fn std(&self, dims: &[isize], correction: f64, keepdim: bool) -> Result<Self> {
        let axes = Axes::new("std", self, dims, keepdim)?;
        let dtype = float_type(self.dtype());
        for_real!(dtype, R, S => {
            reduce::<R, _, S>("std", self, &axes, dtype, &Variance, |acc| S::cast(acc.variance(correction).sqrt()))
        })
    }

    /// Returns the norm of order `p`: the `p`th root of the sum of magnitudes raised to `p`; the greatest magnitude
    /// for infinity, the least one for -infinity, the number of elements that are not 0 for 0.
    ///
    /// # Errors
    /// As all; `Mismatch` for infinite orders when there are no elements.
    pub fn norm(&self, p: f64, dims: &[isize], keepdim: bool) -> Result<Self> {
        if p.is_infinite() {
            let magnitude = self.cast_in(float_type(self.dtype()), pool_of("norm", &[self])?)?.abs()?;
            return magnitude.extreme("norm", dims, keepdim, p < 0.0);
        }
        let axes = Axes::new("norm", self, dims, keepdim)?;
        let dtype = float_type(self.dtype());
        for_real!(dtype, R, S => {
            let (one, zero) = (R::of(1.0), R::of(0.0));
            if p == 2.0 {
                float_sum::<R, S>("norm", self, &axes, dtype, |x| x * x, f64::sqrt)
            } else if p == 1.0 {
                float_sum::<R, S>("norm", self, &axes, dtype, |x| x.abs(), |sum| sum)
            } else if p == 0.0 {
                float_sum::<R, S>("norm", self, &axes, dtype, |x| if x == zero { zero } else { one }, |sum| sum)
            } else {
                let order = R::of(p);
                let root = |sum| libm::pow(sum, 1.0 / p);
                float_sum::<R, S>("norm", self, &axes, dtype, |x| x.abs().power(order), root)
            }
        })
    }

    /// Returns the logarithm of the sum of exponentials, without overflow on the way; of nothing -inf.
    pub fn logsumexp(&self, dims: &[isize], keepdim: bool) -> Result<Self> {
        let axes = Axes::new("logsumexp", self, dims, keepdim)?;
        let dtype = float_type(self.dtype());
        for_real!(dtype, R, S => {
            reduce::<R, _, S>("logsumexp", self, &axes, dtype, &ExpSum, |acc| S::cast(ExpSum::log(acc)))
        })
    }

    /// Tells whether an element is not zero; of nothing false.
    pub fn any(&self, dims: &[isize], keepdim: bool) -> Result<Self> {
        let axes = Axes::new("any", self, dims, keepdim)?;
        let truth = self.cast_in(BitNetDType::Bool, pool_of("any", &[self])?)?;
        let fold = Fold { start: 0u8, fold: |a: u8, b: u8| a | b };
        reduce::<u8, _, u8>("any", &truth, &axes, BitNetDType::Bool, &fold, |any| any)
    }

    /// Tells whether no element is zero; of nothing true.
    pub fn all(&self, dims: &[isize], keepdim: bool) -> Result<Self> {
        let axes = Axes::new("all", self, dims, keepdim)?;
        let truth = self.cast_in(BitNetDType::Bool, pool_of("all", &[self])?)?;
        let fold = Fold { start: 1u8, fold: |a: u8, b: u8| a & b };
        reduce::<u8, _, u8>("all", &truth, &axes, BitNetDType::Bool, &fold, |all| all)
    }

    /// Returns the one element as f64: exactly, but for 64-bit integers beyond 2^53.
    ///
    /// # Errors
    /// `Mismatch` when there is not exactly one, and for packed bits that are no code; `Unsupported` for a tensor with a
    /// scale.
    pub fn item(&self) -> Result<f64> {
        if self.element_count() != 1 {
            let what = format!("elements of a tensor of shape {:?} read as one number", self.shape());
            return Err(BitNetError::mismatch(what, 1, self.element_count()));
        }
        self.check_unscaled("item")?;
        let start = self.layout().offset();
        if let Some(digits) = Digits::of(self.dtype()) {
            let value = digits.value(self.memory().bytes(), start);
            let invalid =
                || BitNetError::mismatch(format!("bits of a {} item", self.dtype()), "a code", "none");
            return value.map(f64::from).ok_or_else(invalid);
        }
        let tile = Tile { start, rows: 1, cols: 1, row_stride: 0, col_stride: 1 };
        let mut out = [0.0f64];
        Source::of(self).gather(tile, &mut out);
        Ok(out[0])
    }

    /// Returns the elements, row-major.
    ///
    /// # Errors
    /// `Mismatch` when `T` is not the element type; as [`contiguous`](Self::contiguous) when they do not lie so.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype() {
            return Err(BitNetError::mismatch("element type of to_vec", self.dtype(), T::DTYPE));
        }
        Ok(self.contiguous()?.as_slice::<T>()?.to_vec())
    }
}
