//! Casts between element types on slices, packing of small integers, and the passes that find a scale.
//!
//! Elements are given as their bytes, in the order of the machine, so that they may stand at any address, as they do
//! in a mapped file. Rounding is to nearest, ties to even. An infinity stays one, what is too large for a float type
//! becomes one; a NaN keeps its sign and the upper bits of its payload and becomes quiet. Both slices of a cast have
//! one length. With `past`, tiers may write past the caches: for outputs that no cache would hold.

/// Returns the bits of the nearest binary16.
#[inline(always)]
pub fn f16_bits(x: f32) -> u16 {
    // All three cases are computed and one is taken, so that a loop over it vectorises.
    const OVERFLOW: u32 = (127 + 16) << 23;
    const NORMAL: u32 = (127 - 14) << 23;
    // Adding this to a number below the normal ones puts its rounded fraction into the low bits of the sum.
    const ALIGN: u32 = (127 - 1) << 23;
    let sign = x.to_bits() & 0x8000_0000;
    let magnitude = x.to_bits() ^ sign;
    let nan = 0x7e00 | (magnitude >> 13 & 0x03ff);
    let large = if magnitude > 0x7f80_0000 { nan } else { 0x7c00 };
    let small = (f32::from_bits(magnitude) + f32::from_bits(ALIGN)).to_bits().wrapping_sub(ALIGN);
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0x0fff + odd) >> 13;
    let finite = if magnitude < NORMAL { small } else { normal };
    let bits = if magnitude >= OVERFLOW { large } else { finite };
    (bits | sign >> 16) as u16
}

/// Returns the bits of the nearest number of the upper half of binary32.
#[inline(always)]
pub fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let nan = bits >> 16 | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }) as u16
}

/// Returns the value of a binary16.
#[inline(always)]
pub fn f16_value(bits: u16) -> f32 {
    // Exponent and fraction move to their places; a multiplication by 2^112, exact for subnormal numbers too, corrects
    // the bias.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let finite = (f32::from_bits(rest) * REBIAS).to_bits();
    let special = if rest >= 0x1f << 23 { 0xff << 23 } else { 0 };
    let quiet = if rest > 0x1f << 23 { 1 << 22 } else { 0 };
    f32::from_bits(finite | special | quiet | sign)
}

/// Returns the value of a number of the upper half of binary32.
#[inline(always)]
pub fn bf16_value(bits: u16) -> f32 {
    let quiet = if bits & 0x7fff > 0x7f80 { 0x40 } else { 0 };
    f32::from_bits(u32::from(bits | quiet) << 16)
}

#[inline(always)]
fn each<const I: usize, const O: usize>(
    x: &[[u8; I]],
    out: &mut [[u8; O]],
    cast: impl Fn([u8; I]) -> [u8; O],
) {
    assert_eq!(x.len(), out.len(), "elements and their casts");
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = cast(x));
}

/// Rounds binary32 to binary16.
#[inline(always)]
pub fn f32_to_f16(x: &[[u8; 4]], out: &mut [[u8; 2]], _past: bool) {
    each(x, out, |x| f16_bits(f32::from_ne_bytes(x)).to_ne_bytes());
}

/// Rounds binary32 to its upper half.
#[inline(always)]
pub fn f32_to_bf16(x: &[[u8; 4]], out: &mut [[u8; 2]], _past: bool) {
    each(x, out, |x| bf16_bits(f32::from_ne_bytes(x)).to_ne_bytes());
}

/// Widens binary16, exactly.
#[inline(always)]
pub fn f16_to_f32(x: &[[u8; 2]], out: &mut [[u8; 4]], _past: bool) {
    each(x, out, |x| f16_value(u16::from_ne_bytes(x)).to_ne_bytes());
}

/// Widens the upper half of binary32, exactly.
#[inline(always)]
pub fn bf16_to_f32(x: &[[u8; 2]], out: &mut [[u8; 4]], _past: bool) {
    each(x, out, |x| bf16_value(u16::from_ne_bytes(x)).to_ne_bytes());
}

