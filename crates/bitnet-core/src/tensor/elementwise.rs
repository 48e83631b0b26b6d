//! Operations of two tensors, element by element, with broadcasting and a common type.

use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::arithmetic::Arithmetic;
use super::broadcast::{common_shape, common_type, float_type, walk};
use super::cast::Cast;
use super::convert::for_number;
use super::output::{build, pool_of, unsupported};
use super::source::{Number, Source, unpacked};
use super::walk::{Kernel, TILE, fill};
use crate::memory::Element;
use crate::memory::tensor::BitNetTensor;

/// Calls `$body` with `$type` standing for the type in which numbers of a type are computed and `$stored` for that in
/// which they are stored: halves are computed in f32.
macro_rules! for_arithmetic {
    ($dtype:expr, $type:ident, $stored:ident => $body:expr, bool => $bool:expr) => {
        for_arithmetic!(@arms $dtype, $type, $stored, $body, $bool,
            F64: f64, f64; F32: f32, f32; F16: f32, half::f16; BF16: f32, half::bf16; I64: i64, i64; I32: i32, i32;
            I16: i16, i16; I8: i8, i8; U64: u64, u64; U32: u32, u32; U16: u16, u16; U8: u8, u8;)
    };
    (@arms $dtype:expr, $type:ident, $stored:ident, $body:expr, $bool:expr,
        $($variant:ident: $compute:ty, $store:ty;)*) => {
        match $dtype {
            $(BitNetDType::$variant => {
                type $type = $compute;
                type $stored = $store;
                $body
            })*
            _ => $bool,
        }
    };
}
pub(crate) use for_arithmetic;

/// Applies `each` to pairs of elements.
#[inline(always)]
pub(crate) fn pairs<C: Copy, O>(inputs: [&[C]; 2], out: &mut [O], each: impl Fn(C, C) -> O) {
    let [left, right] = inputs;
    out.iter_mut().zip(left.iter().zip(right)).for_each(|(out, (&left, &right))| *out = each(left, right));
}

/// Runs a kernel that computes in `C` and rounds what it gives to `S`.
pub(crate) fn rounded<const N: usize, C: Number, S: Element + Cast<C>>(
    kernel: &Kernel<'_, N, C, C>,
) -> impl Fn([&[C]; N], &mut [S]) + Sync {
    move |inputs, out| {
        let mut exact = [C::ONE; TILE];
        for (piece, out) in out.chunks_mut(TILE).enumerate() {
            let exact = &mut exact[..out.len()];
            kernel(inputs.map(|input| &input[piece * TILE..][..out.len()]), exact);
            out.iter_mut().zip(&*exact).for_each(|(out, &value)| *out = S::cast(value));
        }
    }
}

/// Computes an operation in `C` and stores it as `dtype`, whose elements are `S`.
fn compute<C: Arithmetic, S: Element + Cast<C>>(
    operation: &str,
    left: &BitNetTensor,
    right: &BitNetTensor,
    dtype: BitNetDType,
    kernel: &Kernel<'_, 2, C, C>,
) -> Result<BitNetTensor> {
    let shape = common_shape(operation, &[left, right])?;
    let pool = pool_of(operation, &[left, right])?;
    let (left, right) = (unpacked(left, operation, pool)?, unpacked(right, operation, pool)?);
    let walk = walk(operation, &shape, [&left, &right])?;
    let sources = [Source::of(&left), Source::of(&right)];
    if C::DTYPE == S::DTYPE {
        // `S` is `C`, or `dtype` is bool and both are `u8`.
        return build(&shape, dtype, pool, operation, |out: &mut [C]| {
            fill(&walk, sources, out, kernel);
            Ok(())
        });
    }
    build(&shape, dtype, pool, operation, |out: &mut [S]| {
        fill(&walk, sources, out, &rounded(kernel));
        Ok(())
    })
}

/// Which operation gives a number of the common type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Add,
    Sub,
    Mul,
    Minimum,
    Maximum,
    Rem,
    Pow,
}

/// Computes an operation, which messages call `name`.
fn arithmetic(
    name: &str,
    operation: Operation,
    left: &BitNetTensor,
    right: &BitNetTensor,
) -> Result<BitNetTensor> {
    let dtype = common_type(name, left, right)?;
    for_arithmetic!(dtype, C, S => numbers::<C, S>(name, operation, left, right, dtype), bool => {
        let kernel = |inputs: [&[u8]; 2], out: &mut [u8]| match operation {
            Operation::Add | Operation::Maximum => pairs(inputs, out, |a, b| a | b),
            _ => pairs(inputs, out, |a, b| a & b),
        };
        match operation {
            Operation::Sub | Operation::Rem | Operation::Pow => {
                Err(unsupported(name, &[left, right], "truth values have or (add) and and (mul); cast them to numbers"))
            }
            _ => compute::<u8, u8>(name, left, right, dtype, &kernel),
        }
    })
}

