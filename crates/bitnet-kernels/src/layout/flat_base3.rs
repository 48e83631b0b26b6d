//! Flat base-3 digits: a sequence of ternary values, five a byte, in planar blocks: 1.6 bits a value.
//!
//! A block holds 160 values in 32 bytes. Byte `j` stands for the values `j`, `j + 32`, `j + 64`, `j + 96` and
//! `j + 128` of the block, digits (value + 1) of the number `v`, most significant first, `v <= 242`. What is
//! stored is not `v` but `q = v + floor((55 v + 1013) / 1024)`, which lies in `[256 v / 243, 256 (v + 1) / 243)`: read
//! as the fraction `q / 256` it has the same five digits, and each multiplication by 3 shifts one out at the
//! top, with no division. 13 byte values do not occur. The last `r < 160` values take `s = ceil(r / 5)` bytes in the
//! same way with `s` in place of 32; places past the last value hold digit 1. So `n` values take `ceil(n / 5)` bytes.
//!
//! Seen as a signed number around 128, digit 0 is below -42, digit 2 above 42, and a multiplication by 3 keeps the
//! offset: two comparisons and a subtraction give the value. TQ1_0 of llama.cpp stores the same fractions in
//! another order.

/// Values of a block.
pub const BLOCK: usize = 160;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 32;
/// Numbers that a byte can stand for.
pub const NUMBERS: usize = 243;

/// Returns the packed size of `values` values in bytes.
pub const fn packed_len(values: usize) -> usize {
    values.div_ceil(5)
}

/// Returns the byte of a number below 243.
#[inline(always)]
pub const fn byte_of(number: u8) -> u8 {
    (number as u16 + ((number as u16 * 55 + 1013) >> 10)) as u8
}

/// Returns the number of a byte.
#[inline(always)]
pub const fn number_of(byte: u8) -> u8 {
    ((byte as u16 * 243) >> 8) as u8
}

/// Returns the value of the leading digit and what remains.
#[inline(always)]
const fn digit(fraction: i8) -> (i8, i8) {
    ((fraction > 42) as i8 - (fraction < -42) as i8, fraction.wrapping_mul(3))
}

/// Unpacks `out.len()` values.
///
/// # Panics
/// When `packed` is not [`packed_len`] long.
#[inline(always)]
pub fn unpack(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), packed_len(out.len()), "packed bytes of {} values", out.len());
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    for (out, bytes) in blocks.iter_mut().zip(packed.as_chunks::<BLOCK_BYTES>().0) {
        let mut fractions = bytes.map(|byte| (byte ^ 0x80) as i8);
        for plane in out.as_chunks_mut::<BLOCK_BYTES>().0 {
            for j in 0..BLOCK_BYTES {
                (plane[j], fractions[j]) = digit(fractions[j]);
            }
        }
    }
    let tail = &packed[(blocks.len() * BLOCK_BYTES).min(packed.len())..];
    for (j, &byte) in tail.iter().enumerate().take(rest.len()) {
        let mut fraction = (byte ^ 0x80) as i8;
        for out in rest.iter_mut().skip(j).step_by(tail.len()) {
            (*out, fraction) = digit(fraction);
        }
    }
}

/// Packs values that are all -1, 0 or +1; any other gives unspecified digits in its own byte only.
///
/// # Panics
/// When `out` is not [`packed_len`] long.
#[inline(always)]
pub fn pack(values: &[i8], out: &mut [u8]) {
    assert_eq!(out.len(), packed_len(values.len()), "packed bytes of {} values", values.len());
    let join = |number: u8, value: i8| number.wrapping_mul(3).wrapping_add(value.wrapping_add(1) as u8);
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let (whole, tail) = out.split_at_mut(blocks.len() * BLOCK_BYTES);
    for (values, out) in blocks.iter().zip(whole.as_chunks_mut::<BLOCK_BYTES>().0) {
        for j in 0..BLOCK_BYTES {
            let number = (0..5).fold(0, |number, k| join(number, values[j + k * BLOCK_BYTES]));
            out[j] = byte_of(number);
        }
    }
    let stride = tail.len();
    for (j, out) in tail.iter_mut().enumerate() {
        let value = |k: usize| rest.get(j + k * stride).copied().unwrap_or(0);
        *out = byte_of((0..5).fold(0, |number, k| join(number, value(k))));
    }
}

/// Returns the offset of the first byte that [`pack`] does not write: no image of a number, or a value past the last.
///
/// # Panics
/// When `packed` is not [`packed_len`] of `values` long.
pub fn find_invalid(packed: &[u8], values: usize) -> Option<usize> {
    assert_eq!(packed.len(), packed_len(values), "packed bytes of {values} values");
    let odd = |byte: u8| byte_of(number_of(byte)) != byte;
    const STEP: usize = 4096;
    for (index, part) in packed.chunks(STEP).enumerate() {
        // A block without an early exit vectorises; the place is looked for only when there is one.
        if part.iter().fold(false, |seen, &byte| seen | odd(byte)) {
            return part.iter().position(|&byte| odd(byte)).map(|at| index * STEP + at);
        }
    }
    let blocks = values / BLOCK;
    let (rest, first) = (values - blocks * BLOCK, blocks * BLOCK_BYTES);
    let stride = packed.len() - first;
    let place = |i: usize| number_of(packed[first + i % stride]) / [81, 27, 9, 3, 1][i / stride] % 3;
    (rest..5 * stride).find(|&i| place(i) != 1).map(|i| first + i % stride)
}
