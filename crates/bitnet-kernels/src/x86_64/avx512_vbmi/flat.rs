//! `avx512-vbmi-base3`: five digits of 64 bytes by table look-up; the rest is the AVX-512 tier's.

use std::arch::x86_64::*;

use crate::FlatKernels;
use crate::layout::flat_base3::{BLOCK, BLOCK_BYTES, packed_len};
use crate::x86_64::{avx2, avx512};

/// The entries of this tier.
pub const ENTRIES: FlatKernels = FlatKernels {
    // SAFETY: AVX-512 VBMI was detected before the table left the crate.
    unpack_base3: |packed, out| unsafe { unpack_base3(packed, out) },
    ..avx512::flat::ENTRIES
};

/// For each digit, the value of every byte: a look-up sees seven bits of a byte, so that four registers hold a table.
static DIGITS: [[[i8; 64]; 4]; 5] = {
    let mut table = [[[0; 64]; 4]; 5];
    let mut byte = 0;
    while byte < 256 {
        let mut fraction = (byte as u8 ^ 0x80) as i8;
        let mut digit = 0;
        while digit < 5 {
            table[digit][byte / 64][byte % 64] = (fraction > 42) as i8 - (fraction < -42) as i8;
            fraction = fraction.wrapping_mul(3);
            digit += 1;
        }
        byte += 1;
    }
    table
};

/// The contract of `layout::flat_base3::unpack`: two blocks a step.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn unpack_base3(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), packed_len(out.len()), "packed bytes of {} values", out.len());
    let (pairs, rest) = out.as_chunks_mut::<{ 2 * BLOCK }>();
    let (whole, tail) = packed.split_at(pairs.len() * 2 * BLOCK_BYTES);
    // SAFETY: each part of a table holds 64 bytes.
    let tables = DIGITS
        .each_ref()
        .map(|table| table.each_ref().map(|part| unsafe { _mm512_loadu_si512(part.as_ptr().cast()) }));
    for (out, bytes) in pairs.iter_mut().zip(whole.as_chunks::<64>().0) {
        // SAFETY: 64 bytes are read from 64.
        let bytes = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        let upper = _mm512_movepi8_mask(bytes);
        for (digit, [a, b, c, d]) in tables.iter().enumerate() {
            let low = _mm512_permutex2var_epi8(*a, bytes, *b);
            let high = _mm512_permutex2var_epi8(*c, bytes, *d);
            let values = _mm512_mask_mov_epi8(low, upper, high);
            // SAFETY: a plane of 32 values lies in either block.
            unsafe {
                let plane = out.as_mut_ptr().add(digit * BLOCK_BYTES);
                _mm256_storeu_si256(plane.cast(), _mm512_castsi512_si256(values));
                _mm256_storeu_si256(plane.add(BLOCK).cast(), _mm512_extracti64x4_epi64::<1>(values));
            }
        }
    }
    // One block at most, and what is left of the next.
    (avx2::flat::ENTRIES.unpack_base3)(tail, rest);
}
