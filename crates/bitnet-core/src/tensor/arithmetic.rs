//! What numbers can do: the scalar meaning of element-wise operations.

use super::cast::Cast;
use super::source::Number;

/// A number type that operations compute in. Integers wrap around.
pub(crate) trait Arithmetic: Number + PartialOrd + Default + Cast<Self> {
    /// The least value, or -inf.
    const LOWEST: Self;
    /// The greatest value, or inf.
    const HIGHEST: Self;
    /// Adds.
    fn plus(self, other: Self) -> Self;
    /// Subtracts.
    fn minus(self, other: Self) -> Self;
    /// Multiplies.
    fn times(self, other: Self) -> Self;
    /// Returns the remainder with the sign of the divisor. An integer divisor is not 0.
    fn modulo(self, other: Self) -> Self;
    /// Raises to a power. An integer exponent is not negative.
    fn power(self, other: Self) -> Self;
    /// Returns the value with the other sign.
    fn negated(self) -> Self;
    /// Returns the value without its sign.
    fn magnitude(self) -> Self;
    /// Returns -1, 0 or 1.
    fn signum(self) -> Self;
    /// Reports whether the value is NaN.
    fn is_not_a_number(self) -> bool;
    /// Maps values to integers in the same order; NaN is the greatest, and both zeros are one.
    fn order(self) -> u64;

    /// Returns the lesser one, NaN if one is NaN.
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        if self < other || self.is_not_a_number() { self } else { other }
    }

    /// Returns the greater one, NaN if one is NaN.
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        if self > other || self.is_not_a_number() { self } else { other }
    }
}

macro_rules! integers {
    ($($type:ty: $signed:literal;)*) => {$(
        impl Arithmetic for $type {
            const LOWEST: Self = <$type>::MIN;
            const HIGHEST: Self = <$type>::MAX;

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            #[inline(always)]
            fn modulo(self, other: Self) -> Self {
                let rest = self.wrapping_rem(other);
                // Of unsigned numbers no sign differs.
                let zero = <$type>::default();
                if rest != zero && (rest < zero) != (other < zero) { rest.wrapping_add(other) } else { rest }
            }

            #[inline(always)]
            fn power(self, other: Self) -> Self {
                let (mut base, mut exponent, mut result) = (self, other as u64, 1 as $type);
                while exponent > 0 {
                    if exponent & 1 == 1 {
                        result = result.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    exponent >>= 1;
                }
                result
            }

            #[inline(always)]
            fn negated(self) -> Self {
                self.wrapping_neg()
            }

            #[inline(always)]
            fn magnitude(self) -> Self {
                if self < <$type>::default() { self.wrapping_neg() } else { self }
            }

            #[inline(always)]
            fn signum(self) -> Self {
                let zero = <$type>::default();
                (<$type>::from(self > zero)).wrapping_sub(<$type>::from(self < zero))
            }

            #[inline(always)]
            fn is_not_a_number(self) -> bool {
                false
            }

            #[inline(always)]
            fn order(self) -> u64 {
                (self as i64 as u64) ^ if $signed { 1 << 63 } else { 0 }
            }
        }
    )*};
}

integers! {
    i64: true;
    i32: true;
    i16: true;
    i8: true;
    u64: false;
    u32: false;
    u16: false;
    u8: false;
}

macro_rules! floats {
    ($($type:ty, $bits:ty, $power:path;)*) => {$(
        impl Arithmetic for $type {
            const LOWEST: Self = <$type>::NEG_INFINITY;
            const HIGHEST: Self = <$type>::INFINITY;

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self - other
            }

            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self * other
            }

            #[inline(always)]
            fn modulo(self, other: Self) -> Self {
                let rest = self % other;
                if rest != 0.0 && (rest < 0.0) != (other < 0.0) { rest + other } else { rest }
            }

            #[inline(always)]
            fn power(self, other: Self) -> Self {
                $power(self, other)
            }

            #[inline(always)]
            fn negated(self) -> Self {
                -self
            }

            #[inline(always)]
            fn magnitude(self) -> Self {
                self.abs()
            }

            #[inline(always)]
            fn signum(self) -> Self {
                if self > 0.0 {
                    1.0
                } else if self < 0.0 {
                    -1.0
                } else {
                    // Zero, or NaN.
                    self
                }
            }

            #[inline(always)]
            fn is_not_a_number(self) -> bool {
                self.is_nan()
            }

            #[inline(always)]
            fn order(self) -> u64 {
                if self.is_nan() {
                    return u64::MAX;
                }
                // Adding zero makes one zero of both.
                let bits = (self + 0.0).to_bits();
                let top = 1 << (<$bits>::BITS - 1);
                u64::from(if bits & top == 0 { bits | top } else { !bits })
            }
        }
    )*};
}

floats! {
    f64, u64, libm::pow;
    f32, u32, libm::powf;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_have_the_sign_of_the_divisor() {
        let of = |a: i32, b: i32| a.modulo(b);
        assert_eq!([of(7, 3), of(-7, 3), of(7, -3), of(-7, -3), of(6, -3)], [1, 2, -2, -1, 0]);
        assert_eq!((200u8.modulo(150), i8::MIN.modulo(-1)), (50, 0));
        assert_eq!((7.5f32.modulo(-2.0), (-7.5f64).modulo(2.0)), (-0.5, 0.5));
    }

    #[test]
    fn order_is_that_of_the_values() {
        let floats = [f32::NEG_INFINITY, -1.0, -1e-40, 0.0, 1e-40, 1.0, f32::INFINITY, f32::NAN];
        assert!(floats.windows(2).all(|pair| pair[0].order() < pair[1].order()));
        assert_eq!((-0.0f64).order(), 0.0f64.order());
        assert!([-128i8, -1, 0, 1, 127].windows(2).all(|pair| pair[0].order() < pair[1].order()));
        assert!([0u64, 1, 1 << 63, u64::MAX].windows(2).all(|pair| pair[0].order() < pair[1].order()));
    }

    #[test]
    fn powers_wrap_and_nan_wins() {
        assert_eq!((3u8.power(6), 2i64.power(62), (-2i8).power(7)), (217, 1 << 62, -128));
        assert!(f32::NAN.lesser(1.0).is_nan() && 1.0f32.greater(f32::NAN).is_nan());
        assert_eq!((2.0f32.greater(1.0), 2.0f32.lesser(1.0)), (2.0, 1.0));
        assert_eq!((5i8.signum(), (-5i8).signum(), 5u8.signum()), (1, -1, 1));
    }
}
