//! Packed weights, and how they are cut and unpacked.

use std::ops::Range;

use bitnet_kernels::{Kernels, Pieces};

use super::codec::{self, Fault, Scratch};
use super::{CHUNK, PackError, PackingReport, Strategy, TernaryPackingStrategy, report, sparse};

/// Ternary weights packed by one strategy.
///
/// It is made by packing, or by reading bytes that were checked to the last; either way it unpacks.
#[derive(Debug, Clone, PartialEq)]
pub struct TernaryPackedWeights {
    /// Bytes of one byte a weight over the bytes taken: the ratio against i8; 1 of no weights.
    pub compression_ratio: f64,
    /// Bytes taken, the lengths of chunks included.
    pub memory_footprint: usize,
    pub(super) strategy: TernaryPackingStrategy,
    pub(super) len: usize,
    /// How many weights are -1, 0, +1.
    pub(super) counts: [u64; 3],
    pub(super) data: Vec<u8>,
    /// Where the chunks of a packing of variable size end; empty for one of fixed size.
    pub(super) ends: Vec<usize>,
}

impl TernaryPackedWeights {
    pub(super) fn assemble(
        strategy: Strategy,
        len: usize,
        counts: [u64; 3],
        data: Vec<u8>,
        ends: Vec<usize>,
    ) -> Self {
        let memory_footprint = data.len() + 4 * ends.len();
        let compression_ratio = report::ratio_i8(len as u64, memory_footprint);
        TernaryPackedWeights { compression_ratio, memory_footprint, strategy, len, counts, data, ends }
    }

    /// Returns the strategy.
    pub fn strategy(&self) -> TernaryPackingStrategy {
        self.strategy
    }

    /// Returns the number of weights.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how many weights are -1, 0 and +1.
    pub fn counts(&self) -> [u64; 3] {
        self.counts
    }

    /// Returns the packed bytes, without the lengths of chunks.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns what the packing came to.
    pub fn report(&self) -> PackingReport {
        PackingReport::new(self.strategy, self.counts, self.memory_footprint)
    }

    /// Returns the values of one chunk: what is unpacked together.
    fn chunk(&self) -> usize {
        self.strategy.unit().max(CHUNK)
    }

    /// Reads the weights chunk by chunk, in order, without holding more than one chunk of them.
    pub fn chunks<'a>(&'a self, kernels: &'a Kernels) -> Chunks<'a> {
        Chunks { packed: self, kernels, at: 0, scratch: Scratch::default() }
    }

    /// Unpacks all weights.
    pub(crate) fn unpack_into(&self, kernels: &Kernels, out: &mut [i8]) -> Result<(), PackError> {
        if out.len() != self.len {
            return Err(PackError::Destination { expected: self.len, found: out.len() });
        }
        if self.ends.is_empty() {
            codec::fixed_decode(self.strategy, kernels, &self.data, out);
            return Ok(());
        }
        let mut scratch = Scratch::default();
        for (index, out) in out.chunks_mut(self.strategy.unit()).enumerate() {
            self.decode_chunk(kernels, index, &mut scratch, out)?;
        }
        Ok(())
    }

    /// Unpacks all weights past the caches: through a buffer that stays in them.
    pub(crate) fn unpack_streamed(&self, kernels: &Kernels, out: &mut [i8]) -> Result<(), PackError> {
        if out.len() != self.len {
            return Err(PackError::Destination { expected: self.len, found: out.len() });
        }
        // What begins at no multiple of 16 bytes goes by pieces, as everything does that a tier has no kernel for.
        let flat = Some(&kernels.flat).filter(|_| out.as_ptr().align_offset(16) == 0);
        let fixed = match self.strategy {
            Strategy::BitPacked2Bit => flat.and_then(|flat| flat.stream_two_bit),
            Strategy::Base3Packed => flat.and_then(|flat| flat.stream_base3),
            _ => None,
        };
        if let Some(stream) = fixed {
            stream(&self.data, out);
            return Ok(());
        }
        if self.strategy == Strategy::CompressedSparse
            && let Some(stream) = flat.and_then(|flat| flat.stream_sparse)
        {
            // Chunks are whole lines of the cache, so that all of them begin as the first does.
            for (index, out) in out.chunks_mut(CHUNK).enumerate() {
                let (start, bytes) = self.chunk_bytes(index);
                let fault = |fault: Fault| self.corrupt(fault.moved(start));
                let taken = sparse::decode(stream, bytes, out).map_err(fault)?;
                if taken != bytes.len() {
                    return Err(fault(Fault::new(taken, "the end of the chunk")));
                }
            }
            return Ok(());
        }
        let chunks = self.chunks(kernels);
        let mut pieces = Streamed { chunks, fault: None };
        let written = (kernels.flat.stream)(&mut pieces, out);
        match pieces.fault {
            Some(fault) => Err(fault),
            None if written == self.len => Ok(()),
            None => Err(PackError::Destination { expected: self.len, found: written }),
        }
    }

