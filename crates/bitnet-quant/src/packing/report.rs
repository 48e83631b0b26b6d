//! What a packing came to, beside what is possible.

use std::fmt;

use super::TernaryPackingStrategy;

/// Size of packed weights beside the bound of their entropy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PackingReport {
    /// The strategy.
    pub strategy: TernaryPackingStrategy,
    /// Weights.
    pub weights: u64,
    /// Bytes taken.
    pub bytes: usize,
    /// Share of zeros.
    pub zero_fraction: f64,
    /// Bits a weight.
    pub bits_per_weight: f64,
    /// The least bits a weight that a code of independent weights with these shares takes.
    pub entropy_bits: f64,
    /// Bytes of i8 weights over the bytes taken; 1 of none.
    pub ratio_i8: f64,
    /// Bytes of f16 weights over the bytes taken; 2 of none.
    pub ratio_f16: f64,
}

/// Returns the entropy of weights with these counts of -1, 0, +1, in bits a weight; 0 of none.
pub fn entropy_bits(counts: [u64; 3]) -> f64 {
    let total = counts.iter().map(|&count| count as f64).sum::<f64>();
    let shares = counts.iter().map(|&count| count as f64 / total).filter(|&share| share > 0.0);
    // A sum of nothing but certainty is -0.
    shares.map(|share| -share * share.log2()).sum::<f64>().max(0.0)
}

/// Returns the ratio of a byte a weight to `bytes` bytes; 1 of nothing at all.
pub(super) fn ratio_i8(weights: u64, bytes: usize) -> f64 {
    if weights == 0 { 1.0 } else { weights as f64 / bytes.max(1) as f64 }
}

impl PackingReport {
    /// Reports weights with these counts of -1, 0, +1 that take `bytes` bytes.
    pub fn new(strategy: TernaryPackingStrategy, counts: [u64; 3], bytes: usize) -> Self {
        let weights = counts.iter().sum::<u64>();
        let (count, ratio_i8) = (weights.max(1) as f64, ratio_i8(weights, bytes));
        PackingReport {
            strategy,
            weights,
            bytes,
            zero_fraction: counts[1] as f64 / count,
            bits_per_weight: 8.0 * bytes as f64 / count,
            entropy_bits: entropy_bits(counts),
            ratio_i8,
            ratio_f16: 2.0 * ratio_i8,
        }
    }
}

impl fmt::Display for PackingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:.3} bits a weight (entropy {:.3} at {:.1} % zeros), {:.2}x against i8, {:.2}x against f16",
            self.strategy,
            self.bits_per_weight,
            self.entropy_bits,
            100.0 * self.zero_fraction,
            self.ratio_i8,
            self.ratio_f16
        )
    }
}
