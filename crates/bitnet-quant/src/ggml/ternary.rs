//! The codes of TQ1_0, TQ2_0 and I2_S, one byte a code: the value + 1.
//!
//! ```text
//! TQ2_0  66 bytes / 256: pairs 64, d f16
//!        byte 32 h + m: pair n (low first) is element 128 h + 32 n + m
//! TQ1_0  54 bytes / 256: five digits a byte 48, four digits a byte 4, d f16
//!        bytes 0..32: digit n is element 32 n + m; 32..48: 160 + 16 n + m; 48..52: 240 + 4 n + m
//! I2_S   N K / 4 bytes, then the scale as f32 and 28 bytes of padding
//!        groups of 4 G elements in G bytes (G = 32 on x86, 16 on ARM): pair 3 - n is element n G + m
//! ```
//!
//! A TQ1_0 byte is the fraction `v / 243` as `ceil(256 v / 243)`, `v` in base 3 with the first digit in front, so
//! that a multiplication by 3 moves the next digit out at the top.

use half::f16;

use super::{GgmlType, I2sLayout};

/// Elements of a TQ block.
pub(super) const BLOCK: usize = 256;

/// Runs of TQ1_0: bytes, first byte, first element, digits a byte.
const RUNS: [(usize, usize, usize, usize); 3] = [(32, 0, 0, 5), (16, 32, 160, 5), (4, 48, 240, 4)];

/// Returns where a TQ block keeps its scale.
pub(super) fn scale_at(ty: GgmlType) -> usize {
    if ty == GgmlType::TQ1_0 { 52 } else { 64 }
}

/// Reads the scale of a TQ block.
pub(super) fn scale_of(ty: GgmlType, block: &[u8]) -> f32 {
    super::plain::half_at(block, scale_at(ty))
}

/// Writes the codes of one block (TQ) or group (I2_S) of `ty`.
pub(super) fn codes(ty: GgmlType, layout: I2sLayout, block: &[u8], out: &mut [u8]) {
    match ty {
        GgmlType::TQ1_0 => tq1_0_codes(block, out),
        GgmlType::TQ2_0 => {
            for (bytes, out) in block[..64].chunks_exact(32).zip(out.chunks_exact_mut(128)) {
                pairs(bytes, out, |n| 2 * n);
            }
        }
        _ => pairs(&block[..layout.group_bytes()], out, |n| 6 - 2 * n),
    }
}

/// Writes a block (TQ, without its scale) or group (I2_S) from codes.
pub(super) fn put_codes(ty: GgmlType, layout: I2sLayout, codes: &[u8], block: &mut [u8]) {
    match ty {
        GgmlType::TQ1_0 => put_tq1_0(codes, block),
        GgmlType::TQ2_0 => {
            for (bytes, codes) in block[..64].chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
                put_pairs(codes, bytes, |n| 2 * n);
            }
        }
        _ => put_pairs(codes, &mut block[..layout.group_bytes()], |n| 6 - 2 * n),
    }
}

/// Writes the scale of a TQ block.
pub(super) fn put_scale(ty: GgmlType, scale: f16, block: &mut [u8]) {
    block[scale_at(ty)..][..2].copy_from_slice(&scale.to_le_bytes());
}

/// Returns a block or group whose codes are all those of zero, for rows that are absent; its scale means nothing.
pub(super) fn zeros(ty: GgmlType) -> [u8; BLOCK / 4 + 2] {
    // 128 is the fraction whose every digit is 1.
    [if ty == GgmlType::TQ1_0 { 128 } else { 0x55 }; BLOCK / 4 + 2]
}

/// Writes the codes of four blocks or groups at the same place of four rows as bytes of row quarters.
pub(super) fn quarters(ty: GgmlType, layout: I2sLayout, blocks: [&[u8]; 4], out: &mut [u8]) {
    match (ty, layout) {
        (GgmlType::TQ1_0, _) => tq1_0_quarters(blocks, out),
        (GgmlType::TQ2_0, _) => {
            for (half, out) in out.chunks_exact_mut(128).enumerate() {
                let blocks = blocks.map(|block| &block[32 * half..][..32]);
                let (out, rest) = out.split_at_mut(32);
                pair_quarters::<0>(blocks, out);
                let (out, rest) = rest.split_at_mut(32);
                pair_quarters::<2>(blocks, out);
                let (out, rest) = rest.split_at_mut(32);
                pair_quarters::<4>(blocks, out);
                pair_quarters::<6>(blocks, rest);
            }
        }
        _ => {
            let bytes = layout.group_bytes();
            let (out, rest) = out.split_at_mut(bytes);
            pair_quarters::<6>(blocks, out);
            let (out, rest) = rest.split_at_mut(bytes);
            pair_quarters::<4>(blocks, out);
            let (out, rest) = rest.split_at_mut(bytes);
            pair_quarters::<2>(blocks, out);
            pair_quarters::<0>(blocks, rest);
        }
    }
}

