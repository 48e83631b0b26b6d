//! Reads memory and multiplies as fast as one thread can, to measure what kernels are held against.
//!
//! [`ComputeProbe`] multiplies. Memory is read in several ways, because none is the fastest everywhere: each
//! [`ReadMethod`] returns the wrapping sum of the little-endian 64-bit words (a last partial word padded with zeros), so
//! that no read can be left out. They measure the machine: `BITNET_ISA` and the tier of the kernels do not apply.
#![allow(unsafe_code)]

mod compute;

pub use compute::{ComputeProbe, ComputeRun};

/// Bytes that one iteration reads of a stream: two cache lines.
const STRIDE: usize = 128;

/// A way of reading memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadMethod {
    /// From beginning to end; fetching is left to the hardware.
    Plain,
    /// The same, and lines are asked for ahead of use.
    Prefetched,
    /// Both halves in turn, as products read their codes: two streams for the hardware to follow.
    TwoStreams,
    /// The same, and lines are asked for ahead of use.
    TwoStreamsPrefetched,
}

impl ReadMethod {
    /// Returns the methods that differ on this machine: without AVX2 none prefetches.
    pub fn available() -> &'static [ReadMethod] {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            use ReadMethod::{Plain, Prefetched, TwoStreams, TwoStreamsPrefetched};
            return &[Plain, Prefetched, TwoStreams, TwoStreamsPrefetched];
        }
        &[ReadMethod::Plain, ReadMethod::TwoStreams]
    }

    /// Returns the name that reports print.
    pub const fn name(self) -> &'static str {
        match self {
            ReadMethod::Plain => "plain",
            ReadMethod::Prefetched => "prefetched",
            ReadMethod::TwoStreams => "two streams",
            ReadMethod::TwoStreamsPrefetched => "two streams, prefetched",
        }
    }

    /// Reads every byte of `bytes` and returns the sum of its 64-bit words.
    pub fn read(self, bytes: &[u8]) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe {
                match self {
                    ReadMethod::Plain => x86_64::sum_avx2::<false, false>(bytes),
                    ReadMethod::Prefetched => x86_64::sum_avx2::<true, false>(bytes),
                    ReadMethod::TwoStreams => x86_64::sum_avx2::<false, true>(bytes),
                    ReadMethod::TwoStreamsPrefetched => x86_64::sum_avx2::<true, true>(bytes),
                }
            };
        }
        sum_portable(bytes, matches!(self, ReadMethod::TwoStreams | ReadMethod::TwoStreamsPrefetched))
    }
}

/// Cuts chunks into two streams of one length and up to one chunk more in the second; one stream is all the second.
#[inline(always)]
fn streams(chunks: &[[u8; STRIDE]], two: bool) -> (&[[u8; STRIDE]], &[[u8; STRIDE]]) {
    chunks.split_at(if two { chunks.len() / 2 } else { 0 })
}

fn sum_portable(bytes: &[u8], two: bool) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<STRIDE>();
    let (first, second) = streams(chunks, two);
    let mut sums = [0u64; STRIDE / 8];
    let mut add = |chunk: &[u8; STRIDE]| {
        let (words, _) = chunk.as_chunks::<8>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    };
    for (first, second) in first.iter().zip(second) {
        add(first);
        add(second);
    }
    second[first.len()..].iter().for_each(&mut add);
    sums.into_iter().fold(sum_rest(rest), u64::wrapping_add)
}

fn sum_rest(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;

    use super::{STRIDE, streams, sum_rest};

    /// How far ahead of use lines are asked for, in bytes: past the end of the page, where the hardware's
    /// own prefetcher stops.
    const PREFETCH_AHEAD: usize = 4096;

    type Sums = [__m256i; STRIDE / 32];

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add<const PREFETCH: bool>(chunk: &[u8; STRIDE], sums: &mut Sums) {
        let start = chunk.as_ptr();
        if PREFETCH {
            for line in [0, 64] {
                // A prefetch past the end of the slice does not fault.
                _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(PREFETCH_AHEAD + line).cast());
            }
        }
        for (lane, sum) in sums.iter_mut().enumerate() {
            // SAFETY: lane < STRIDE / 32, so the 32 bytes lie in `chunk`; `loadu` needs no alignment.
            let words = unsafe { _mm256_loadu_si256(start.add(lane * 32).cast()) };
            *sum = _mm256_add_epi64(*sum, words);
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sum_avx2<const PREFETCH: bool, const TWO: bool>(bytes: &[u8]) -> u64 {
        let (chunks, rest) = bytes.as_chunks::<STRIDE>();
        let (first, second) = streams(chunks, TWO);
        let mut sums = [_mm256_setzero_si256(); STRIDE / 32];
        for (first, second) in first.iter().zip(second) {
            add::<PREFETCH>(first, &mut sums);
            add::<PREFETCH>(second, &mut sums);
        }
        for chunk in &second[first.len()..] {
            add::<PREFETCH>(chunk, &mut sums);
        }
        let total = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi64(a, b));
        let half = _mm_add_epi64(_mm256_castsi256_si128(total), _mm256_extracti128_si256::<1>(total));
        let words = [_mm_cvtsi128_si64(half), _mm_extract_epi64::<1>(half)];
        words.iter().fold(sum_rest(rest), |sum, &word| sum.wrapping_add(word as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(bytes: &[u8]) -> u64 {
        let places = bytes.iter().enumerate();
        places.fold(0, |sum, (i, &byte)| sum.wrapping_add(u64::from(byte) << (i % 8 * 8)))
    }

    #[test]
    fn probes_read_every_byte() {
        let bytes: Vec<u8> = (0..3 * 8192u32).map(|i| (i % 251) as u8 ^ 0x80).collect();
        let around = [0, 8, 32, 64, STRIDE, 2 * STRIDE, 4096, 4096 + STRIDE, 2 * 8192];
        for base in around {
            for length in base.max(1) - 1..=base + 1 {
                for offset in [0, 1, 9] {
                    let slice = &bytes[offset..offset + length];
                    let expected = naive(slice);
                    for two in [false, true] {
                        assert_eq!(sum_portable(slice, two), expected, "{two}, {length} at {offset}");
                    }
                    for method in ReadMethod::available() {
                        assert_eq!(method.read(slice), expected, "{method:?}, {length} at {offset}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_probe_notices_any_changed_byte() {
        let mut bytes = vec![0x5Au8; 2 * STRIDE + 13];
        let before = ReadMethod::Plain.read(&bytes);
        for index in 0..bytes.len() {
            bytes[index] ^= 1;
            for method in ReadMethod::available() {
                assert_ne!(method.read(&bytes), before, "{method:?}, byte {index}");
            }
            bytes[index] ^= 1;
        }
    }
}
