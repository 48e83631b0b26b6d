//! Functions of one tensor, element by element.

use bitnet_backend::{BitNetDType, Result};

use super::arithmetic::Arithmetic;
use super::broadcast::{float_type, walk};
use super::cast::Cast;
use super::elementwise::{Comparison, compare, for_arithmetic, rounded};
use super::math::Real;
use super::output::{build, pool_of, unsupported};
use super::source::{Source, unpacked};
use super::walk::fill;
use crate::memory::Element;
use crate::memory::tensor::BitNetTensor;

/// Computes a function in `C` and stores it as `dtype`, whose elements are `S`.
fn compute<C: Arithmetic, S: Element + Cast<C>>(
    name: &str,
    tensor: &BitNetTensor,
    dtype: BitNetDType,
    each: impl Fn(C) -> C + Sync,
) -> Result<BitNetTensor> {
    let pool = pool_of(name, &[tensor])?;
    let tensor = unpacked(tensor, name, pool)?;
    let walk = walk(name, tensor.shape(), [&tensor])?;
    let sources = [Source::of(&tensor)];
    let kernel = |[values]: [&[C]; 1], out: &mut [C]| {
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = each(value));
    };
    if C::DTYPE == S::DTYPE {
        return build(tensor.shape(), dtype, pool, name, |out: &mut [C]| {
            fill(&walk, sources, out, &kernel);
            Ok(())
        });
    }
    build(tensor.shape(), dtype, pool, name, |out: &mut [S]| {
        fill(&walk, sources, out, &rounded(&kernel));
        Ok(())
    })
}

/// Calls `$body` with `$real` and `$stored` standing for the types in which reals of a float type are computed and
/// stored.
macro_rules! for_real {
    ($dtype:expr, $real:ident, $stored:ident => $body:expr) => {
        match $dtype {
            BitNetDType::F64 => {
                type $real = f64;
                type $stored = f64;
                $body
            }
            BitNetDType::F16 => {
                type $real = f32;
                type $stored = half::f16;
                $body
            }
            BitNetDType::BF16 => {
                type $real = f32;
                type $stored = half::bf16;
                $body
            }
            _ => {
                type $real = f32;
                type $stored = f32;
                $body
            }
        }
    };
}
pub(crate) use for_real;

/// A function of a real number, in both types.
pub(crate) trait Function: Sync {
    /// Returns its value.
    fn at<R: Real>(&self, x: R) -> R;
}

/// Applies a function of reals: integers are computed as f32.
pub(crate) fn real(name: &str, tensor: &BitNetTensor, function: &impl Function) -> Result<BitNetTensor> {
    let dtype = float_type(tensor.dtype());
    for_real!(dtype, R, S => compute::<R, S>(name, tensor, dtype, |x| function.at(x)))
}

/// Applies a function that keeps the type.
macro_rules! number {
    ($name:literal, $tensor:expr, $x:ident: $type:ident => $body:expr) => {{
        let tensor: &BitNetTensor = $tensor;
        let dtype = if tensor.dtype().is_packed() { BitNetDType::I8 } else { tensor.dtype() };
        for_arithmetic!(dtype, $type, S => compute::<$type, S>($name, tensor, dtype, |$x: $type| $body), bool => {
            Err(unsupported($name, &[tensor], "truth values are no numbers; cast them"))
        })
    }};
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident, $x:ident: $real:ident => $body:expr;)*) => {
        /// Functions of reals. Integers and truth values are computed as f32, halves in f32.
        ///
        /// # Errors
        /// All: `Unsupported` when the memory belongs to no pool; otherwise as an allocation.
        impl BitNetTensor {
            $($(#[$doc])*
            pub fn $name(&self) -> Result<Self> {
                struct This;
                impl Function for This {
                    #[inline(always)]
                    fn at<$real: Real>(&self, $x: $real) -> $real {
                        $body
                    }
                }
                real(stringify!($name), self, &This)
            })*
        }
    };
}

functions! {
    /// Returns `e^x`.
    exp, x: R => x.exp();
    /// Returns the natural logarithm.
    log, x: R => x.log();
    /// Returns `log(1 + x)`.
    log1p, x: R => x.log1p();
    /// Returns the square root.
    sqrt, x: R => x.sqrt();
    /// Returns `1 / sqrt(x)`.
    rsqrt, x: R => R::of(1.0).over(x.sqrt());
    /// Returns `1 / x`.
    recip, x: R => R::of(1.0).over(x);
    /// Returns the sine.
    sin, x: R => x.sin();
    /// Returns the cosine.
    cos, x: R => x.cos();
    /// Returns the error function.
    erf, x: R => x.erf();
}

/// Functions that keep the type; packed types become i8.
///
/// # Errors
/// All: `Unsupported` for truth values, or when the memory belongs to no pool; otherwise as an allocation.
impl BitNetTensor {
    /// Returns elements with the other sign; unsigned and least integers wrap around.
    pub fn neg(&self) -> Result<Self> {
        number!("neg", self, x: C => x.negated())
    }

    /// Returns elements without their sign; least integers wrap around.
    pub fn abs(&self) -> Result<Self> {
        number!("abs", self, x: C => x.magnitude())
    }

    /// Returns -1, 0 or 1 by the sign, NaN for NaN.
    pub fn sign(&self) -> Result<Self> {
        number!("sign", self, x: C => Arithmetic::signum(x))
    }

    /// Multiplies elements with themselves.
    pub fn square(&self) -> Result<Self> {
        number!("square", self, x: C => x.times(x))
    }

    /// Rounds down; integers stay, packed ones become i8.
    pub fn floor(&self) -> Result<Self> {
        self.rounding("floor", &Rounding::Floor)
    }

    /// Rounds up; integers stay, packed ones become i8.
    pub fn ceil(&self) -> Result<Self> {
        self.rounding("ceil", &Rounding::Ceil)
    }

    /// Rounds to the nearest integer, half to even; integers stay, packed ones become i8.
    pub fn round(&self) -> Result<Self> {
        self.rounding("round", &Rounding::Nearest)
    }

    fn rounding(&self, name: &str, rounding: &Rounding) -> Result<Self> {
        match self.dtype() {
            dtype if dtype.is_float() => real(name, self, rounding),
            BitNetDType::Bool => Err(unsupported(name, &[self], "truth values are no numbers; cast them")),
            dtype if dtype.is_packed() => unpacked(self, name, pool_of(name, &[self])?),
            _ => self.check_unscaled(name).map(|()| self.clone()),
        }
    }

    /// Tells where elements are NaN.
    pub fn is_nan(&self) -> Result<Self> {
        compare("is_nan", Comparison::Ne, self, self)
    }

    /// Tells where elements are zero, or false.
    pub fn logical_not(&self) -> Result<Self> {
        let pool = pool_of("logical_not", &[self])?;
        let truth = self.cast_in(BitNetDType::Bool, pool)?;
        build(truth.shape(), BitNetDType::Bool, pool, "logical_not", |out: &mut [u8]| {
            let walk = walk("logical_not", truth.shape(), [&truth])?;
            fill(&walk, [Source::of(&truth)], out, &|[values]: [&[u8]; 1], out: &mut [u8]| {
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value ^ 1);
            });
            Ok(())
        })
    }
}

enum Rounding {
    Floor,
    Ceil,
    Nearest,
}

impl Function for Rounding {
    #[inline(always)]
    fn at<R: Real>(&self, x: R) -> R {
        match self {
            Rounding::Floor => x.floor(),
            Rounding::Ceil => x.ceil(),
            Rounding::Nearest => x.round(),
        }
    }
}
