//! Activation functions and their derivatives.

use bitnet_backend::{BitNetDType, Result};

use super::broadcast::{common_shape, float_type, promote, walk};
use super::elementwise::rounded;
use super::math::Real;
use super::output::{build, pool_of, unsupported};
use super::source::{Source, unpacked};
use super::unary::{Function, for_real, real};
use super::walk::fill;
use crate::memory::tensor::BitNetTensor;

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `max(x, 0)`; its derivative at 0 is 0.
    Relu,
    /// `max(x, 0)^2`.
    SquaredRelu,
    /// `x * P(X <= x)` for a standard normal `X`.
    Gelu,
    /// [`Gelu`](Self::Gelu) with the approximation `(1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2` of the probability.
    GeluTanh,
    /// `x * sigmoid(x)`, which is also called Swish.
    Silu,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `log(1 + e^x)`.
    Softplus,
}

const GELU_CUBE: f64 = 0.044_715;

#[inline(always)]
fn sigmoid<R: Real>(x: R) -> R {
    // e^-|x| cannot overflow.
    let e = x.magnitude().negated().exp();
    let small = e.over(R::of(1.0).plus(e));
    if x < R::of(0.0) { small } else { R::of(1.0).over(R::of(1.0).plus(e)) }
}

#[inline(always)]
fn normal_cdf<R: Real>(x: R) -> R {
    R::of(0.5).times(x.times(R::of(-std::f64::consts::FRAC_1_SQRT_2)).erfc())
}

/// Returns the approximated probability and the tangent in it.
#[inline(always)]
fn tanh_cdf<R: Real>(x: R) -> (R, R) {
    let scale = R::of(libm::sqrt(std::f64::consts::FRAC_2_PI));
    let inner = scale.times(x.plus(R::of(GELU_CUBE).times(x).times(x).times(x)));
    let t = inner.tanh();
    (R::of(0.5).times(R::of(1.0).plus(t)), t)
}

impl Activation {
    /// Every function.
    pub const ALL: [Activation; 8] = [
        Activation::Relu,
        Activation::SquaredRelu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Softplus,
    ];

    /// Returns the name, as configurations of models spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Activation::Relu => "relu",
            Activation::SquaredRelu => "relu2",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Silu => "silu",
            Activation::Sigmoid => "sigmoid",
            Activation::Tanh => "tanh",
            Activation::Softplus => "softplus",
        }
    }

    #[inline(always)]
    fn value<R: Real>(self, x: R) -> R {
        let relu = x.greater(R::of(0.0));
        match self {
            Activation::Relu => relu,
            Activation::SquaredRelu => relu.times(relu),
            Activation::Gelu => x.times(normal_cdf(x)),
            Activation::GeluTanh => x.times(tanh_cdf(x).0),
            Activation::Silu => x.times(sigmoid(x)),
            Activation::Sigmoid => sigmoid(x),
            Activation::Tanh => x.tanh(),
            Activation::Softplus => relu.plus(x.magnitude().negated().exp().log1p()),
        }
    }

    #[inline(always)]
    fn slope<R: Real>(self, x: R) -> R {
        let (zero, one) = (R::of(0.0), R::of(1.0));
        match self {
            Activation::Relu if x <= zero => zero,
            Activation::Relu => one,
            Activation::SquaredRelu => R::of(2.0).times(x.greater(zero)),
            Activation::Gelu => {
                let density = x.times(x).times(R::of(-0.5)).exp();
                let scale = R::of(0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2);
                normal_cdf(x).plus(x.times(scale).times(density))
            }
            Activation::GeluTanh => {
                let (cdf, t) = tanh_cdf(x);
                let scale = R::of(libm::sqrt(std::f64::consts::FRAC_2_PI));
                let inner = scale.times(one.plus(R::of(3.0 * GELU_CUBE).times(x).times(x)));
                // Where the tangent has its limit nothing bends, however large the square.
                let rest = one.minus(t.times(t));
                let bend = if rest == zero { zero } else { rest.times(inner) };
                cdf.plus(R::of(0.5).times(x).times(bend))
            }
            Activation::Silu => {
                let s = sigmoid(x);
                s.times(one.plus(x.times(one.minus(s))))
            }
            Activation::Sigmoid => {
                let s = sigmoid(x);
                s.times(one.minus(s))
            }
            Activation::Tanh => {
                let t = x.tanh();
                one.minus(t.times(t))
            }
            Activation::Softplus => sigmoid(x),
        }
    }
}