/// Rounds binary16 to the upper half of binary32.
#[inline(always)]
pub fn f16_to_bf16(x: &[[u8; 2]], out: &mut [[u8; 2]], _past: bool) {
    each(x, out, |x| bf16_bits(f16_value(u16::from_ne_bytes(x))).to_ne_bytes());
}

/// Rounds the upper half of binary32 to binary16.
#[inline(always)]
pub fn bf16_to_f16(x: &[[u8; 2]], out: &mut [[u8; 2]], _past: bool) {
    each(x, out, |x| f16_bits(bf16_value(u16::from_ne_bytes(x))).to_ne_bytes());
}

/// How floats become codes: `clamp(round_half_even(x * inverse), least, greatest)`, 0 for a NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodeRule {
    /// What values are multiplied by: the reciprocal of the scale.
    pub inverse: f32,
    /// The least code, -128 or more.
    pub least: i8,
    /// The greatest code.
    pub greatest: i8,
}

/// Rounds binary32 to codes.
#[inline(always)]
pub fn f32_to_codes(x: &[[u8; 4]], rule: CodeRule, out: &mut [i8], _past: bool) {
    // In 1.5 * 2^23 + x the integer sits in the low bits of the sum, rounded by the addition itself.
    const ROUND: f32 = 12_582_912.0;
    assert_eq!(x.len(), out.len(), "elements and their codes");
    let (least, greatest) = (f32::from(rule.least), f32::from(rule.greatest));
    for (out, &x) in out.iter_mut().zip(x) {
        let scaled = f32::from_ne_bytes(x) * rule.inverse;
        let number = if scaled.is_nan() { 0.0 } else { scaled };
        let above = if number < least { least } else { number };
        let within = if above > greatest { greatest } else { above };
        *out = (within + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8;
    }
}

/// Writes `code * scale` as binary32.
#[inline(always)]
pub fn codes_to_f32(codes: &[i8], scale: f32, out: &mut [[u8; 4]], _past: bool) {
    assert_eq!(codes.len(), out.len(), "codes and their values");
    out.iter_mut().zip(codes).for_each(|(out, &code)| *out = (f32::from(code) * scale).to_ne_bytes());
}

/// Packs codes -8..=7 two a byte, low nibble first.
///
/// # Panics
/// When `out` is not half as long as `codes`, rounded up.
#[inline(always)]
pub fn pack_i4(codes: &[i8], out: &mut [u8]) {
    assert_eq!(out.len(), codes.len().div_ceil(2), "bytes of {} codes", codes.len());
    let (pairs, rest) = codes.as_chunks::<2>();
    for (out, &[low, high]) in out.iter_mut().zip(pairs) {
        let pair = u16::from_le_bytes([low as u8, high as u8]);
        *out = (pair & 0x0f | pair >> 4 & 0xf0) as u8;
    }
    if let (Some(out), [code]) = (out.last_mut(), rest) {
        *out = *code as u8 & 0x0f;
    }
}

/// Unpacks what [`pack_i4`] packs.
///
/// # Panics
/// As [`pack_i4`].
#[inline(always)]
pub fn unpack_i4(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), out.len().div_ceil(2), "bytes of {} codes", out.len());
    let (pairs, rest) = out.as_chunks_mut::<2>();
    for (out, &byte) in pairs.iter_mut().zip(packed) {
        *out = [(byte << 4) as i8 >> 4, byte as i8 >> 4];
    }
    if let ([out], Some(&byte)) = (rest, packed.last()) {
        *out = (byte << 4) as i8 >> 4;
    }
}

/// Packs -1, 0 and +1 four a byte, as value + 1 at bits 0, 2, 4 and 6; what fills up the last byte is zeros.
///
/// # Panics
/// When `out` is not a quarter as long as `values`, rounded up.
#[inline(always)]
pub fn pack_ternary(values: &[i8], out: &mut [u8]) {
    assert_eq!(out.len(), values.len().div_ceil(4), "bytes of {} values", values.len());
    let byte = |four: &[i8; 4]| {
        let codes = u32::from_le_bytes(four.map(|value| value.wrapping_add(1) as u8));
        (codes & 0x03 | codes >> 6 & 0x0c | codes >> 12 & 0x30 | codes >> 18 & 0xc0) as u8
    };
    let (fours, rest) = values.as_chunks::<4>();
    out.iter_mut().zip(fours).for_each(|(out, four)| *out = byte(four));
    if !rest.is_empty() {
        let mut four = [0; 4];
        four[..rest.len()].copy_from_slice(rest);
        out[fours.len()] = byte(&four);
    }
}

