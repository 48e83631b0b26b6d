//! Bytes of a tensor as LZ4 blocks.
//!
//! The bytes are cut into chunks, and the elements of a chunk taken apart: first all lowest bytes, then the next ones.
//! Signs and exponents of floats, and the upper bytes of small integers, then stand together, where they repeat. A chunk
//! bounds the scratch memory, of which there is little when compression is wanted.

use bitnet_backend::{BitNetDType, BitNetError, Device, Result};
use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use crate::memory::{HybridMemoryPool, PoolBuffer};

/// Bytes of a chunk, a multiple of every element.
const CHUNK: usize = 256 << 10;
/// Chunks after which one that does not shrink is given up.
const TRIAL: usize = 4;

/// A compressed tensor.
#[derive(Debug)]
pub(super) struct Compressed {
    chunks: Vec<PoolBuffer<u8>>,
    width: usize,
    original: usize,
}

impl Compressed {
    /// Compresses bytes to `1 / min_ratio` of them or less; `None` when that cannot be had.
    pub(super) fn new(
        bytes: &[u8],
        dtype: BitNetDType,
        min_ratio: f64,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Self>> {
        let width = dtype.element_bytes().unwrap_or(1);
        let mut apart = vec![0; CHUNK.min(bytes.len())];
        let mut out = vec![0; get_maximum_output_size(apart.len())];
        let (mut chunks, mut before, mut after) = (Vec::new(), 0, 0);
        for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
            let apart = &mut apart[..chunk.len()];
            take_apart(chunk, width, apart);
            let len = compress_into(apart, &mut out)
                .map_err(|error| BitNetError::mismatch("room for a compressed chunk", "enough", error))?;
            before += chunk.len();
            after += len;
            let last = before == bytes.len();
            if (index + 1 == TRIAL || last) && (before as f64) < after as f64 * min_ratio {
                return Ok(None);
            }
            let mut kept = PoolBuffer::zeroed(pool, len, &Device::Cpu, "compressed tensor")?;
            kept.copy_from_slice(&out[..len]);
            chunks.push(kept);
        }
        Ok(Some(Compressed { chunks, width, original: bytes.len() }))
    }

    /// Returns the compressed size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    /// Returns the size in bytes before compression.
    pub(super) fn original(&self) -> usize {
        self.original
    }

    /// Writes the bytes that were compressed.
    pub(super) fn expand(&self, out: &mut [u8]) -> Result<()> {
        if out.len() != self.original {
            return Err(BitNetError::mismatch("room for a compressed tensor", self.original, out.len()));
        }
        let mut apart = vec![0; CHUNK.min(out.len())];
        for (chunk, out) in self.chunks.iter().zip(out.chunks_mut(CHUNK)) {
            let apart = &mut apart[..out.len()];
            match decompress_into(chunk, apart) {
                Ok(len) if len == out.len() => put_together(apart, self.width, out),
                Ok(len) => return Err(BitNetError::mismatch("bytes of a compressed chunk", out.len(), len)),
                Err(error) => return Err(BitNetError::mismatch("compressed chunk", "an LZ4 block", error)),
            }
        }
        Ok(())
    }
}

/// Takes elements apart: byte `b` of element `i` goes to `b * elements + i`; what is no whole element stays at the end.
fn take_apart(bytes: &[u8], width: usize, out: &mut [u8]) {
    let elements = bytes.len() / width;
    let whole = elements * width;
    for (b, plane) in out[..whole].chunks_exact_mut(elements.max(1)).enumerate() {
        for (element, byte) in bytes.chunks_exact(width).zip(plane) {
            *byte = element[b];
        }
    }
    out[whole..].copy_from_slice(&bytes[whole..]);
}

/// The inverse of [`take_apart`].
fn put_together(apart: &[u8], width: usize, out: &mut [u8]) {
    let elements = apart.len() / width;
    let whole = elements * width;
    for (b, plane) in apart[..whole].chunks_exact(elements.max(1)).enumerate() {
        for (element, byte) in out.chunks_exact_mut(width).zip(plane) {
            element[b] = *byte;
        }
    }
    out[whole..].copy_from_slice(&apart[whole..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(bytes: &[u8], dtype: BitNetDType) -> Option<usize> {
        let pool = HybridMemoryPool::new().unwrap();
        let compressed = Compressed::new(bytes, dtype, 1.0, &pool).unwrap()?;
        let mut out = vec![0xAA; bytes.len()];
        compressed.expand(&mut out).unwrap();
        assert!(out == bytes && compressed.original() == bytes.len());
        assert!(compressed.expand(&mut vec![0; bytes.len() + 1]).is_err());
        Some(compressed.bytes())
    }

    #[test]
    fn elements_come_apart_and_together() {
        let bytes: Vec<u8> = (0..11).collect();
        let (mut apart, mut back) = ([0; 11], [0; 11]);
        take_apart(&bytes, 4, &mut apart);
        assert_eq!(apart, [0, 4, 1, 5, 2, 6, 3, 7, 8, 9, 10]);
        put_together(&apart, 4, &mut back);
        assert_eq!(back[..], bytes);
    }

    #[test]
    fn chunks_of_every_size_come_back() {
        for len in [0, 1, 7, 8, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 4] {
            let bytes: Vec<u8> = (0..len).map(|i| (i / 8 % 251) as u8).collect();
            for dtype in [BitNetDType::U8, BitNetDType::F16, BitNetDType::F64, BitNetDType::TernaryBase3] {
                let after = round_trip(&bytes, dtype);
                assert!(len < 4096 || after.unwrap() < len / 2, "{len} bytes of {dtype}: {after:?}");
            }
        }
    }

    #[test]
    fn floats_of_like_size_shrink_apart_only() {
        let mut state = 1u32;
        let floats: Vec<u8> = (0..100_000)
            .flat_map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (1.0 + (state >> 9) as f32 / (1 << 23) as f32).to_ne_bytes()
            })
            .collect();
        let pool = HybridMemoryPool::new().unwrap();
        assert!(Compressed::new(&floats, BitNetDType::U8, 1.1, &pool).unwrap().is_none());
        assert!(Compressed::new(&floats, BitNetDType::F32, 1.1, &pool).unwrap().is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 64 }, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_come_back(bytes in prop::collection::vec(0u8..4, 0..3000), dtype in 0..BitNetDType::ALL.len()) {
            round_trip(&bytes, BitNetDType::ALL[dtype]);
        }
    }
}
