//! Packing as weights arrive.

use bitnet_kernels::Kernels;

use super::{
    PackError, Strategy, TernaryPackedWeights, TernaryPackingConfig, TernaryPackingStrategy, codec, hybrid,
};

/// Packs weights that arrive part by part; what it gives does not depend on where the parts were cut.
#[derive(Debug)]
pub struct TernaryPackWriter {
    kernels: &'static Kernels,
    strategy: TernaryPackingStrategy,
    hybrid_block: Option<usize>,
    /// Weights of the last, unfinished chunk.
    pending: Vec<i8>,
    len: usize,
    counts: [u64; 3],
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl TernaryPackWriter {
    /// Begins with no weights.
    ///
    /// # Errors
    /// A hybrid block that is not one of [`hybrid::BLOCKS`]; a forced instruction set that is missing.
    pub fn new(strategy: TernaryPackingStrategy, config: &TernaryPackingConfig) -> Result<Self, PackError> {
        let hybrid_block = config.hybrid_block;
        if let Some(found) = hybrid_block.filter(|block| !hybrid::BLOCKS.contains(block)) {
            return Err(PackError::Block { expected: &hybrid::BLOCKS, found });
        }
        Ok(TernaryPackWriter {
            kernels: Kernels::select()?,
            strategy,
            hybrid_block,
            pending: Vec::new(),
            len: 0,
            counts: [0; 3],
            data: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// Returns the values that are packed together.
    fn chunk(&self) -> usize {
        self.strategy.unit().max(super::CHUNK)
    }

    /// Appends weights.
    ///
    /// # Errors
    /// The first weight that is not -1, 0 or +1; nothing of this part is taken then.
    pub fn push(&mut self, weights: &[i8]) -> Result<(), PackError> {
        let flat = &self.kernels.flat;
        if let Some(at) = (flat.find_odd)(weights) {
            return Err(PackError::NotTernary { index: self.len + at, value: weights[at] });
        }
        let (there, negative) = (flat.count)(weights);
        let zeros = weights.len() - there;
        for (count, more) in self.counts.iter_mut().zip([negative, zeros, there - negative]) {
            *count += more as u64;
        }
        self.len += weights.len();
        if let Some(bytes) = self.strategy.fixed_len(weights.len()) {
            self.data.reserve(bytes);
        }
        let chunk = self.chunk();
        let mut rest = weights;
        if !self.pending.is_empty() {
            let (now, later) = rest.split_at((chunk - self.pending.len()).min(rest.len()));
            self.pending.extend_from_slice(now);
            rest = later;
            if self.pending.len() < chunk {
                return Ok(());
            }
            let pending = std::mem::take(&mut self.pending);
            self.encode(&pending);
        }
        let (whole, rest) = rest.split_at(rest.len() / chunk * chunk);
        whole.chunks(chunk).for_each(|values| self.encode(values));
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    /// Ends the sequence.
    pub fn finish(mut self) -> TernaryPackedWeights {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            self.encode(&pending);
        }
        TernaryPackedWeights::assemble(self.strategy, self.len, self.counts, self.data, self.ends)
    }

    fn encode(&mut self, values: &[i8]) {
        codec::encode(self.strategy, self.kernels, values, self.hybrid_block, &mut self.data);
        if is_variable(self.strategy) {
            self.ends.push(self.data.len());
        }
    }
}

/// Whether chunks have lengths.
pub(super) fn is_variable(strategy: Strategy) -> bool {
    strategy.fixed_len(0).is_none()
}