/// Unpacks what [`pack_ternary`] packs; code 3, which it never writes, becomes 2.
///
/// # Panics
/// As [`pack_ternary`].
#[inline(always)]
pub fn unpack_ternary(packed: &[u8], out: &mut [i8]) {
    assert_eq!(packed.len(), out.len().div_ceil(4), "bytes of {} values", out.len());
    let four = |byte: u8| {
        let byte = u32::from(byte);
        let codes = byte & 0x03 | (byte & 0x0c) << 6 | (byte & 0x30) << 12 | (byte & 0xc0) << 18;
        codes.to_le_bytes().map(|code| code as i8 - 1)
    };
    let (fours, rest) = out.as_chunks_mut::<4>();
    fours.iter_mut().zip(packed).for_each(|(out, &byte)| *out = four(byte));
    if let (false, Some(&byte)) = (rest.is_empty(), packed.last()) {
        let count = rest.len();
        rest.copy_from_slice(&four(byte)[..count]);
    }
}

/// What a pass over binary32 values finds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Extent {
    /// The greatest magnitude of a finite value; 0 without one.
    pub absmax: f32,
    /// Whether no value is a NaN or an infinity.
    pub finite: bool,
}

/// Finds the greatest finite magnitude.
#[inline(always)]
pub fn extent(x: &[[u8; 4]]) -> Extent {
    const LANES: usize = 64;
    // Magnitudes order like their bits, and NaN and infinity lie above all others.
    let bits = |x: [u8; 4]| (u32::from_ne_bytes(x) & 0x7fff_ffff) as i32;
    let finite = |bits: i32| if bits < 0x7f80_0000 { bits } else { 0 };
    let (mut all, mut below) = ([0i32; LANES], [0i32; LANES]);
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for lane in 0..LANES {
            let bits = bits(x[lane]);
            all[lane] = all[lane].max(bits);
            below[lane] = below[lane].max(finite(bits));
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        all[lane] = all[lane].max(bits(x));
        below[lane] = below[lane].max(finite(bits(x)));
    }
    let greatest = |lanes: [i32; LANES]| lanes.into_iter().fold(0, i32::max);
    Extent { absmax: f32::from_bits(greatest(below) as u32), finite: greatest(all) < 0x7f80_0000 }
}

/// Returns the sum of `x * code` over eight interleaved partial sums, and that of `code * code`.
///
/// A NaN or an infinity counts as 0. Slices have one length, at most 2^16.
#[inline(always)]
pub fn moments(x: &[[u8; 4]], codes: &[i8]) -> (f64, i64) {
    let term = |x: [u8; 4], code: i8| {
        let x = f32::from_ne_bytes(x);
        let x = if x.is_finite() { x } else { 0.0 };
        (f64::from(x) * f64::from(code), i32::from(code) * i32::from(code))
    };
    let (mut products, mut squares) = ([0f64; 8], [0i32; 8]);
    let (x_whole, x_rest) = x.as_chunks::<8>();
    let (codes_whole, codes_rest) = codes.as_chunks::<8>();
    for (x, codes) in x_whole.iter().zip(codes_whole) {
        for lane in 0..8 {
            let (product, square) = term(x[lane], codes[lane]);
            products[lane] += product;
            squares[lane] += square;
        }
    }
    for (lane, (&x, &code)) in x_rest.iter().zip(codes_rest).enumerate() {
        let (product, square) = term(x, code);
        products[lane] += product;
        squares[lane] += square;
    }
    (products.iter().sum(), squares.iter().map(|&square| i64::from(square)).sum())
}
