//! How often each value occurs in a ternary matrix, and what that is worth.

use bitnet_core::backend::{LinearWeights, TernaryWire, WeightStorage};
use bitnet_kernels::layout::row_quarters;
use bitnet_quant::packing::{self, PackingReport, TernaryPackingConfig, candidates_of_counts};
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
    /// Bytes of i8 weights over those of that packing.
    pub best_packing_ratio_i8: f64,
    /// Bytes of f16 weights over those of that packing.
    pub best_packing_ratio_f16: f64,
    /// All of it, as it is printed.
    #[serde(skip)]
    report: PackingReport,
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
        let report = PackingReport::new(best, counts, usize::try_from(size).ok()?);
        Some(TernaryStatistics {
            minus,
            zero,
            plus,
            entropy_bits: report.entropy_bits,
            best_packing: best.name(),
            best_packing_bits: report.bits_per_weight,
            best_packing_ratio_i8: report.ratio_i8,
            best_packing_ratio_f16: report.ratio_f16,
            report,
        })
    }
}

impl TernaryStatistics {
    /// Writes the shares in per cent, and what the best packing comes to.
    pub fn describe(&self) -> String {
        let [minus, zero, plus] = [self.minus, self.zero, self.plus].map(|share| share * 100.0);
        format!("-1 {minus:.1} %, 0 {zero:.1} %, +1 {plus:.1} %, best packed as {}", self.report)
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
        let thirds =
            MatrixStatistics { elements: 30, kept_bytes: 0, counts: Some([10; 3]) }.ternary().unwrap();
        assert_eq!((thirds.best_packing_ratio_i8, thirds.best_packing_ratio_f16), (5.0, 10.0));
        assert_eq!(
            thirds.describe(),
            "-1 33.3 %, 0 33.3 %, +1 33.3 %, best packed as base-3: 1.600 bits a weight (entropy 1.585 at 33.3 % zeros), \
             5.00x against i8, 10.00x against f16"
        );
        let (name, bits) = best([million, 2 * million, million]);
        assert!(name == "bitmap+sign" && (1.5..1.51).contains(&bits), "{name} {bits}");
        assert_eq!(best([million, 18 * million, million]).0, "entropy");
    }
}
