//! What values a type can hold.

use super::BitNetDType;

/// The values that elements of a type can have, as exact numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NumericRange {
    /// A floating-point type; `f64` holds its numbers exactly.
    Float {
        /// Greatest finite value; the least one is its negative.
        max: f64,
        /// Distance from 1 to the next greater value.
        epsilon: f64,
    },
    /// An integer type; any distance between neighbours is 1.
    Integer {
        /// Least value.
        min: i128,
        /// Greatest value.
        max: i128,
    },
}

impl NumericRange {
    /// Returns the least finite value; rounded to the nearest `f64` for 64-bit integers.
    pub fn min(&self) -> f64 {
        match *self {
            NumericRange::Float { max, .. } => -max,
            NumericRange::Integer { min, .. } => min as f64,
        }
    }

    /// Returns the greatest finite value; rounded to the nearest `f64` for 64-bit integers.
    pub fn max(&self) -> f64 {
        match *self {
            NumericRange::Float { max, .. } => max,
            NumericRange::Integer { max, .. } => max as f64,
        }
    }

    /// Reports whether a number lies between the least and the greatest value: exactly, also where these are none of
    /// `f64`.
    pub fn contains(&self, number: f64) -> bool {
        match *self {
            NumericRange::Float { max, .. } => number.abs() <= max,
            // The least value, and the one above the greatest, are powers of two or small.
            NumericRange::Integer { min, max } => (min as f64..(max + 1) as f64).contains(&number),
        }
    }

    /// Returns the distance from 1 to the next greater value.
    pub fn epsilon(&self) -> f64 {
        match *self {
            NumericRange::Float { epsilon, .. } => epsilon,
            NumericRange::Integer { .. } => 1.0,
        }
    }
}

/// The range of an IEEE 754 format with `exponent` bits of exponent and `mantissa` bits stored of the significand.
fn ieee(exponent: u32, mantissa: u32) -> NumericRange {
    let power = |exponent: i32| f64::from_bits(((1023 + exponent) as u64) << 52);
    let bias = (1 << (exponent - 1)) - 1;
    let epsilon = power(-(mantissa as i32));
    NumericRange::Float { max: (2.0 - epsilon) * power(bias), epsilon }
}

fn integer(bits: u32, signed: bool) -> NumericRange {
    let values = 1i128 << bits;
    let min = if signed { -values / 2 } else { 0 };
    NumericRange::Integer { min, max: min + values - 1 }
}

impl BitNetDType {
    /// Returns what values elements can have.
    pub fn range(self) -> NumericRange {
        match self {
            BitNetDType::F64 => ieee(11, 52),
            BitNetDType::F32 => ieee(8, 23),
            BitNetDType::F16 => ieee(5, 10),
            BitNetDType::BF16 => ieee(8, 7),
            BitNetDType::I64 => integer(64, true),
            BitNetDType::I32 => integer(32, true),
            BitNetDType::I16 => integer(16, true),
            BitNetDType::I8 => integer(8, true),
            BitNetDType::I4 => integer(4, true),
            BitNetDType::U64 => integer(64, false),
            BitNetDType::U32 => integer(32, false),
            BitNetDType::U16 => integer(16, false),
            BitNetDType::U8 => integer(8, false),
            BitNetDType::Bool => NumericRange::Integer { min: 0, max: 1 },
            BitNetDType::BitNet158 | BitNetDType::TernaryBase3 => NumericRange::Integer { min: -1, max: 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_ranges_are_those_of_the_language_and_of_the_formats() {
        let range = |dtype: BitNetDType| (dtype.range().max(), dtype.range().epsilon());
        assert_eq!(range(BitNetDType::F64), (f64::MAX, f64::EPSILON));
        assert_eq!(range(BitNetDType::F32), (f32::MAX.into(), f32::EPSILON.into()));
        assert_eq!(range(BitNetDType::F16), (65504.0, 9.765625e-4));
        assert_eq!(range(BitNetDType::BF16), (f32::from_bits(0x7f7f_0000).into(), 0.0078125));
        assert_eq!((BitNetDType::F16.range().min(), BitNetDType::F16.range().max()), (-65504.0, 65504.0));
    }

    #[test]
    fn integer_ranges_are_exact() {
        let range = |min: i128, max: i128| NumericRange::Integer { min, max };
        assert_eq!(BitNetDType::I64.range(), range(i64::MIN.into(), i64::MAX.into()));
        assert_eq!(BitNetDType::U64.range(), range(0, u64::MAX.into()));
        assert_eq!(BitNetDType::I32.range(), range(i32::MIN.into(), i32::MAX.into()));
        assert_eq!(BitNetDType::U16.range(), range(0, 65535));
        assert_eq!(BitNetDType::I8.range(), range(-128, 127));
        assert_eq!(BitNetDType::I4.range(), range(-8, 7));
        assert_eq!(BitNetDType::TernaryBase3.range(), BitNetDType::BitNet158.range());
        assert_eq!((BitNetDType::BitNet158.range().min(), BitNetDType::Bool.range().max()), (-1.0, 1.0));
        assert_eq!(BitNetDType::I16.range().epsilon(), 1.0);
    }

    #[test]
    fn the_first_number_beyond_a_range_is_not_of_it() {
        let below = |power: f64| power.next_down();
        let two = f64::exp2;
        for (dtype, least, beyond) in [
            (BitNetDType::I64, -two(63.0), two(63.0)),
            (BitNetDType::U64, 0.0, two(64.0)),
            (BitNetDType::I32, -two(31.0), two(31.0)),
            (BitNetDType::U8, 0.0, 256.0),
            (BitNetDType::Bool, 0.0, 2.0),
            (BitNetDType::BitNet158, -1.0, 2.0),
        ] {
            let range = dtype.range();
            assert!(range.contains(least) && range.contains(below(beyond)), "{dtype}");
            assert!(!range.contains(beyond) && !range.contains(below(least)), "{dtype}");
            assert!(!range.contains(f64::NAN) && !range.contains(f64::INFINITY), "{dtype}");
        }
        let half = BitNetDType::F16.range();
        assert!(half.contains(-65504.0) && !half.contains(65505.0));
    }
}
