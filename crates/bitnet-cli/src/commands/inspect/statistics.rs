//! How often each value occurs in a ternary matrix, and what that is worth.

use bitnet_core::backend::{LinearWeights, TernaryWire, WeightStorage};
use bitnet_kernels::layout::row_quarters;
use serde::Serialize;

/// Counts of one matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MatrixStatistics {
    /// Weights.
    pub elements: u64,
    /// Bytes as they are kept.
    pub kept_bytes: u64,
    /// Weights that are -1, 0 and +1; none for a dense matrix.
    counts: Option<[u64; 3]>,
}

/// Shares of the values of ternary weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TernaryStatistics {
    /// Share of -1.
    pub minus: f64,
    /// Share of 0.
    pub zero: f64,
    /// Share of +1.
    pub plus: f64,
    /// Entropy of these shares: the least bits per weight that any code takes.
    pub entropy_bits: f64,
}

impl MatrixStatistics {
    /// Counts a matrix.
    pub fn of(matrix: &LinearWeights) -> Self {
        let counts = match &matrix.storage {
            WeightStorage::Ternary { wire: TernaryWire::RowQuarters, bytes, .. } => {
                Some(row_quarters::count_codes(bytes, matrix.rows, matrix.cols))
            }
            _ => None,
        };
        let elements = matrix.rows as u64 * matrix.cols as u64;
        MatrixStatistics { elements, kept_bytes: matrix.stored_bytes() as u64, counts }
    }

    /// Adds matrices up.
    pub fn sum(matrices: &[&MatrixStatistics]) -> Self {
        let mut all = MatrixStatistics::default();
        for matrix in matrices {
            all.elements += matrix.elements;
            all.kept_bytes += matrix.kept_bytes;
            if let Some(counts) = matrix.counts {
                let sums = all.counts.get_or_insert_default();
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        all
    }

    /// Returns the shares of a ternary matrix.
    pub fn ternary(&self) -> Option<TernaryStatistics> {
        let counts = self.counts?;
        let total = counts.iter().sum::<u64>() as f64;
        let [minus, zero, plus] = counts.map(|count| count as f64 / total);
        let shares = [minus, zero, plus].into_iter().filter(|&share| share > 0.0);
        let bits = shares.map(|share| -share * share.log2());
        // A sum of nothing but certainty is -0.
        Some(TernaryStatistics { minus, zero, plus, entropy_bits: bits.sum::<f64>().max(0.0) })
    }
}

impl TernaryStatistics {
    /// Writes the shares in per cent.
    pub fn describe(&self) -> String {
        let [minus, zero, plus] = [self.minus, self.zero, self.plus].map(|share| share * 100.0);
        format!("-1 {minus:.1} %, 0 {zero:.1} %, +1 {plus:.1} %, entropy {:.3} bits", self.entropy_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entropy_is_that_of_the_shares() {
        let matrix = |counts| MatrixStatistics { elements: 4, kept_bytes: 1, counts: Some(counts) };
        assert_eq!(matrix([1, 2, 1]).ternary().unwrap().entropy_bits, 1.5);
        assert_eq!(matrix([0, 4, 0]).ternary().unwrap().entropy_bits, 0.0);
        let sum = MatrixStatistics::sum(&[&matrix([1, 2, 1]), &matrix([0, 4, 0])]);
        assert_eq!((sum.elements, sum.ternary().unwrap().zero), (8, 0.75));
        assert_eq!(MatrixStatistics::default().ternary(), None);
    }
}