    /// Unpacks the weights of a range. Reads the blocks or chunks that hold it and no others.
    pub(crate) fn unpack_range(
        &self,
        kernels: &Kernels,
        range: Range<usize>,
        out: &mut [i8],
    ) -> Result<(), PackError> {
        let Range { start, end } = range;
        if start > end || end > self.len {
            return Err(PackError::Range { start, end, len: self.len });
        }
        if out.len() != end - start {
            return Err(PackError::Destination { expected: end - start, found: out.len() });
        }
        let mut scratch = Scratch::default();
        let unit = self.strategy.unit();
        let mut at = start;
        while at < end {
            let first = at / unit * unit;
            // As many units as a chunk holds: never the whole for the sake of a row.
            let last = (first + self.chunk() / unit * unit).min(end.div_ceil(unit) * unit).min(self.len);
            let until = last.min(end);
            self.decode_part(kernels, first, last, &mut scratch)?;
            out[at - start..until - start].copy_from_slice(&scratch.values[at - first..until - first]);
            at = until;
        }
        Ok(())
    }

    /// Unpacks the values `first..last`, whole units or up to the end, into the scratch.
    fn decode_part(
        &self,
        kernels: &Kernels,
        first: usize,
        last: usize,
        scratch: &mut Scratch,
    ) -> Result<(), PackError> {
        let mut values = std::mem::take(&mut scratch.values);
        values.resize(last - first, 0);
        let done = match self.strategy.fixed_len(first).zip(self.strategy.fixed_len(last)) {
            // What ends at a unit has the bytes of its own length; the last values have what is left.
            Some((from, to)) => {
                codec::fixed_decode(self.strategy, kernels, &self.data[from..to], &mut values);
                Ok(())
            }
            None => self.decode_chunk(kernels, first / self.strategy.unit(), scratch, &mut values),
        };
        scratch.values = values;
        done
    }

    /// Unpacks a chunk of a packing of variable size.
    fn decode_chunk(
        &self,
        kernels: &Kernels,
        index: usize,
        scratch: &mut Scratch,
        out: &mut [i8],
    ) -> Result<(), PackError> {
        let (start, bytes) = self.chunk_bytes(index);
        codec::decode(self.strategy, kernels, bytes, &mut scratch.entropy, out)
            .map_err(|fault| self.corrupt(fault.moved(start)))
    }

    /// Returns where a chunk of a packing of variable size begins, and its bytes.
    fn chunk_bytes(&self, index: usize) -> (usize, &[u8]) {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        (start, &self.data[start..self.ends[index]])
    }

    pub(super) fn corrupt(&self, fault: Fault) -> PackError {
        PackError::Corrupt { strategy: self.strategy, offset: fault.offset, expected: fault.expected }
    }
}

/// Weights chunk by chunk.
#[derive(Debug)]
pub struct Chunks<'a> {
    packed: &'a TernaryPackedWeights,
    kernels: &'a Kernels,
    at: usize,
    scratch: Scratch,
}

impl Chunks<'_> {
    /// Returns the next weights; `None` past the last.
    ///
    /// # Errors
    /// None for weights that were packed or checked.
    pub fn advance(&mut self) -> Result<Option<&[i8]>, PackError> {
        let last = (self.at + self.packed.chunk()).min(self.packed.len);
        if self.at == last {
            return Ok(None);
        }
        self.packed.decode_part(self.kernels, self.at, last, &mut self.scratch)?;
        self.at = last;
        Ok(Some(&self.scratch.values))
    }
}

/// Chunks on their way past the caches.
struct Streamed<'a> {
    chunks: Chunks<'a>,
    fault: Option<PackError>,
}

impl Pieces for Streamed<'_> {
    fn next(&mut self) -> Option<&[i8]> {
        match self.chunks.advance() {
            Ok(values) => values,
            Err(fault) => {
                self.fault = Some(fault);
                None
            }
        }
    }
}
