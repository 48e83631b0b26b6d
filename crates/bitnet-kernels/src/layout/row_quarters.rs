//! Two-bit codes in row quarters: the layout of Hugging Face `bitnet` checkpoints, run in place.
//!
//! A matrix `[rows, cols]` takes `R = ceil(rows / 4)` packed rows of `cols` bytes. Byte `(r, c)`:
//!
//! ```text
//! bit   7   6 | 5   4 | 3   2 | 1   0
//!      row    | row   | row   | row
//!      r + 3R | r+2R  | r + R | r        of column c
//! ```
//!
//! A code is the value + 1: 0, 1, 2 for -1, 0, +1; 3 does not occur. Rows at or past `rows` (only in the
//! last quarters, when `rows` is no multiple of 4) hold code 1 where we pack, and anything where others did. One
//! packed row is a stream of `cols` bytes that meets each activation once and feeds four outputs, so a product reads
//! the file's own bytes in order and nothing is repacked. Two bits a weight. Source: `pack_weights` in
//! `transformers/integrations/bitnet.py`.

/// Columns up to which 32-bit sums of `scaled code x int8` provably cannot overflow.
///
/// A kernel may carry a code scaled by 4, so one term is at most `2 * 4 * 128 = 2^10` in magnitude and
/// `2^20` of them stay below `2^31`.
pub const MAX_COLS: usize = 1 << 20;

/// Returns the four codes of a byte.
#[inline(always)]
pub const fn codes(byte: u8) -> [u8; 4] {
    [byte & 3, byte >> 2 & 3, byte >> 4 & 3, byte >> 6]
}

/// Returns the number of packed rows.
pub const fn quads(rows: usize) -> usize {
    rows.div_ceil(4)
}

/// Returns the packed size in bytes, or `None` when it does not fit.
pub const fn packed_len(rows: usize, cols: usize) -> Option<usize> {
    quads(rows).checked_mul(cols)
}

/// Packs the four rows that share packed row `r` into `out` (`cols` bytes).
///
/// `row(i)` is the ternary row of quarter `i`, or `None` past the last row.
pub fn pack_quad<'a>(row: impl Fn(usize) -> Option<&'a [i8]>, out: &mut [u8]) {
    out.fill(0);
    for quarter in 0..4 {
        let shift = 2 * quarter;
        match row(quarter) {
            Some(values) => {
                for (byte, &value) in out.iter_mut().zip(values) {
                    *byte |= ((value + 1) as u8 & 3) << shift;
                }
            }
            None => out.iter_mut().for_each(|byte| *byte |= 1 << shift),
        }
    }
}

/// Packs row-major ternary values.
///
/// # Panics
/// When `values` is not `rows * cols` long or `out` is not [`packed_len`] long.
pub fn pack(values: &[i8], rows: usize, cols: usize, out: &mut [u8]) {
    assert_eq!(Some(values.len()), rows.checked_mul(cols), "values of {rows} x {cols}");
    assert_eq!(Some(out.len()), packed_len(rows, cols), "packed bytes of {rows} x {cols}");
    if cols == 0 {
        return;
    }
    let quads = quads(rows);
    for (r, packed) in out.chunks_exact_mut(cols).enumerate() {
        let row = |quarter: usize| values.get((quarter * quads + r) * cols..)?.get(..cols);
        pack_quad(row, packed);
    }
}

/// Unpacks to row-major ternary values.
///
/// # Panics
/// When `packed` is not [`packed_len`] long or `out` is not `rows * cols` long.
pub fn unpack(packed: &[u8], rows: usize, cols: usize, out: &mut [i8]) {
    assert_eq!(Some(packed.len()), packed_len(rows, cols), "packed bytes of {rows} x {cols}");
    assert_eq!(Some(out.len()), rows.checked_mul(cols), "values of {rows} x {cols}");
    let quads = quads(rows);
    for (index, row) in out.chunks_exact_mut(cols.max(1)).enumerate() {
        let (quarter, r) = (index / quads, index % quads);
        for (value, &byte) in row.iter_mut().zip(&packed[r * cols..][..cols]) {
            *value = (byte >> (2 * quarter) & 3) as i8 - 1;
        }
    }
}

/// Returns the offset of the first byte that holds code 3.
pub fn find_invalid(packed: &[u8]) -> Option<usize> {
    let has_three = |byte: u8| byte & (byte >> 1) & 0x55 != 0;
    // Whole blocks without an early exit vectorise; the exact byte is looked for only when one is there.
    const BLOCK: usize = 4096;
    for (index, block) in packed.chunks(BLOCK).enumerate() {
        if block.iter().fold(0, |seen, &byte| seen | (byte & (byte >> 1) & 0x55)) != 0 {
            return block.iter().position(|&byte| has_three(byte)).map(|at| index * BLOCK + at);
        }
    }
    None
}

/// Returns row and column of the first code 3 of a matrix, in the order of packed bytes. Absent rows do not count,
/// whatever a packer left there.
///
/// # Panics
/// When `packed` is not [`packed_len`] long.
pub fn find_odd_code(packed: &[u8], rows: usize, cols: usize) -> Option<[usize; 2]> {
    assert_eq!(Some(packed.len()), packed_len(rows, cols), "packed bytes of {rows} x {cols}");
    find_odd_code_from(0, packed, rows, cols)
}

/// As [`find_odd_code`] in some packed rows of the matrix: from `first` on, as many as `lines` holds.
///
/// # Panics
/// When these are not whole packed rows of the matrix.
pub fn find_odd_code_from(first: usize, lines: &[u8], rows: usize, cols: usize) -> Option<[usize; 2]> {
    if cols == 0 {
        return None;
    }
    let quads = quads(rows);
    let end = first.checked_add(lines.len() / cols);
    assert!(lines.len().is_multiple_of(cols) && end.is_some_and(|end| end <= quads), "packed rows of {rows}");
    for (r, line) in (first..).zip(lines.chunks_exact(cols)) {
        let there =
            (0..4).filter(|quarter| quarter * quads + r < rows).fold(0, |bits, q| bits | 1u8 << (2 * q));
        let threes = |byte: u8| byte & (byte >> 1) & there;
        // A whole line without an early exit vectorises; the place is looked for only when there is one.
        if line.iter().fold(0, |seen, &byte| seen | threes(byte)) != 0 {
            let col = line.iter().position(|&byte| threes(byte) != 0)?;
            return Some([threes(line[col]).trailing_zeros() as usize / 2 * quads + r, col]);
        }
    }
    None
}

/// Counts the values -1, 0 and +1 of a matrix whose codes are valid. Absent rows do not count, whatever a
/// packer left there.
///
/// # Panics
/// When `packed` is not [`packed_len`] long.
pub fn count_codes(packed: &[u8], rows: usize, cols: usize) -> [u64; 3] {
    assert_eq!(Some(packed.len()), packed_len(rows, cols), "packed bytes of {rows} x {cols}");
    let quads = quads(rows);
    // How often each byte occurs, by the number of rows that its line holds.
    let mut histograms = [[0u64; 256]; 5];
    for (r, line) in packed.chunks_exact(cols.max(1)).enumerate() {
        let there = (0..4).take_while(|quarter| quarter * quads + r < rows).count();
        line.iter().for_each(|&byte| histograms[there][usize::from(byte)] += 1);
    }
    let mut counts = [0; 4];
    for (there, histogram) in histograms.iter().enumerate() {
        for (byte, &times) in histogram.iter().enumerate() {
            for quarter in 0..there {
                counts[byte >> (2 * quarter) & 3] += times;
            }
        }
    }
    [counts[0], counts[1], counts[2]]
}