/// One function with its kind fixed, so that the compiler makes a loop of each.
struct Value<const KIND: usize>;

impl<const KIND: usize> Function for Value<KIND> {
    #[inline(always)]
    fn at<R: Real>(&self, x: R) -> R {
        const { Activation::ALL[KIND] }.value(x)
    }
}

impl BitNetTensor {
    /// Applies an activation function. Integers are computed as f32, halves in f32.
    ///
    /// # Errors
    /// `Unsupported` when the memory belongs to no pool; otherwise as an allocation.
    pub fn activate(&self, activation: Activation) -> Result<Self> {
        let name = activation.name();
        macro_rules! each {
            ($($kind:ident)*) => {
                match activation {
                    $(Activation::$kind => real(name, self, &Value::<{ Activation::$kind as usize }>),)*
                }
            };
        }
        each!(Relu SquaredRelu Gelu GeluTanh Silu Sigmoid Tanh Softplus)
    }

    /// Returns the gradient for this tensor, the input of `activation`, of a loss whose gradient for the output is
    /// `gradient`: the product of `gradient` and the derivative.
    ///
    /// # Errors
    /// `Unsupported` for types that are not floating-point, or when neither memory belongs to a pool; `Mismatch`
    /// when the shapes do not repeat to one another; otherwise as an allocation.
    pub fn activate_backward(&self, activation: Activation, gradient: &Self) -> Result<Self> {
        let name = format!("{} backward", activation.name());
        let shape = common_shape(&name, &[self, gradient])?;
        let pool = pool_of(&name, &[self, gradient])?;
        let dtype = promote(self.dtype(), gradient.dtype()).filter(|dtype| dtype.is_float());
        let dtype = dtype.ok_or_else(|| unsupported(&name, &[self, gradient], "gradients are floats"))?;
        let (input, gradient) = (unpacked(self, &name, pool)?, unpacked(gradient, &name, pool)?);
        let walk = walk(&name, &shape, [&input, &gradient])?;
        let sources = [Source::of(&input), Source::of(&gradient)];
        for_real!(float_type(dtype), R, S => {
            let kernel = |[input, gradient]: [&[R]; 2], out: &mut [R]| {
                for (out, (&x, &gradient)) in out.iter_mut().zip(input.iter().zip(gradient)) {
                    *out = gradient * activation.slope(x);
                }
            };
            build(&shape, dtype, pool, &name, |out: &mut [S]| {
                fill(&walk, sources, out, &rounded(&kernel));
                Ok(())
            })
        })
    }

    /// Returns `max(x, 0)`.
    ///
    /// # Errors
    /// As [`activate`](Self::activate).
    pub fn relu(&self) -> Result<Self> {
        self.activate(Activation::Relu)
    }

    /// Returns `x * sigmoid(x)`.
    ///
    /// # Errors
    /// As [`activate`](Self::activate).
    pub fn silu(&self) -> Result<Self> {
        self.activate(Activation::Silu)
    }

    /// Returns `x * P(X <= x)` for a standard normal `X`.
    ///
    /// # Errors
    /// As [`activate`](Self::activate).
    pub fn gelu(&self) -> Result<Self> {
        self.activate(Activation::Gelu)
    }

    /// Returns `1 / (1 + e^-x)`.
    ///
    /// # Errors
    /// As [`activate`](Self::activate).
    pub fn sigmoid(&self) -> Result<Self> {
        self.activate(Activation::Sigmoid)
    }

    /// Returns the hyperbolic tangent.
    ///
    /// # Errors
    /// As [`activate`](Self::activate).
    pub fn tanh(&self) -> Result<Self> {
        self.activate(Activation::Tanh)
    }
}
