//! Conversion of one number to another type, where operands are converted on the way into an operation. Whole tensors
//! that become floats go through `memory::conversion`, which gives the same numbers.
//!
//! Floats are rounded half to even, once; integers keep their low bits; a float becomes the nearest integer towards
//! zero within the range of the type, NaN becomes 0.

use half::{bf16, f16};

use crate::memory::conversion::{narrow_odd, narrow_odd_integer};

/// A number that can be made of an `S`.
pub(crate) trait Cast<S>: Copy {
    /// Converts one number.
    fn cast(value: S) -> Self;
}

macro_rules! native {
    ($($to:ty),*; $from:tt) => {$(native!(@each $to; $from);)*};
    (@each $to:ty; ($($from:ty),*)) => {$(
        impl Cast<$from> for $to {
            #[inline(always)]
            fn cast(value: $from) -> $to {
                value as $to
            }
        }
    )*};
}

native!(f64, f32, i64, i32, i16, i8, u64, u32, u16, u8; (f64, f32, i64, i32, i16, i8, u64, u32, u16, u8));

macro_rules! from_half {
    ($half:ty; $($to:ty => $via:ident),*) => {$(
        impl Cast<$half> for $to {
            #[inline(always)]
            fn cast(value: $half) -> $to {
                value.$via() as $to
            }
        }
    )*};
}

from_half!(f16; f64 => to_f64, f32 => to_f32, i64 => to_f32, i32 => to_f32, i16 => to_f32, i8 => to_f32,
    u64 => to_f32, u32 => to_f32, u16 => to_f32, u8 => to_f32);
from_half!(bf16; f64 => to_f64, f32 => to_f32, i64 => to_f32, i32 => to_f32, i16 => to_f32, i8 => to_f32,
    u64 => to_f32, u32 => to_f32, u16 => to_f32, u8 => to_f32);

macro_rules! to_half {
    ($half:ty; $($from:ty => $odd:ident),*) => {$(
        impl Cast<$from> for $half {
            #[inline(always)]
            fn cast(value: $from) -> $half {
                <$half>::from_f32($odd(value))
            }
        }
    )*};
}

macro_rules! halves {
    ($half:ty, $other:ty) => {
        to_half!($half; i32 => odd, i16 => odd, i8 => odd, u32 => odd, u16 => odd, u8 => odd, f64 => odd,
            i64 => odd_long, u64 => odd_long);

        impl Cast<f32> for $half {
            #[inline(always)]
            fn cast(value: f32) -> $half {
                <$half>::from_f32(value)
            }
        }

        impl Cast<$half> for $half {
            #[inline(always)]
            fn cast(value: $half) -> $half {
                value
            }
        }

        impl Cast<$other> for $half {
            #[inline(always)]
            fn cast(value: $other) -> $half {
                <$half>::from_f32(value.to_f32())
            }
        }
    };
}

halves!(f16, bf16);
halves!(bf16, f16);

/// Returns a float that rounds to a half as `value` does: the conversions of f64 in `half` round twice, or leave out
/// low bits, by the processor.
fn odd(value: impl Into<f64>) -> f32 {
    narrow_odd(value.into())
}

fn odd_long(value: impl Into<i128>) -> f32 {
    narrow_odd_integer(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_integers_are_rounded_once() {
        // 2^62 + 2^54 is half way between two bf16; one more decides it.
        let half_way = (1i64 << 62) + (1 << 54);
        assert_eq!(bf16::cast(half_way).to_f64(), (1u64 << 62) as f64);
        assert_eq!(bf16::cast(half_way + 1).to_f64(), ((1u64 << 62) + (1 << 55)) as f64);
        assert_eq!(bf16::cast(-half_way - 1).to_f64(), -(((1u64 << 62) + (1 << 55)) as f64));
        assert_eq!(f16::cast(u64::MAX), f16::INFINITY);
        assert_eq!(f16::cast(2049i64).to_f32(), 2048.0);
        assert_eq!(bf16::cast(0u64).to_f32(), 0.0);
    }

    #[test]
    fn floats_become_integers_towards_zero_within_range() {
        assert_eq!(<i8 as Cast<f32>>::cast(-300.5), -128);
        assert_eq!(<u8 as Cast<f64>>::cast(2.9), 2);
        assert_eq!(<i32 as Cast<f32>>::cast(f32::NAN), 0);
        assert_eq!(<u8 as Cast<i32>>::cast(257), 1);
        // A double rounding through f32 would give 2048.
        assert_eq!(f16::cast(2_049.000_000_01_f64).to_f32(), 2050.0);
    }
}
