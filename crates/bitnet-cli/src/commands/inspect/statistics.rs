//! How often each value occurs in a ternary matrix, and what that is worth.

use bitnet_core::backend::{LinearWeights, TernaryWire, WeightStorage};
use bitnet_kernels::layout::row_quarters;
use bitnet_quant::packing::{self, TernaryPackingConfig, candidates_of_counts};
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
    /// The packing to choose for weights of these shares: the fastest to unpack within one per cent of the smallest.
    pub best_packing: &'static str,
    /// Bits per weight of that packing.
    pub best_packing_bits: f64,
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
        let candidates = candidates_of_counts(counts);
        let best = packing::best(&candidates, &TernaryPackingConfig::default())?;
        let size = candidates.iter().find(|candidate| candidate.strategy == best)?.bytes;
        Some(TernaryStatistics {
            minus,
            zero,
            plus,
            entropy_bits: packing::entropy_bits(counts),
            best_packing: best.name(),
            best_packing_bits: size as f64 * 8.0 / total,
        })
    }
}

impl TernaryStatistics {
    /// Writes the shares in per cent.
    pub fn describe(&self) -> String {
        let [minus, zero, plus] = [self.minus, self.zero, self.plus].map(|share| share * 100.0);
        format!(
            "-1 {minus:.1} %, 0 {zero:.1} %, +1 {plus:.1} %, entropy {:.3} bits, best packed as {} in {:.3}",
            self.entropy_bits, self.best_packing, self.best_packing_bits
        )
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

    #[test]
    fn the_best_packing_is_that_of_the_shares() {
        let best = |counts: [u64; 3]| {
            let elements = counts.iter().sum();
            let statistics =
                MatrixStatistics { elements, kept_bytes: 0, counts: Some(counts) }.ternary().unwrap();
            (statistics.best_packing, statistics.best_packing_bits)
        };
        let million = 1_000_000;
        assert_eq!(best([million; 3]), ("base-3", 1.6));
        let (name, bits) = best([million, 2 * million, million]);
        assert!(name == "bitmap+sign" && (1.5..1.51).contains(&bits), "{name} {bits}");
        assert_eq!(best([million, 18 * million, million]).0, "entropy");
    }
}
