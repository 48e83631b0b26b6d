//! Packed weights as bytes, and the check of such bytes.
//!
//! What is read is checked to the last byte: it unpacks to as many weights as it says, all of them ternary. Packings of fixed
//! size have one form of given weights, and no other is read. Runs, hybrid blocks and the entropy codec leave choices to
//! the encoder, and whatever such choices give is read as well.
//!
//! All numbers are little-endian:
//!
//! ```text
//! 0   4  "BTP1"
//! 4   1  strategy (`TernaryPackingStrategy::tag`)      5   3  zeros
//! 8   8  weights                                       16  8  packed bytes
//! 24     u32 for each chunk of a packing of variable size: its bytes; then the packed bytes
//! ```

use bitnet_kernels::Kernels;

use super::codec;
use super::writer::is_variable;
use super::{PackError, Strategy, TernaryPackedWeights};

const MAGIC: [u8; 4] = *b"BTP1";
const HEADER: usize = 24;

impl TernaryPackedWeights {
    /// Writes the weights as bytes that [`from_bytes`](Self::from_bytes) reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.memory_footprint);
        out.extend(MAGIC);
        out.extend([self.strategy.tag(), 0, 0, 0]);
        out.extend((self.len as u64).to_le_bytes());
        out.extend((self.data.len() as u64).to_le_bytes());
        let starts = std::iter::once(&0).chain(&self.ends);
        for (start, end) in starts.zip(&self.ends) {
            out.extend(((end - start) as u32).to_le_bytes());
        }
        out.extend_from_slice(&self.data);
        out
    }

    /// Reads packed weights and checks every byte of them.
    ///
    /// # Errors
    /// Another beginning, a length that is not that of the header, bytes that stand for no weights or for others than so
    /// many; a forced instruction set that is missing.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PackError> {
        let short = |expected: u64| PackError::Length { expected, found: bytes.len() as u64 };
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(short(HEADER as u64));
        };
        let field = |offset: usize, expected, found| PackError::Header { offset, expected, found };
        let word =
            |at: usize| header[at..at + 8].iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
        if header[..4] != MAGIC {
            return Err(field(0, "BTP1 (0x31505442)", word(0) & 0xffff_ffff));
        }
        let strategy = Strategy::from_tag(header[4]);
        let strategy = strategy.ok_or(field(4, "a strategy from 0 to 7", u64::from(header[4])))?;
        if header[5..8] != [0; 3] {
            return Err(field(5, "three zeros", word(0) >> 40));
        }
        let (values, packed) = (word(8), word(16));
        let chunks = if is_variable(strategy) { values.div_ceil(strategy.unit() as u64) } else { 0 };
        let expected =
            chunks.checked_mul(4).and_then(|table| table.checked_add(packed)?.checked_add(HEADER as u64));
        let expected = expected.ok_or(short(u64::MAX))?;
        if expected != bytes.len() as u64 {
            return Err(short(expected));
        }
        let len = usize::try_from(values).map_err(|_| short(u64::MAX))?;
        // The chunks fit the bytes given, as was just checked.
        let (table, data) = rest.split_at(chunks as usize * 4);
        let ends = ends(table);
        let packed = strategy.fixed_len(len).or(ends.last().copied()).unwrap_or(0);
        if packed != data.len() {
            return Err(field(16, "the bytes of so many weights, or of all chunks", data.len() as u64));
        }
        let mut weights = TernaryPackedWeights::assemble(strategy, len, [0; 3], data.to_vec(), ends);
        weights.counts = weights.check()?;
        Ok(weights)
    }

    /// Checks all bytes and counts -1, 0 and +1.
    fn check(&self) -> Result<[u64; 3], PackError> {
        let kernels = Kernels::select()?;
        if self.ends.is_empty()
            && let Some(fault) = codec::fixed_fault(self.strategy, kernels, &self.data, self.len)
        {
            return Err(self.corrupt(fault));
        }
        let mut counts = [0; 3];
        let mut chunks = self.chunks(kernels);
        while let Some(values) = chunks.advance()? {
            let (there, negative) = (kernels.flat.count)(values);
            let zeros = values.len() - there;
            counts.iter_mut().zip([negative, zeros, there - negative]).for_each(|(sum, n)| *sum += n as u64);
        }
        Ok(counts)
    }
}

/// Adds the lengths of a table up; a sum that does not fit is the greatest number, which no data has as length.
fn ends(table: &[u8]) -> Vec<usize> {
    let lengths = table.as_chunks::<4>().0.iter().map(|&length| u32::from_le_bytes(length) as usize);
    let sums = lengths.scan(0usize, |end, length| {
        *end = end.saturating_add(length);
        Some(*end)
    });
    sums.collect()
}
