//! What packing needs beside its layouts: a look for values that are not ternary, writing past the caches, and the
//! two passes of absmean quantisation.

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

/// Adds magnitudes to eight interleaved sums: value `i` to sum `i % 8`.
#[inline(always)]
pub fn add_magnitudes(values: &[f32], sums: &mut [f64; 8]) {
    let (eights, rest) = values.as_chunks::<8>();
    let mut lanes = *sums;
    for eight in eights {
        for lane in 0..8 {
            lanes[lane] += f64::from(eight[lane].abs());
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, value)| *lane += f64::from(value.abs()));
    *sums = lanes;
}

/// Adds to each byte the code of a weight at bit `shift`: 2 where `weight * inverse` is above one half, 0 where it is
/// below minus one half, else 1.
///
/// Half to even maps exactly one half to 0, so this is the rounded and clamped value + 1. Slices have one length.
#[inline(always)]
pub fn add_codes(weights: &[f32], inverse: f32, shift: u32, out: &mut [u8]) {
    for (byte, &weight) in out.iter_mut().zip(weights) {
        let scaled = weight * inverse;
        let code = 1 + i32::from(scaled > 0.5) - i32::from(scaled < -0.5);
        *byte |= (code as u8) << shift;
    }
}
