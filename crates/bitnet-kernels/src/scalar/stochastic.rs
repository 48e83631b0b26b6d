//! Stochastic rounding: a number becomes one of its two neighbours, each with the probability that makes the expected
//! result the number itself.
//!
//! Random bits are a function of a seed and of an element's index, so that neither the order nor the cutting of a
//! computation shows in its result. There is one text for every tier: a float or an integer is rounded in integers of
//! 64 bits, by adding random bits below the last place and cutting there.

/// Returns the random bits of an element.
#[inline(always)]
pub fn random(seed: u64, index: u64) -> u64 {
    // Two rounds of the finaliser of SplitMix64 over a Weyl sequence that the seed shifts.
    const WEYL: u64 = 0x9e37_79b9_7f4a_7c15;
    mix(mix(seed.wrapping_add(WEYL)).wrapping_add(index.wrapping_mul(WEYL)))
}

#[inline(always)]
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Rounds to one of the neighbouring integers; infinities and NaN stay.
///
/// The probability of the upper one is the distance from the lower one, to 2^-53.
#[inline(always)]
pub fn round(x: f64, random: u64) -> f64 {
    const UNIT: f64 = 1.0 / 9_007_199_254_740_992.0;
    let below = x.floor();
    let chance = (random >> 11) as f64 * UNIT;
    if chance < x - below { below + 1.0 } else { below }
}

/// A float format that f64 is wider than.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Format {
    /// Bits of the significand, the leading one included.
    significand: i32,
    /// Exponent of the least positive number.
    least: i32,
    /// The greatest finite number.
    greatest: f64,
}

impl Format {
    /// Describes an IEEE format by the bits of its significand, the leading one included, and of its exponent.
    pub fn of_bits(bits: Option<(u32, u32)>) -> Option<Self> {
        let (significand, exponent) = bits?;
        let bias = (1 << (exponent - 1)) - 1;
        let greatest = (2.0 - power(1 - significand as i32)) * power(bias);
        Some(Format { significand: significand as i32, least: 2 - bias - significand as i32, greatest })
    }

    /// Rounds to one of the neighbouring numbers of the format; infinities and NaN stay, and what is beyond the greatest
    /// finite number becomes that one.
    ///
    /// Probabilities are exact, but for numbers below 2^-64 of the least positive one, which become zero.
    #[inline(always)]
    pub fn round(self, x: f64, random: u64) -> f64 {
        if !x.is_finite() || x == 0.0 {
            return x;
        }
        let (field, fraction) = ((x.to_bits() >> 52 & 0x7ff) as i32, x.to_bits() & ((1 << 52) - 1));
        // The number is `number * 2^exponent`.
        let number = if field == 0 { fraction } else { fraction | 1 << 52 };
        let exponent = field.max(1) - 1075;
        let magnitude = exponent + 63 - number.leading_zeros() as i32;
        let place = (magnitude + 1 - self.significand).max(self.least);
        let dropped = place - exponent;
        let rounded = match dropped {
            ..=0 => x.abs(),
            1..=53 => {
                let below = random & (u64::MAX >> (64 - dropped));
                ((number + below) >> dropped) as f64 * power(place)
            }
            54..=64 => {
                let below = random & (u64::MAX >> (64 - dropped));
                let carry = (u128::from(number) + u128::from(below)) >> dropped;
                carry as f64 * power(place)
            }
            _ => 0.0,
        };
        rounded.min(self.greatest).copysign(x)
    }
}

/// Returns 2^`exponent`, for the exponents of normal numbers.
#[inline(always)]
fn power(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn half() -> Format {
        Format::of_bits(Some((11, 5))).unwrap()
    }

    #[test]
    fn numbers_of_the_format_stay_and_others_become_neighbours() {
        for bits in 0..0x7c00u16 {
            let value = f64::from(f16::from_bits(bits));
            for random in [0, 1, 1 << 63, u64::MAX] {
                assert_eq!(half().round(value, random), value);
                assert_eq!(half().round(-value, random).to_bits(), (-value).to_bits());
            }
            if bits + 1 == 0x7c00 {
                continue;
            }
            let above = f64::from(f16::from_bits(bits + 1));
            let between = value + (above - value) * 0.25;
            assert_eq!(half().round(between, 0), value);
            assert_eq!(half().round(between, u64::MAX), above);
        }
        assert_eq!(half().round(1e9, 3), 65_504.0);
        assert_eq!(half().round(65_519.0, u64::MAX), 65_504.0);
        assert!(half().round(f64::NAN, 0).is_nan() && half().round(f64::INFINITY, 9) == f64::INFINITY);
        assert_eq!(half().round(1e-40, 0), 0.0);
    }

    #[test]
    fn the_share_of_random_bits_that_round_up_is_the_distance() {
        // The random bits below the place take each value once: 13 of an f32 in the normal range of f16.
        let value = 1.0 + 3.0 * 2f64.powi(-23);
        let up = (0..1u64 << 42).step_by(1 << 29).filter(|&bits| half().round(value, bits) > 1.0).count();
        assert_eq!(up, 3);
        let thirds = (0..999u64).filter(|&i| round(2.0 / 3.0, i * (u64::MAX / 999)) == 1.0).count();
        assert!((665..=667).contains(&thirds), "{thirds}");
        assert_eq!((round(-1.25, u64::MAX), round(-1.25, 0), round(3.0, 0)), (-2.0, -1.0, 3.0));
    }
}
