//! Five base-3 codes a byte in row fifths: 1.6 bits a weight.
//!
//! A matrix `[rows, cols]` takes `R = ceil(rows / 5)` lines of `cols` bytes. Byte `(r, c)` is
//! `c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4`, where `ci` is the code of row `r + i R` in column `c`: the value + 1,
//! so 0, 1, 2 for -1, 0, +1. Rows at or past `rows` hold code 1. Bytes are below 243.
//!
//! As in [`row_quarters`](super::row_quarters), a line is a stream that meets each activation once, here
//! feeding five outputs. Separating the codes costs more than in two bits and the stream is a fifth
//! shorter: the layout pays where many cores share a memory that cannot feed them (`docs/performance.md`).

/// Bytes that a line can hold.
pub const BYTES: usize = 243;

/// The codes of every byte; those of 243 and above do not occur and repeat 242.
const CODES: [[u8; 5]; 256] = {
    let mut table = [[0; 5]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = if byte < BYTES { byte } else { BYTES - 1 };
        let mut row = 0;
        while row < 5 {
            table[byte][row] = (rest % 3) as u8;
            rest /= 3;
            row += 1;
        }
        byte += 1;
    }
    table
};

/// Returns the five codes of a byte.
#[inline(always)]
pub const fn codes(byte: u8) -> [u8; 5] {
    CODES[byte as usize]
}

/// Writes the lower four codes of every byte, two bits each as [`row_quarters`](super::row_quarters) has them, and the
/// fifth, plain. Slices have one length; of bytes that do not occur nothing is said.
#[inline(always)]
pub fn separate(bytes: &[u8], lower: &mut [u8], fifth: &mut [u8]) {
    // Exact for bytes; the products fit 16 bits.
    let third = |n: u8| ((u16::from(n) * 171) >> 9) as u8;
    for ((&byte, lower), fifth) in bytes.iter().zip(lower).zip(fifth) {
        *fifth = u8::from(byte >= 81) + u8::from(byte >= 162);
        let abcd = byte - 81 * *fifth;
        let bcd = third(abcd);
        let cd = third(bcd);
        let d = third(cd) & 3;
        let (a, b, c) = (abcd - 3 * bcd, bcd - 3 * cd, cd - 3 * third(cd));
        *lower = a | b << 2 | c << 4 | d << 6;
    }
}

/// Returns the number of lines.
pub const fn lines(rows: usize) -> usize {
    rows.div_ceil(5)
}

/// Returns the packed size in bytes, or `None` when it does not fit.
pub const fn packed_len(rows: usize, cols: usize) -> Option<usize> {
    lines(rows).checked_mul(cols)
}

/// Packs one line of `cols` bytes; `row(i)` is the ternary row of fifth `i`, or `None` past the last row.
pub fn pack_line<'a>(row: impl Fn(usize) -> Option<&'a [i8]>, out: &mut [u8]) {
    out.fill(0);
    let mut place = 1;
    for fifth in 0..5 {
        match row(fifth) {
            Some(values) => {
                for (byte, &value) in out.iter_mut().zip(values) {
                    *byte += (value + 1) as u8 * place;
                }
            }
            None => out.iter_mut().for_each(|byte| *byte += place),
        }
        place = place.wrapping_mul(3);
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
    let lines = lines(rows);
    for (r, line) in out.chunks_exact_mut(cols).enumerate() {
        pack_line(|fifth| values.get((fifth * lines + r) * cols..)?.get(..cols), line);
    }
}

/// Unpacks to row-major ternary values.
///
/// # Panics
/// When `packed` is not [`packed_len`] long or `out` is not `rows * cols` long.
pub fn unpack(packed: &[u8], rows: usize, cols: usize, out: &mut [i8]) {
    assert_eq!(Some(packed.len()), packed_len(rows, cols), "packed bytes of {rows} x {cols}");
    assert_eq!(Some(out.len()), rows.checked_mul(cols), "values of {rows} x {cols}");
    let lines = lines(rows);
    for (index, row) in out.chunks_exact_mut(cols.max(1)).enumerate() {
        let (fifth, r) = (index / lines, index % lines);
        for (value, &byte) in row.iter_mut().zip(&packed[r * cols..][..cols]) {
            *value = codes(byte)[fifth] as i8 - 1;
        }
    }
}

/// Packs lines `first..` of a matrix that stands in row quarters: as many as `out` holds.
///
/// A worker repacks its own part; nothing is unpacked in between.
///
/// # Panics
/// When `quarters` is not the packed form of `rows` x `cols`, or `out` is not a whole number of its lines.
pub fn repack(quarters: &[u8], rows: usize, cols: usize, first: usize, out: &mut [u8]) {
    use super::row_quarters;
    assert_eq!(Some(quarters.len()), row_quarters::packed_len(rows, cols), "codes of {rows} x {cols}");
    if cols == 0 {
        return;
    }
    let end = first.checked_add(out.len() / cols);
    assert!(out.len().is_multiple_of(cols) && end.is_some_and(|end| end <= lines(rows)), "lines of {rows}");
    let (lines, quads) = (lines(rows), row_quarters::quads(rows));
    for (r, line) in out.chunks_exact_mut(cols).enumerate() {
        // An absent row holds code 1 everywhere.
        let source = |fifth: usize| {
            let row = fifth * lines + first + r;
            (row < rows).then(|| (&quarters[row % quads * cols..][..cols], 2 * (row / quads) as u32))
        };
        line.fill(0);
        let mut place = 1u8;
        for fifth in 0..5 {
            match source(fifth) {
                Some((codes, shift)) => {
                    for (byte, &code) in line.iter_mut().zip(codes) {
                        *byte = byte.wrapping_add((code >> shift & 3).wrapping_mul(place));
                    }
                }
                None => line.iter_mut().for_each(|byte| *byte += place),
            }
            place = place.wrapping_mul(3);
        }
    }
}
