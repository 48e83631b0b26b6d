//! Exact conversions between f32 and the two 16-bit float formats, round to nearest, ties to even.
//!
//! f16: 1 sign, 5 exponent (bias 15), 10 fraction bits. bf16: the upper 16 bits of an f32.

/// Widens bf16 bits to the f32 of the same value.
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds an f32 to bf16 bits, ties to even; a NaN stays a (quiet) NaN.
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x0040;
    }
    let last_kept = (bits >> 16) & 1;
    ((bits + 0x7fff + last_kept) >> 16) as u16
}

/// Widens f16 bits to the f32 of the same value.
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10) & 31;
    let fraction = u32::from(bits) & 0x3ff;
    let magnitude = match exponent {
        // Subnormal: fraction × 2^-24, exact in f32.
        0 => (fraction as f32 * (1.0 / 16_777_216.0)).to_bits(),
        31 => 0x7f80_0000 | (fraction << 13),
        _ => ((exponent + 112) << 23) | (fraction << 13),
    };
    f32::from_bits(sign | magnitude)
}

/// Rounds an f32 to f16 bits, ties to even; too large becomes infinity, a NaN stays a (quiet) NaN.
pub fn f32_to_f16(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = value.abs();
    let bits = magnitude.to_bits();
    if magnitude.is_nan() {
        return sign | 0x7e00;
    }
    // 65520 is half-way between the largest f16, 65504, and 2^16.
    if magnitude >= 65520.0 {
        return sign | 0x7c00;
    }
    // Below 2^-14 the spacing is 2^-24 everywhere; rounding up to 1024 gives the smallest normal.
    if magnitude < 1.0 / 16_384.0 {
        return sign | (magnitude * 16_777_216.0).round_ties_even() as u16;
    }
    let last_kept = (bits >> 13) & 1;
    let rounded = bits + 0x0fff + last_kept;
    sign | ((rounded - (112 << 23)) >> 13) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn every_16_bit_value_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let h = f16_to_f32(bits);
            let b = bf16_to_f32(bits);
            if h.is_nan() {
                assert!(f16_to_f32(f32_to_f16(h)).is_nan());
            } else {
                assert_eq!(f32_to_f16(h), bits);
            }
            if b.is_nan() {
                assert!(bf16_to_f32(f32_to_bf16(b)).is_nan());
            } else {
                assert_eq!(f32_to_bf16(b), bits);
            }
        }
    }

    #[test]
    fn known_values() {
        assert_eq!(f32_to_f16(1.0), 0x3c00);
        assert_eq!(f32_to_f16(-2.0), 0xc000);
        assert_eq!(f32_to_f16(65504.0), 0x7bff);
        assert_eq!(f32_to_f16(65519.996), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(5.960_464_5e-8), 1);
        assert_eq!(f32_to_f16(2.980_232_2e-8), 0, "a tie below the smallest subnormal goes to zero");
        assert_eq!(f32_to_f16(1.0 + 1.0 / 2048.0), 0x3c00, "tie to even, down");
        assert_eq!(f32_to_f16(1.0 + 3.0 / 2048.0), 0x3c02, "tie to even, up");
        assert_eq!(f32_to_bf16(1.0 + 1.0 / 256.0), 0x3f80, "tie to even, down");
        assert_eq!(f32_to_bf16(1.0 + 3.0 / 256.0), 0x3f82, "tie to even, up");
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
    }

    /// The result is at least as near as both neighbours.
    #[test]
    fn rounding_is_to_the_nearest() {
        let mut rng = Rng::new(3);
        for _ in 0..200_000 {
            // From deep in the f16 subnormals to its largest values.
            let x = rng.uniform(1.0, 1.95) * 2f32.powi(rng.below(38) as i32 - 22);
            for (bits, widen) in
                [(f32_to_f16(x), f16_to_f32 as fn(u16) -> f32), (f32_to_bf16(x), bf16_to_f32)]
            {
                let error = |b: u16| (f64::from(widen(b)) - f64::from(x)).abs();
                assert!(error(bits) <= error(bits + 1) && error(bits) <= error(bits - 1), "{x} {bits:#x}");
            }
        }
    }
}
