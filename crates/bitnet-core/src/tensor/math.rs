//! Functions of one real number, in f32 and f64.
//!
//! The f32 exponential and what is made of it are polynomials without branches or tables, which the compiler turns
//! into vectors; the others come from `libm`, so that results do not depend on the platform's library.

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
    f32, exp, libm::logf, libm::log1pf, tanh, libm::erfcf, libm::erff, libm::sinf, libm::cosf;
}

/// Returns `e^x` within 2 units in the last place, over the whole range with its subnormals.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (Cody and Waite's two-part ln 2), a polynomial of degree 7 in `r` (Cephes'
/// minimax coefficients), times `2^n` in two factors, as `n` goes beyond the exponents of normal numbers.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, half to even.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Beyond these the result is 0 or infinite whatever the rest computes.
    let clamped = if x < -110.0 { -110.0 } else { x };
    let clamped = if clamped > 100.0 { 100.0 } else { clamped };
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - n * LN2_HI;
    let r = r - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = (p * r) * r + r + 1.0;
    // The low bits of `n + ROUND` hold n as an integer, of which a half is the greater factor.
    let n = (n + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let y = e * power(half) * power(n - half);
    if x.is_nan() { x } else { y }
}

/// Returns the hyperbolic tangent within 4 units in the last place.
///
/// Near zero a polynomial (Cephes' minimax coefficients), as the quotient of exponentials would cancel.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let e = exp(-2.0 * magnitude);
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
    fn exp_is_accurate_over_the_whole_range() {
        let error = worst(-103_000..88_680, 1.000_37e-3, exp, libm::exp);
        assert!(error <= 2.0 * f64::from(f32::EPSILON), "{error}");
        assert_eq!([exp(0.0), exp(f32::NEG_INFINITY), exp(-1e30)], [1.0, 0.0, 0.0]);
        assert_eq!([exp(f32::INFINITY), exp(89.0), exp(f32::MAX)], [f32::INFINITY; 3]);
        assert!(exp(88.7).is_finite() && exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_accurate_and_odd() {
        let error = worst(-20_000..20_000, 1.000_37e-3, tanh, libm::tanh);
        assert!(error <= 4.0 * f64::from(f32::EPSILON), "{error}");
        assert_eq!([tanh(0.0), tanh(1e-30), tanh(50.0), tanh(-50.0)], [0.0, 1e-30, 1.0, -1.0]);
        assert!(tanh(f32::NAN).is_nan() && (-0.0f32).is_sign_negative() == tanh(-0.0).is_sign_negative());
    }
}
