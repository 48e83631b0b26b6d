//! Sizes of all strategies, and the choice between them.

use bitnet_kernels::Kernels;

use super::{PackError, Strategy, TernaryPackingConfig, TernaryPackingStrategy, codec, entropy, flat_sparse};

/// The size that a strategy comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The strategy.
    pub strategy: TernaryPackingStrategy,
    /// Bytes that it takes.
    pub bytes: u64,
}

/// Returns the real size of every strategy that `config` admits, fastest to unpack first; none for weights that are not
/// ternary.
///
/// # Errors
/// A forced instruction set that is missing.
pub fn candidates(weights: &[i8], config: &TernaryPackingConfig) -> Result<Vec<Candidate>, PackError> {
    let kernels = Kernels::select()?;
    if (kernels.flat.find_odd)(weights).is_some() {
        return Ok(Vec::new());
    }
    let admitted = |strategy: &Strategy| config.entropy_coding || *strategy != Strategy::EntropyCoded;
    let sized = |strategy| Candidate { strategy, bytes: size(strategy, kernels, weights, config) as u64 };
    Ok(Strategy::ALL.into_iter().filter(admitted).map(sized).collect())
}

/// Returns the sizes of the strategies whose size follows from the counts of -1, 0, +1 alone, within 0.1 % or a few bytes,
/// fastest to unpack first.
pub fn candidates_of_counts(counts: [u64; 3]) -> Vec<Candidate> {
    let values = counts.iter().sum::<u64>();
    let of = |strategy: Strategy| {
        let bytes = match strategy {
            Strategy::CompressedSparse => {
                let (there, chunks) = (counts[0] + counts[2], values.div_ceil(super::CHUNK as u64));
                let packed = flat_sparse::packed_len(usize::try_from(values).ok()?, there as usize);
                packed as u64 + 4 * chunks + chunks / 2
            }
            Strategy::EntropyCoded => entropy::estimate(counts),
            strategy => strategy.fixed_len(usize::try_from(values).ok()?)? as u64,
        };
        Some(Candidate { strategy, bytes })
    };
    Strategy::ALL.into_iter().filter_map(of).collect()
}

/// Chooses the fastest of the candidates that are within [`size_tolerance`](TernaryPackingConfig::size_tolerance) of the
/// smallest; `None` of none. Candidates come fastest first.
pub fn best(candidates: &[Candidate], config: &TernaryPackingConfig) -> Option<Strategy> {
    let least = candidates.iter().map(|candidate| candidate.bytes).min()?;
    let limit = (least as f64 * (1.0 + config.size_tolerance.max(0.0))) as u64;
    candidates
        .iter()
        .find(|candidate| candidate.bytes <= limit.max(least))
        .map(|candidate| candidate.strategy)
}

/// Returns the bytes that a strategy takes for ternary weights.
pub(super) fn size(
    strategy: Strategy,
    kernels: &Kernels,
    weights: &[i8],
    config: &TernaryPackingConfig,
) -> usize {
    if let Some(bytes) = strategy.fixed_len(weights.len()) {
        return bytes;
    }
    let mut trial = Vec::new();
    let mut chunk = |values: &[i8]| {
        if strategy == Strategy::CompressedSparse {
            let (there, _) = (kernels.flat.count)(values);
            return 4 + flat_sparse::packed_len(values.len(), there);
        }
        trial.clear();
        codec::encode(strategy, kernels, values, config.hybrid_block, &mut trial);
        4 + trial.len()
    };
    weights.chunks(strategy.unit()).map(&mut chunk).sum()
}