/// Puts the pairs at bit `SHIFT` of four rows side by side.
fn pair_quarters<const SHIFT: u32>([a, b, c, d]: [&[u8]; 4], out: &mut [u8]) {
    for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *out = a >> SHIFT & 3 | (b >> SHIFT & 3) << 2 | (c >> SHIFT & 3) << 4 | (d >> SHIFT & 3) << 6;
    }
}

fn tq1_0_quarters(blocks: [&[u8]; 4], out: &mut [u8]) {
    let (long, rest) = out.split_at_mut(160);
    let (short, last) = rest.split_at_mut(80);
    // The long run in halves: the fractions of four rows then stay in registers.
    digit_quarters::<16, 5>(blocks, 0, long, 32);
    digit_quarters::<16, 5>(blocks, 16, &mut long[16..], 32);
    digit_quarters::<16, 5>(blocks, 32, short, 16);
    digit_quarters::<4, 4>(blocks, 48, last, 4);
}

/// Puts the `DIGITS` digits of `LEN` bytes of four rows side by side, each `stride` places behind the one before.
fn digit_quarters<const LEN: usize, const DIGITS: usize>(
    blocks: [&[u8]; 4],
    from: usize,
    out: &mut [u8],
    stride: usize,
) {
    // Less 128, so that 86 and 171 are -42 and 43: narrow registers compare signed bytes only, and the triple of what
    // was taken off is the same again.
    let mut fractions = [[0i8; LEN]; 4];
    for (fractions, block) in fractions.iter_mut().zip(blocks) {
        let bytes = fractions.iter_mut().zip(&block[from..][..LEN]);
        bytes.for_each(|(fraction, byte)| *fraction = (byte ^ 0x80) as i8);
    }
    for digit in 0..DIGITS {
        let mut bytes = [0u8; LEN];
        for fractions in fractions.iter_mut().rev() {
            for (byte, fraction) in bytes.iter_mut().zip(fractions) {
                let doubled = byte.wrapping_add(*byte);
                *byte = doubled.wrapping_add(doubled);
                // One at a time: each comparison is a mask to subtract.
                *byte = byte.wrapping_add(u8::from(*fraction > -43)).wrapping_add(u8::from(*fraction > 42));
                *fraction = fraction.wrapping_add(*fraction).wrapping_add(*fraction);
            }
        }
        out[digit * stride..][..LEN].copy_from_slice(&bytes);
    }
}

fn pairs(bytes: &[u8], out: &mut [u8], shift: impl Fn(usize) -> usize) {
    for (n, out) in out.chunks_exact_mut(bytes.len()).enumerate() {
        let shift = shift(n);
        out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte >> shift & 3);
    }
}

fn put_pairs(codes: &[u8], bytes: &mut [u8], shift: impl Fn(usize) -> usize) {
    bytes.fill(0);
    for (n, codes) in codes.chunks_exact(bytes.len()).enumerate() {
        let shift = shift(n);
        bytes.iter_mut().zip(codes).for_each(|(byte, code)| *byte |= (code & 3) << shift);
    }
}

fn tq1_0_codes(block: &[u8], out: &mut [u8]) {
    for (len, from, to, digits) in RUNS {
        let mut fractions = [0; 32];
        fractions[..len].copy_from_slice(&block[from..from + len]);
        for out in out[to..][..len * digits].chunks_exact_mut(len) {
            for (out, fraction) in out.iter_mut().zip(&mut fractions) {
                // `(3 f) >> 8` as two comparisons keeps the loop in bytes.
                *out = u8::from(*fraction >= 86) + u8::from(*fraction >= 171);
                *fraction = fraction.wrapping_mul(3);
            }
        }
    }
}

fn put_tq1_0(codes: &[u8], block: &mut [u8]) {
    for (len, to, from, digits) in RUNS {
        let codes = &codes[from..][..len * digits];
        for m in 0..len {
            let value = (0..5).fold(0u32, |value, n| {
                3 * value + if n < digits { u32::from(codes[n * len + m]) } else { 0 }
            });
            block[to + m] = (value * 256).div_ceil(243) as u8;
        }
    }
}
