//! Flat two-bit codes: a sequence of ternary values, four a byte, in planar blocks.
//!
//! A block holds 128 values in 32 bytes. Byte `j` of a block:
//!
//! ```text
//! bit   7      6 | 5      4 | 3      2 | 1      0
//!      value     | value    | value    | value
//!      j + 96    | j + 64   | j + 32   | j          of the block
//! ```
//!
//! A code is the value + 1: 0, 1, 2 for -1, 0, +1; 3 does not occur. The last `r < 128` values take
//! `s = ceil(r / 4)` bytes in the same way with `s` in place of 32; places past the last value hold code 1. So `n`
//! values take `ceil(n / 4)` bytes, and any block stands for itself. A shift and a mask give 32 values in
//! order, with no shuffle, on registers of any width.

/// Values of a block.
pub const BLOCK: usize = 128;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 32;

/// Returns the packed size of `values` values in bytes.
pub const fn packed_len(values: usize) -> usize {
    values.div_ceil(4)
}

/// Unpacks `out.len()` values.
///
/// # Panics
/// When `packed` is not [`packed_len`] long.
#[inline(always)]
pub fn unpack(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), packed_len(out.len()), "packed bytes of {} values", out.len());
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    for (out, codes) in blocks.iter_mut().zip(packed.as_chunks::<BLOCK_BYTES>().0) {
        let (planes, _) = out.as_chunks_mut::<BLOCK_BYTES>();
        for (k, plane) in planes.iter_mut().enumerate() {
            for j in 0..BLOCK_BYTES {
                plane[j] = (codes[j] >> (2 * k) & 3).wrapping_sub(1) as i8;
            }
        }
    }
    let tail = &packed[(blocks.len() * BLOCK_BYTES).min(packed.len())..];
    for (i, out) in rest.iter_mut().enumerate() {
        *out = (tail[i % tail.len()] >> (2 * (i / tail.len())) & 3) as i8 - 1;
    }
}

/// Packs values that are all -1, 0 or +1; any other gives an unspecified code of its own place only.
///
/// # Panics
/// When `out` is not [`packed_len`] long.
#[inline(always)]
pub fn pack(values: &[i8], out: &mut [u8]) {
    assert_eq!(out.len(), packed_len(values.len()), "packed bytes of {} values", values.len());
    let code = |value: i8| value.wrapping_add(1) as u8 & 3;
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let (whole, tail) = out.split_at_mut(blocks.len() * BLOCK_BYTES);
    for (values, out) in blocks.iter().zip(whole.as_chunks_mut::<BLOCK_BYTES>().0) {
        for j in 0..BLOCK_BYTES {
            let of = |k: usize| code(values[j + k * BLOCK_BYTES]);
            out[j] = of(0) | of(1) << 2 | of(2) << 4 | of(3) << 6;
        }
    }
    let stride = tail.len();
    for (j, out) in tail.iter_mut().enumerate() {
        let of = |k: usize| rest.get(j + k * stride).map_or(1, |&value| code(value));
        *out = of(0) | of(1) << 2 | of(2) << 4 | of(3) << 6;
    }
}

/// Returns the offset of the first byte that [`pack`] does not write: one with a code 3, or with a value past the last.
///
/// # Panics
/// When `packed` is not [`packed_len`] of `values` long.
pub fn find_invalid(packed: &[u8], values: usize) -> Option<usize> {
    assert_eq!(packed.len(), packed_len(values), "packed bytes of {values} values");
    super::row_quarters::find_invalid(packed).or_else(|| {
        let blocks = values / BLOCK;
        let (rest, stride) = (values - blocks * BLOCK, packed.len() - blocks * BLOCK_BYTES);
        let pad = (rest..4 * stride).find(|i| {
            let byte = packed[blocks * BLOCK_BYTES + i % stride];
            byte >> (2 * (i / stride)) & 3 != 1
        })?;
        Some(blocks * BLOCK_BYTES + pad % stride)
    })
}
