//! Random numbers for tensors: element `i` is a function of the seed and `i` alone.

/// The increment of SplitMix64: 2^64 over the golden ratio, odd.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Mixes 64 bits so that each input bit flips each output bit with a probability near one half.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), with the constants of
/// Stafford's variant 13.
fn mix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Returns number `index` of the stream of `seed`, uniform in [0, 1) with 53 bits.
pub(super) fn uniform(seed: u64, index: u64) -> f64 {
    // Streams of neighbouring seeds would be shifted copies of each other without the first mixing.
    let state = mix64(seed.wrapping_add(GAMMA));
    let bits = mix64(state.wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Returns number `index` of the stream of `seed`, of the normal distribution of mean 0 and variance 1 (Box and
/// Muller's transformation of two uniform ones).
pub(super) fn normal(seed: u64, index: u64) -> f64 {
    let pair = index / 2 * 2;
    // 1 - u is never 0, of which there is no logarithm.
    let radius = libm::sqrt(-2.0 * libm::log(1.0 - uniform(seed, pair)));
    let angle = std::f64::consts::TAU * uniform(seed, pair + 1);
    radius * if index.is_multiple_of(2) { libm::cos(angle) } else { libm::sin(angle) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let moments = |of: fn(u64, u64) -> f64| {
            let values: Vec<f64> = (0..20_000).map(|index| of(7, index)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64;
            (mean, variance)
        };
        let (mean, variance) = moments(uniform);
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.002, "{mean} {variance}");
        let (mean, variance) = moments(normal);
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        assert_ne!(uniform(1, 1), uniform(2, 0));
    }
}
