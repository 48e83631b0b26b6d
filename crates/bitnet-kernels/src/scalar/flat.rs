//! What packing needs beside its layouts: a look for values that are not ternary, their bits, writing past the caches,
//! and the two passes of absmean quantisation.

/// Returns the index of the first value that is not -1, 0 or +1.
#[inline(always)]
pub fn find_odd(values: &[i8]) -> Option<usize> {
    let odd = |value: i8| value.wrapping_add(1) as u8 > 2;
    const STEP: usize = 4096;
    for (index, part) in values.chunks(STEP).enumerate() {
        // A block without an early exit vectorises; the place is looked for only when there is one.
        if part.iter().fold(false, |seen, &value| seen | odd(value)) {
            return part.iter().position(|&value| odd(value)).map(|at| index * STEP + at);
        }
    }
    None
}

/// Returns how many of ternary values are not zero, and how many are -1.
#[inline(always)]
pub fn count(values: &[i8]) -> (usize, usize) {
    let (mut there, mut negative) = (0, 0);
    // Sums of bytes cannot overflow within 255 of them.
    for part in values.chunks(128 * 32) {
        let mut counts = [[0u8; 32]; 2];
        let (lines, rest) = part.as_chunks::<32>();
        for line in lines {
            for lane in 0..32 {
                counts[0][lane] += (line[lane] != 0) as u8;
                counts[1][lane] += (line[lane] < 0) as u8;
            }
        }
        there += counts[0].iter().map(|&c| usize::from(c)).sum::<usize>();
        negative += counts[1].iter().map(|&c| usize::from(c)).sum::<usize>();
        there += rest.iter().filter(|&&value| value != 0).count();
        negative += rest.iter().filter(|&&value| value < 0).count();
    }
    (there, negative)
}

/// A sequence that is made piece by piece.
pub trait Pieces {
    /// Returns the next values; `None` past the last.
    fn next(&mut self) -> Option<&[i8]>;
}

/// Writes the pieces to `out` one after the other, as much as it holds; tiers may write past the caches. Returns the
/// number of values written.
#[inline(always)]
pub fn stream(pieces: &mut dyn Pieces, out: &mut [i8]) -> usize {
    let mut at = 0;
    while let Some(piece) = pieces.next() {
        let part = &piece[..piece.len().min(out.len() - at)];
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    at
}

/// Adds the magnitudes of four rows of one length to eight interleaved sums each: value `i` to sum `i % 8`.
///
/// Four rows, since the additions of one are a chain: each waits for the one before it.
///
/// # Panics
/// When the rows differ in length.
#[inline(always)]
pub fn add_magnitudes(rows: [&[f32]; 4], sums: &mut [[f64; 8]; 4]) {
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len), "rows of one length");
    for (row, sums) in rows.into_iter().zip(sums) {
        let (eights, rest) = row.as_chunks::<8>();
        let mut lanes = *sums;
        for eight in eights {
            for lane in 0..8 {
                lanes[lane] += f64::from(eight[lane].abs());
            }
        }
        lanes.iter_mut().zip(rest).for_each(|(lane, value)| *lane += f64::from(value.abs()));
        *sums = lanes;
    }
}

/// Writes the codes of four rows to the bits `2 r` of a line of [row quarters](crate::layout::row_quarters): 2 where
/// `weight * inverse` is above one half, 0 where it is below minus one half, else 1.
///
/// Half to even maps exactly one half to 0, so this is the rounded and clamped value + 1.
///
/// # Panics
/// When the rows and `out` differ in length.
#[inline(always)]
pub fn pack_quarters(rows: [&[f32]; 4], inverse: f32, out: &mut [u8]) {
    let len = out.len();
    assert!(rows.iter().all(|row| row.len() == len), "rows as long as the line");
    let code = |weight: f32| {
        let scaled = weight * inverse;
        1 + i32::from(scaled > 0.5) - i32::from(scaled < -0.5)
    };
    let [a, b, c, d] = rows.map(|row| &row[..len]);
    for i in 0..len {
        out[i] = (code(a[i]) | code(b[i]) << 2 | code(c[i]) << 4 | code(d[i]) << 6) as u8;
    }
}

/// Writes what weights become: `weight * inverse` rounded half to even and clamped to -1, 0, +1. Slices have one length.
#[inline(always)]
pub fn ternary(weights: &[f32], inverse: f32, out: &mut [i8]) {
    for (out, &weight) in out.iter_mut().zip(weights) {
        let scaled = weight * inverse;
        *out = (i32::from(scaled > 0.5) - i32::from(scaled < -0.5)) as i8;
    }
}

/// Writes two bits of each of ternary values, bit `i % 64` of word `i / 64`: whether value `i` is not zero, and
/// whether it is -1. Bits past the last value are 0.
///
/// # Panics
/// When the words are not as many as the values need.
#[inline(always)]
pub fn bitmaps(values: &[i8], there: &mut [u64], negative: &mut [u64]) {
    let words = values.len().div_ceil(64);
    assert!(there.len() == words && negative.len() == words, "bitmaps of {} values", values.len());
    // Both non-zero values have bit 0 set; the product gathers one bit of each byte at the top.
    let gather = |bits: u64| (bits & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    for (part, (there, negative)) in values.chunks(64).zip(there.iter_mut().zip(negative)) {
        (*there, *negative) = (0, 0);
        for (index, eight) in part.chunks(8).enumerate() {
            let mut bytes = [0u8; 8];
            bytes.iter_mut().zip(eight).for_each(|(byte, &value)| *byte = value as u8);
            let bits = u64::from_le_bytes(bytes);
            *there |= gather(bits) << (8 * index);
            *negative |= gather(bits >> 7) << (8 * index);
        }
    }
}
