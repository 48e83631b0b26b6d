//! Integer codes of floats: `stored = clamp(round_half_even(x * (1 / scale)), least, greatest) + shift`, and back.
//!
//! What is stored is a code less what takes it into a signed byte, so that one text serves signed and unsigned codes of
//! eight and of four bits. Codes of four bits are packed by [`pack_i4`](super::casts::pack_i4).

/// How floats become stored codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineSteps {
    /// What one step of a code is worth.
    pub scale: f32,
    /// Least number of steps.
    pub least: i16,
    /// Greatest number of steps.
    pub greatest: i16,
    /// What is added to the steps where they are stored: the stored code of 0.
    pub shift: i16,
}

/// Least and greatest of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloatRange {
    /// Least value.
    pub min: f32,
    /// Greatest value.
    pub max: f32,
}

/// Partial results of a pass, as many as lanes fill the widest registers twice.
const LANES: usize = 32;

/// Returns the range of values; `None` of no values or where one is not finite.
#[inline(always)]
pub fn range(values: &[f32]) -> Option<FloatRange> {
    let mut least = [f32::INFINITY; LANES];
    let mut greatest = [f32::NEG_INFINITY; LANES];
    // Stays zero while values are finite: zero times infinity is no number.
    let mut odd = [0.0f32; LANES];
    let (lines, rest) = values.as_chunks::<LANES>();
    for line in lines {
        for lane in 0..LANES {
            let value = line[lane];
            least[lane] = if value < least[lane] { value } else { least[lane] };
            greatest[lane] = if value > greatest[lane] { value } else { greatest[lane] };
            odd[lane] += value * 0.0;
        }
    }
    // Halves upon halves: whole registers until the last few.
    for half in [16, 8, 4, 2, 1] {
        for lane in 0..half {
            let (low, high) = (least[lane + half], greatest[lane + half]);
            least[lane] = if low < least[lane] { low } else { least[lane] };
            greatest[lane] = if high > greatest[lane] { high } else { greatest[lane] };
            odd[lane] += odd[lane + half];
        }
    }
    let (mut min, mut max, mut odd) = (least[0], greatest[0], odd[0]);
    for &value in rest {
        min = if value < min { value } else { min };
        max = if value > max { value } else { max };
        odd += value * 0.0;
    }
    if values.is_empty() || odd != 0.0 {
        return None;
    }
    Some(FloatRange { min, max })
}

/// Writes the stored codes of values. Slices have one length; values are not NaN.
#[inline(always)]
pub fn codes(values: &[f32], steps: AffineSteps, out: &mut [i8]) {
    // In 1.5 * 2^23 + x the integer sits in the low bits of the sum, rounded half to even by the addition itself;
    // what lies far outside is clamped first, to ends that are integers.
    const ROUND: f32 = 12_582_912.0;
    let (inverse, least, greatest) = (1.0 / steps.scale, f32::from(steps.least), f32::from(steps.greatest));
    let shift = ROUND.to_bits().wrapping_sub(i32::from(steps.shift) as u32);
    for (out, &value) in out.iter_mut().zip(values) {
        let steps = value * inverse;
        let steps = if steps > greatest { greatest } else { steps };
        let steps = if steps < least { least } else { steps };
        *out = (steps + ROUND).to_bits().wrapping_sub(shift) as i8;
    }
}

/// Writes the values of stored codes. Slices have one length.
#[inline(always)]
pub fn values(codes: &[i8], steps: AffineSteps, out: &mut [f32]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = (i32::from(code) - i32::from(steps.shift)) as f32 * steps.scale;
    }
}

/// Unpacks what [`pack_i4`](super::casts::pack_i4) packs, as codes 0 to 15.
///
/// # Panics
/// When `nibbles` are not half as many, rounded up.
#[inline(always)]
pub fn split(nibbles: &[u8], out: &mut [i8]) {
    assert_eq!(nibbles.len(), out.len().div_ceil(2), "nibbles of {} codes", out.len());
    let (pairs, rest) = out.as_chunks_mut::<2>();
    for (pair, &byte) in pairs.iter_mut().zip(nibbles) {
        let both = (u16::from(byte) | u16::from(byte) << 4) & 0x0f0f;
        *pair = both.to_le_bytes().map(|code| code as i8);
    }
    if let ([out], Some(last)) = (rest, nibbles.last()) {
        *out = (last & 15) as i8;
    }
}
