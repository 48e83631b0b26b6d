//! Rows of six-bit codes with one step each: three quarters of the bytes of int8 ones.
//!
//! Code `q` of `-31..=31` is kept as `q + 32`. A row is cut into blocks of 256 columns, the last one filled up by codes
//! of 0; column `64 k + j` of a block has its lower four bits in half `k / 2` of byte `64 (k % 2) + j`, and its upper
//! two in bits `2 k` and `2 k + 1` of byte `128 + j`. Four vectors of codes thus come from three of bytes by masks and
//! shifts that all lanes share, whatever the width of a register.

/// Columns of a block.
pub const BLOCK: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 192;
/// The greatest code.
pub const MAX_CODE: i32 = 31;
/// What is added to a code.
pub const BIAS: i32 = 32;
/// Columns that one byte of the upper bits serves, at distances of as many.
pub(crate) const LANES: usize = 64;

/// Returns the columns of a row with its last block filled up.
pub const fn padded(cols: usize) -> usize {
    cols.next_multiple_of(BLOCK)
}

/// Returns the bytes of a row.
pub const fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(BLOCK) * BLOCK_BYTES
}

/// Packs the codes of a row.
///
/// # Panics
/// When `out` is not [`row_bytes`] long, or a code is beyond [`MAX_CODE`].
pub fn pack_row(codes: &[i8], out: &mut [u8]) {
    assert_eq!(out.len(), row_bytes(codes.len()), "a row of codes and its bytes");
    let out = out.as_chunks_mut::<BLOCK_BYTES>().0;
    for (codes, out) in codes.chunks(BLOCK).zip(out) {
        let mut biased = [BIAS as u8; BLOCK];
        for (biased, &code) in biased.iter_mut().zip(codes) {
            assert!(i32::from(code).abs() <= MAX_CODE, "code {code} in six bits");
            *biased = (i32::from(code) + BIAS) as u8;
        }
        for j in 0..LANES {
            let [a, b, c, d] = [0, 1, 2, 3].map(|k| biased[LANES * k + j]);
            out[j] = a & 15 | c << 4;
            out[LANES + j] = b & 15 | d << 4;
            out[2 * LANES + j] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
}

/// Returns the codes of a block as they are kept, each with [`BIAS`] added.
#[inline(always)]
pub fn biased_codes(block: &[u8; BLOCK_BYTES]) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    for j in 0..LANES {
        let (low, high, upper) = (block[j], block[LANES + j], block[2 * LANES + j]);
        out[j] = low & 15 | upper << 4 & 0x30;
        out[LANES + j] = high & 15 | upper << 2 & 0x30;
        out[2 * LANES + j] = low >> 4 | upper & 0x30;
        out[3 * LANES + j] = high >> 4 | upper >> 2 & 0x30;
    }
    out
}