fn numbers<C: Arithmetic, S: Element + Cast<C>>(
    name: &str,
    operation: Operation,
    left: &BitNetTensor,
    right: &BitNetTensor,
    dtype: BitNetDType,
) -> Result<BitNetTensor> {
    let run = |kernel: &Kernel<'_, 2, C, C>| compute::<C, S>(name, left, right, dtype, kernel);
    // Integers have no remainder by 0 and no negative powers; kernels cannot fail, so they leave a note.
    let undefined = AtomicBool::new(false);
    let zero = C::default();
    let guarded = |inputs: [&[C]; 2], out: &mut [C], refused: fn(C, C) -> bool, each: fn(C, C) -> C| {
        if !dtype.is_float() && inputs[1].iter().any(|&right| refused(right, zero)) {
            undefined.store(true, Ordering::Relaxed);
            out.fill(zero);
        } else {
            pairs(inputs, out, each);
        }
    };
    let result = match operation {
        Operation::Add => run(&|inputs, out| pairs(inputs, out, C::plus)),
        Operation::Sub => run(&|inputs, out| pairs(inputs, out, C::minus)),
        Operation::Mul => run(&|inputs, out| pairs(inputs, out, C::times)),
        Operation::Minimum => run(&|inputs, out| pairs(inputs, out, C::lesser)),
        Operation::Maximum => run(&|inputs, out| pairs(inputs, out, C::greater)),
        Operation::Rem => run(&|inputs, out| guarded(inputs, out, |right, zero| right == zero, C::modulo)),
        Operation::Pow => run(&|inputs, out| guarded(inputs, out, |right, zero| right < zero, C::power)),
    }?;
    if undefined.into_inner() {
        let expected = if operation == Operation::Rem { "not 0" } else { "not negative" };
        let what = format!(
            "right operand of {name} of {dtype} tensors of shapes {:?} and {:?}",
            left.shape(),
            right.shape()
        );
        return Err(BitNetError::mismatch(what, expected, "one that is"));
    }
    Ok(result)
}

/// Which comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

pub(crate) fn compare(
    name: &str,
    comparison: Comparison,
    left: &BitNetTensor,
    right: &BitNetTensor,
) -> Result<BitNetTensor> {
    let dtype = common_type(name, left, right)?;
    for_arithmetic!(dtype, C, _S => compared::<C>(name, comparison, left, right), bool => {
        compared::<u8>(name, comparison, left, right)
    })
}

fn compared<C: Arithmetic>(
    name: &str,
    comparison: Comparison,
    left: &BitNetTensor,
    right: &BitNetTensor,
) -> Result<BitNetTensor> {
    let shape = common_shape(name, &[left, right])?;
    let pool = pool_of(name, &[left, right])?;
    let (left, right) = (unpacked(left, name, pool)?, unpacked(right, name, pool)?);
    let walk = walk(name, &shape, [&left, &right])?;
    let sources = [Source::of(&left), Source::of(&right)];
    build(&shape, BitNetDType::Bool, pool, name, |out: &mut [u8]| {
        let mut run = |kernel: &Kernel<'_, 2, C, u8>| fill(&walk, sources, out, kernel);
        match comparison {
            Comparison::Eq => run(&|inputs, out| pairs(inputs, out, |a, b| u8::from(a == b))),
            Comparison::Ne => run(&|inputs, out| pairs(inputs, out, |a, b| u8::from(a != b))),
            Comparison::Lt => run(&|inputs, out| pairs(inputs, out, |a, b| u8::from(a < b))),
            Comparison::Le => run(&|inputs, out| pairs(inputs, out, |a, b| u8::from(a <= b))),
            Comparison::Gt => run(&|inputs, out| pairs(inputs, out, |a, b| u8::from(a > b))),
            Comparison::Ge => run(&|inputs, out| pairs(inputs, out, |a, b| u8::from(a >= b))),
        }
        Ok(())
    })
}

/// Operations of two tensors. Shapes are broadcast, and both operands computed in a common type, as the page on
/// tensors states; the result comes from the pool of the first operand that has one.
///
/// # Errors
/// All: `Mismatch` when the shapes do not repeat to one another, `Unsupported` when no type holds both or neither
/// operand's memory belongs to a pool; otherwise as an allocation. Messages name the operation and both shapes.
impl BitNetTensor {
    /// Adds; of truth values: or.
    pub fn add(&self, other: &Self) -> Result<Self> {
        arithmetic("add", Operation::Add, self, other)
    }

