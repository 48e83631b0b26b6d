//! Functions of one real number, in f32 and f64.
//!
//! The f32 exponential and what is made of it are polynomials without branches or tables, which the compiler turns
//! into vectors; the others come from `libm`, so that results do not depend on the platform's library.

use bitnet_kernels::scalar::exp::exp_whole;

use super::arithmetic::Arithmetic;

/// A floating-point type that functions are computed in.
pub(crate) trait Real: Arithmetic {
    /// Converts a constant.
    fn of(value: f64) -> Self;
    /// Divides.
    fn over(self, other: Self) -> Self;
    /// Returns the square root.
    fn sqrt(self) -> Self;
    /// Returns `e^x`.
    fn exp(self) -> Self;
    /// Returns the natural logarithm.
    fn log(self) -> Self;
    /// Returns `log(1 + x)`.
    fn log1p(self) -> Self;
    /// Returns the hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Returns `1 - erf(x)`.
    fn erfc(self) -> Self;
    /// Returns the error function.
    fn erf(self) -> Self;
    /// Returns the sine.
    fn sin(self) -> Self;
    /// Returns the cosine.
    fn cos(self) -> Self;
    /// Rounds down.
    fn floor(self) -> Self;
    /// Rounds up.
    fn ceil(self) -> Self;
    /// Rounds to the nearest integer, half to even.
    fn round(self) -> Self;
}

macro_rules! reals {
    ($($type:ty, $exp:path, $log:path, $log1p:path, $tanh:path, $erfc:path, $erf:path, $sin:path, $cos:path;)*) => {$(
        impl Real for $type {
            #[inline(always)]
            fn of(value: f64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn over(self, other: Self) -> Self {
                self / other
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$type>::sqrt(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn log(self) -> Self {
                $log(self)
            }
            #[inline(always)]
            fn log1p(self) -> Self {
                $log1p(self)
            }
            #[inline(always)]
            fn tanh(self) -> Self {
                $tanh(self)
            }
            #[inline(always)]
            fn erfc(self) -> Self {
                $erfc(self)
            }
            #[inline(always)]
            fn erf(self) -> Self {
                $erf(self)
            }
            #[inline(always)]
            fn sin(self) -> Self {
                $sin(self)
            }
            #[inline(always)]
            fn cos(self) -> Self {
                $cos(self)
            }
            #[inline(always)]
            fn floor(self) -> Self {
                <$type>::floor(self)
            }
            #[inline(always)]
            fn ceil(self) -> Self {
                <$type>::ceil(self)
            }
            #[inline(always)]
            fn round(self) -> Self {
                <$type>::round_ties_even(self)
            }
        }
    )*};
}

reals! {
    f64, libm::exp, libm::log, libm::log1p, libm::tanh, libm::erfc, libm::erf, libm::sin, libm::cos;
    f32, exp_whole, libm::logf, libm::log1pf, tanh, libm::erfcf, libm::erff, libm::sinf, libm::cosf;
}

/// Returns the hyperbolic tangent within 4 units in the last place.
///
/// Near zero a polynomial (Cephes' minimax coefficients), as the quotient of exponentials would cancel.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let e = exp_whole(-2.0 * magnitude);
    let far = (1.0 - e) / (1.0 + e);
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * z + 2.063_909e-2;
    p = p * z - 5.373_971_6e-2;
    p = p * z + 1.333_144_2e-1;
    p = p * z - 3.333_328e-1;
    let near = x + x * z * p;
    // The sum of a negative zero and a positive one is positive.
    (if magnitude < 0.625 { near } else { far }).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(range: std::ops::Range<i32>, step: f32, of: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        let error = |i| {
            let x = i as f32 * step;
            let exact = exact(f64::from(x));
            (f64::from(of(x)) - exact).abs() / exact.abs().max(f64::from(f32::MIN_POSITIVE))
        };
        range.map(error).fold(0.0, f64::max)
    }

    #[test]
    fn tanh_is_accurate_and_odd() {
        let error = worst(-20_000..20_000, 1.000_37e-3, tanh, libm::tanh);
        assert!(error <= 4.0 * f64::from(f32::EPSILON), "{error}");
        assert_eq!([tanh(0.0), tanh(1e-30), tanh(50.0), tanh(-50.0)], [0.0, 1e-30, 1.0, -1.0]);
        assert!(tanh(f32::NAN).is_nan() && (-0.0f32).is_sign_negative() == tanh(-0.0).is_sign_negative());
    }
}
