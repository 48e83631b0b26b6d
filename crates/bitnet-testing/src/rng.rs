//! Seeded number sources: a small generator and sequences of prime period.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", 2014): one 64-bit counter, one mixing function, the same stream on every machine.

/// Period of the prime-period sequences; no block, tile or vector width divides it.
pub const PRIME_PERIOD: usize = 251;

/// Generates a reproducible stream of numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// Starts the stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Starts a stream that belongs to `name` under `seed`, so that content does not depend on the
    /// order in which named things are generated.
    pub fn named(seed: u64, name: &str) -> Self {
        // FNV-1a over the name, then one mixing step to part neighbouring seeds.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut rng = Self::new(seed ^ hash);
        let state = rng.next_u64();
        Self { state }
    }

    /// Draws 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Draws an integer in `0..bound`.
    ///
    /// Panics when `bound` is zero. The bias of the multiply-shift reduction is below 2^-32 for the
    /// bounds used in tests.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "an empty range has no element to draw");
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Draws an f32 uniform in `low..high`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32;
        low + (high - low) * unit
    }

    /// Draws a standard normal f32 (Box-Muller, cosine branch only).
    pub fn normal(&mut self) -> f32 {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let u = 1.0 - (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let v = (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    /// Draws `len` uniform f32 in `low..high`.
    pub fn uniform_vec(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        (0..len).map(|_| self.uniform(low, high)).collect()
    }

    /// Draws `len` normal f32 of mean 0 and standard deviation `std`.
    pub fn normal_vec(&mut self, len: usize, std: f32) -> Vec<f32> {
        (0..len).map(|_| self.normal() * std).collect()
    }

    /// Draws `len` ternary values, each zero with probability `zero_fraction`, else -1 or +1 evenly.
    pub fn ternary_vec(&mut self, len: usize, zero_fraction: f32) -> Vec<i8> {
        (0..len)
            .map(|_| {
                if self.uniform(0.0, 1.0) < zero_fraction {
                    0
                } else if self.next_u64() >> 63 == 0 {
                    -1
                } else {
                    1
                }
            })
            .collect()
    }

    /// Draws `len` token ids below `vocab`.
    pub fn token_ids(&mut self, len: usize, vocab: usize) -> Vec<u32> {
        (0..len).map(|_| self.below(vocab) as u32).collect()
    }
}

/// Returns `len` int8 values of period 251: a permutation of -125..=125, repeated.
pub fn periodic_i8(len: usize) -> Vec<i8> {
    // 97 is a generator step: coprime with the prime period, so each value occurs once a period.
    (0..len).map(|i| ((i % PRIME_PERIOD * 97 % PRIME_PERIOD) as i32 - 125) as i8).collect()
}

/// Returns `len` f32 values of period 251 in -1..=1, in steps of 1/125.
pub fn periodic_f32(len: usize) -> Vec<f32> {
    periodic_i8(len).into_iter().map(|v| f32::from(v) / 125.0).collect()
}

/// Returns `len` ternary values of period 251, about a third of each value.
pub fn periodic_ternary(len: usize) -> Vec<i8> {
    (0..len).map(|i| (i % PRIME_PERIOD * 97 % PRIME_PERIOD % 3) as i8 - 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_the_published_one() {
        // First outputs of SplitMix64 for seed 1234567, as listed with the reference C code.
        let mut rng = Rng::new(1_234_567);
        let got: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(got, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn moments_are_right() {
        let mut rng = Rng::new(1);
        let n = rng.normal_vec(20_000, 2.0);
        let mean = n.iter().sum::<f32>() / 20_000.0;
        let var = n.iter().map(|v| v * v).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.06 && (var - 4.0).abs() < 0.2, "mean {mean}, variance {var}");
        let t = rng.ternary_vec(20_000, 0.7);
        let zeros = t.iter().filter(|v| **v == 0).count() as f32 / 20_000.0;
        assert!((zeros - 0.7).abs() < 0.02, "zeros {zeros}");
        assert!(t.iter().map(|v| i32::from(*v)).sum::<i32>().abs() < 400);
    }

    #[test]
    fn prime_period_holds_and_nothing_shorter() {
        let s = periodic_i8(1000);
        assert!((0..1000 - PRIME_PERIOD).all(|i| s[i] == s[i + PRIME_PERIOD]));
        let mut one: Vec<i8> = s[..PRIME_PERIOD].to_vec();
        one.sort_unstable();
        assert!(one.iter().enumerate().all(|(i, v)| i32::from(*v) == i as i32 - 125));
        assert!(periodic_ternary(PRIME_PERIOD).iter().all(|v| (-1..=1).contains(v)));
    }

    #[test]
    fn named_streams_differ() {
        assert_ne!(Rng::named(1, "a").next_u64(), Rng::named(1, "b").next_u64());
        assert_ne!(Rng::named(1, "a").next_u64(), Rng::named(2, "a").next_u64());
    }
}
