//! The exponential function, the same bits everywhere.

/// Returns `e^x` within 2 units in the last place. Below -87.3 the result is 0 (no subnormals), above 88.37 infinity;
/// NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.37;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > HIGHEST { HIGHEST } else { clamped };
    let (e, n) = split(clamped);
    let y = e * power_of_two(n);
    let y = if x < LOWEST { 0.0 } else { y };
    let y = if x > HIGHEST { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// Returns `e^x` within 2 units in the last place over the whole range, subnormal results among it; NaN stays NaN.
#[inline(always)]
pub fn exp_whole(x: f32) -> f32 {
    // Beyond these the result is 0 or infinite whatever the rest computes.
    let clamped = if x < -110.0 { -110.0 } else { x };
    let clamped = if clamped > 100.0 { 100.0 } else { clamped };
    let (e, n) = split(clamped);
    // In two factors, as n goes beyond the exponents of normal numbers.
    let half = n >> 1;
    let y = e * power_of_two(half) * power_of_two(n - half);
    if x.is_nan() { x } else { y }
}

/// Replaces each value by `exp((value - greatest) / temperature)`, 0 for -inf, and returns their sum over eight lanes.
///
/// `greatest` is finite and not below any value, `temperature` is above 0.
#[inline(always)]
pub fn exponentiate(values: &mut [f32], greatest: f32, temperature: f32) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let add = |sum: &mut f64, value: &mut f32| {
        *value = exp((*value - greatest) / temperature);
        *sum += f64::from(*value);
    };
    let (whole, rest) = values.as_chunks_mut::<LANES>();
    for values in whole {
        for (sum, value) in sums.iter_mut().zip(values) {
            add(sum, value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        add(sum, value);
    }
    sums.iter().sum()
}

/// Returns `e^r` and `n` of `x = n ln 2 + r` with `|r| <= ln 2 / 2` (Cody and Waite's two-part ln 2), by a polynomial of
/// degree 7 in `r` (Cephes' minimax coefficients).
#[inline(always)]
fn split(x: f32) -> (f32, i32) {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, half to even.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN2_HI;
    let r = r - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = (p * r) * r + r + 1.0;
    // The low bits of `n + ROUND` hold n as an integer.
    (e, (n + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32)
}

/// Returns `2^n` of a normal number.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n as u32).wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1.000_37e-3;
            let exact = libm::exp(x as f64);
            let ulp = exact * f64::from(f32::EPSILON) / 2.0;
            worst = worst.max((exp(x) as f64 - exact).abs() / ulp);
        }
        assert!(worst <= 4.0, "{worst} half units");
    }

    #[test]
    fn exp_of_the_whole_range_is_accurate_with_its_subnormals() {
        for i in -103_000..88_680 {
            let x = i as f32 * 1.000_37e-3;
            let exact = libm::exp(f64::from(x));
            let unit = exact.max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
            assert!((f64::from(exp_whole(x)) - exact).abs() <= 2.0 * unit, "{x}");
        }
        assert_eq!([exp_whole(0.0), exp_whole(f32::NEG_INFINITY), exp_whole(-1e30)], [1.0, 0.0, 0.0]);
        assert_eq!([exp_whole(f32::INFINITY), exp_whole(89.0), exp_whole(f32::MAX)], [f32::INFINITY; 3]);
        assert!(exp_whole(88.7).is_finite() && exp_whole(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_defined_at_its_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }
}
