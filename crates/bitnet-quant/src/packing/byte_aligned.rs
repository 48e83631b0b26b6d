//! `ByteAligned`: two-bit codes on 32-byte boundaries with counts: 2.5 bits a weight.
//!
//! A block holds 512 values in 160 bytes:
//!
//! ```text
//! bytes 0..128    four blocks of the layout flat_two_bit, 32 bytes each
//! bytes 128..160  byte i: how many of values 16 i .. 16 i + 16 are not zero, 0 to 16
//! ```
//!
//! There are whole blocks only; places past the last value hold code 1 and count as zero. Every part begins at a
//! multiple of 32 bytes. The counts let a consumer pass over empty stretches, and let a reader check the codes.

use bitnet_kernels::Kernels;

use super::codec::Fault;
use super::flat_two_bit;

/// Values of a block.
pub const BLOCK: usize = 512;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 160;
/// Bytes of its codes.
const CODES: usize = 128;
/// Values of a count.
const COUNTED: usize = 16;

/// Returns the packed size of `values` values in bytes.
pub const fn packed_len(values: usize) -> usize {
    values.div_ceil(BLOCK).saturating_mul(BLOCK_BYTES)
}

/// Packs ternary values.
///
/// # Panics
/// When `out` is not [`packed_len`] long.
pub fn pack(kernels: &Kernels, values: &[i8], out: &mut [u8]) {
    assert_eq!(out.len(), packed_len(values.len()), "packed bytes of {} values", values.len());
    for (values, out) in values.chunks(BLOCK).zip(out.chunks_exact_mut(BLOCK_BYTES)) {
        let mut block = [0; BLOCK];
        block[..values.len()].copy_from_slice(values);
        let (codes, counts) = out.split_at_mut(CODES);
        (kernels.flat.pack_two_bit)(&block, codes);
        counts.copy_from_slice(&count(&block));
    }
}

/// Unpacks `out.len()` values.
///
/// # Panics
/// When `packed` is not [`packed_len`] long.
pub fn unpack(kernels: &Kernels, packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), packed_len(out.len()), "packed bytes of {} values", out.len());
    for (out, packed) in out.chunks_mut(BLOCK).zip(packed.chunks_exact(BLOCK_BYTES)) {
        let (codes, counts) = packed.split_at(CODES);
        if counts.iter().fold(0, |all, &count| all | count) == 0 {
            out.fill(0);
        } else if out.len() == BLOCK {
            (kernels.flat.unpack_two_bit)(codes, out);
        } else {
            let mut block = [0; BLOCK];
            (kernels.flat.unpack_two_bit)(codes, &mut block);
            out.copy_from_slice(&block[..out.len()]);
        }
    }
}

/// Finds the first byte that [`pack`] does not write.
pub(crate) fn find_fault(kernels: &Kernels, packed: &[u8], values: usize) -> Option<Fault> {
    packed.chunks_exact(BLOCK_BYTES).enumerate().find_map(|(index, packed)| {
        let (codes, counts) = packed.split_at(CODES);
        let fault = |offset: usize, expected| Some(Fault::new(index * BLOCK_BYTES + offset, expected));
        if let Some(at) = flat_two_bit::find_invalid(codes, BLOCK) {
            return fault(at, "codes 0, 1 or 2");
        }
        let mut block = [0; BLOCK];
        (kernels.flat.unpack_two_bit)(codes, &mut block);
        if let Some(at) = count(&block).iter().zip(counts).position(|(expected, found)| expected != found) {
            return fault(CODES + at, "the number of non-zero values");
        }
        let there = (values - index * BLOCK).min(BLOCK);
        match block[there..].iter().any(|&value| value != 0) {
            true => fault(there / 4, "zeros past the last weight"),
            false => None,
        }
    })
}

fn count(block: &[i8; BLOCK]) -> [u8; BLOCK / COUNTED] {
    let parts = block.as_chunks::<COUNTED>().0;
    std::array::from_fn(|i| parts[i].iter().map(|&value| u8::from(value != 0)).sum())
}