    /// Subtracts.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        arithmetic("sub", Operation::Sub, self, other)
    }

    /// Multiplies; of truth values: and.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        arithmetic("mul", Operation::Mul, self, other)
    }

    /// Divides. Integers and truth values are divided as f32.
    pub fn div(&self, other: &Self) -> Result<Self> {
        let dtype = float_type(common_type("div", self, other)?);
        match dtype {
            BitNetDType::F64 => {
                compute::<f64, f64>("div", self, other, dtype, &|i, out| pairs(i, out, |a, b| a / b))
            }
            BitNetDType::F16 => {
                compute::<f32, half::f16>("div", self, other, dtype, &|i, out| pairs(i, out, |a, b| a / b))
            }
            BitNetDType::BF16 => {
                compute::<f32, half::bf16>("div", self, other, dtype, &|i, out| pairs(i, out, |a, b| a / b))
            }
            _ => compute::<f32, f32>("div", self, other, dtype, &|i, out| pairs(i, out, |a, b| a / b)),
        }
    }

    /// Returns the remainder of the division, with the sign of the divisor, as `%` in Python.
    ///
    /// # Errors
    /// As all; `Mismatch` when an integer is divided by 0.
    pub fn rem(&self, other: &Self) -> Result<Self> {
        arithmetic("rem", Operation::Rem, self, other)
    }

    /// Raises to a power.
    ///
    /// # Errors
    /// As all; `Mismatch` for a negative exponent of an integer.
    pub fn pow(&self, other: &Self) -> Result<Self> {
        arithmetic("pow", Operation::Pow, self, other)
    }

    /// Returns the lesser of two elements, NaN where one is NaN.
    pub fn minimum(&self, other: &Self) -> Result<Self> {
        arithmetic("minimum", Operation::Minimum, self, other)
    }

    /// Returns the greater of two elements, NaN where one is NaN.
    pub fn maximum(&self, other: &Self) -> Result<Self> {
        arithmetic("maximum", Operation::Maximum, self, other)
    }

    /// Tells where elements are equal.
    pub fn eq(&self, other: &Self) -> Result<Self> {
        compare("eq", Comparison::Eq, self, other)
    }

    /// Tells where elements differ.
    pub fn ne(&self, other: &Self) -> Result<Self> {
        compare("ne", Comparison::Ne, self, other)
    }

    /// Tells where elements are less than the other's.
    pub fn lt(&self, other: &Self) -> Result<Self> {
        compare("lt", Comparison::Lt, self, other)
    }

    /// Tells where elements are at most the other's.
    pub fn le(&self, other: &Self) -> Result<Self> {
        compare("le", Comparison::Le, self, other)
    }

    /// Tells where elements are greater than the other's.
    pub fn gt(&self, other: &Self) -> Result<Self> {
        compare("gt", Comparison::Gt, self, other)
    }

    /// Tells where elements are at least the other's.
    pub fn ge(&self, other: &Self) -> Result<Self> {
        compare("ge", Comparison::Ge, self, other)
    }

    /// Applies `operation` with a number of this tensor's type as its right operand: `x.with(BitNetTensor::mul, 2.0)`.
    ///
    /// # Errors
    /// Those of `operation`; `Mismatch` when the type is an integer one and `value` is none of its integers.
    pub fn with(&self, operation: fn(&Self, &Self) -> Result<Self>, value: f64) -> Result<Self> {
        operation(self, &self.number("an operation with a number", value)?)
    }

    /// Makes the right operand of `operation` of a number.
    fn number(&self, operation: &str, value: f64) -> Result<Self> {
        let dtype = if self.dtype().is_packed() { BitNetDType::I8 } else { self.dtype() };
        let pool = self.result_pool(operation)?;
        BitNetTensor::scalar(value, dtype, &self.device(), pool).map_err(|error| error.context(operation))
    }

    /// Keeps elements within bounds, NaN as it is.
    ///
    /// # Errors
    /// As all; `Mismatch` when a bound is not of an integer type.
    pub fn clamp(&self, low: f64, high: f64) -> Result<Self> {
        let name = "clamp";
        let raised = arithmetic(name, Operation::Maximum, self, &self.number(name, low)?)?;
        arithmetic(name, Operation::Minimum, &raised, &raised.number(name, high)?)
    }

    /// Returns elements of `on_true` where this tensor is true (not zero) and of `on_false` elsewhere; all three are
    /// broadcast.
    pub fn where_cond(&self, on_true: &Self, on_false: &Self) -> Result<Self> {
        let name = "where";
        let dtype = common_type(name, on_true, on_false)?;
        let shape = common_shape(name, &[self, on_true, on_false])?;
        let pool = pool_of(name, &[on_true, on_false, self])?;
        let condition = self.cast_in(BitNetDType::Bool, pool)?;
        let (left, right) = (unpacked(on_true, name, pool)?, unpacked(on_false, name, pool)?);
        let walk = walk(name, &shape, [&condition, &left, &right])?;
        let sources = [Source::of(&condition), Source::of(&left), Source::of(&right)];
        for_number!(dtype, T => build(&shape, dtype, pool, name, |out: &mut [T]| {
            let zero = <T as Cast<u8>>::cast(0);
            fill(&walk, sources, out, &|[condition, left, right]: [&[T]; 3], out: &mut [T]| {
                for (index, out) in out.iter_mut().enumerate() {
                    *out = if condition[index] != zero { left[index] } else { right[index] };
                }
            });
            Ok(())
        }), packed => unreachable!("a common type is not packed"))
    }
}
