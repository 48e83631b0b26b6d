//! The elements of base-3 tensors: five ternary values a byte.
//!
//! ```text
//! byte = (v0 + 1) + 3 (v1 + 1) + 9 (v2 + 1) + 27 (v3 + 1) + 81 (v4 + 1)        values 5 i .. 5 i + 5 in byte i
//! ```
//!
//! Bytes above 242 do not occur, and places past the last value hold digit 1, the value 0. Unlike the planar base-3
//! packing of weights, the place of a value does not depend on the length of the sequence, so that a tensor may begin
//! at any whole byte of another.

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::packed::check;

/// Values of a byte.
pub const VALUES: usize = 5;
/// Values that are packed at a time: eight of them are read at once.
const RUN: usize = 40;
/// The greatest byte: five digits 2.
pub(super) const GREATEST: u8 = 242;

/// The digits of every byte as values; those of bytes above 242 are not used.
const DIGITS: [[i8; VALUES]; 256] = {
    let mut table = [[0; VALUES]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut rest, mut place) = (byte, 0);
        while place < VALUES {
            table[byte][place] = (rest % 3) as i8 - 1;
            rest /= 3;
            place += 1;
        }
        byte += 1;
    }
    table
};

/// Packs values, five a byte.
///
/// # Errors
/// `Mismatch` for a value that is not -1, 0 or +1, and when `out` does not have the bytes of the values.
pub fn pack(values: &[i8], out: &mut [u8]) -> Result<()> {
    check_len(values.len(), out.len())?;
    // Whole blocks without an early exit vectorise; the place is looked for only when there is one.
    let odd = |value: i8| value.wrapping_add(1) as u8 > 2;
    if values.iter().fold(false, |seen, &value| seen | odd(value)) {
        let at = values.iter().position(|&value| odd(value)).unwrap_or(0);
        return Err(BitNetError::mismatch(format!("value {at}"), "-1, 0 or +1", values[at]));
    }
    let (runs, rest) = values.as_chunks::<RUN>();
    let (outs, last) = out.split_at_mut(RUN / VALUES * runs.len());
    for (values, out) in runs.iter().zip(outs.as_chunks_mut::<{ RUN / VALUES }>().0) {
        // Eight values at each fifth; those past a five do not count.
        let eight = |first: usize| std::array::from_fn(|place| values[first + place]);
        for (index, out) in out[..RUN / VALUES - 1].iter_mut().enumerate() {
            *out = byte(digits(eight(VALUES * index)));
        }
        out[RUN / VALUES - 1] = byte(digits(eight(RUN - 8)) >> (8 * (8 - VALUES)));
    }
    for (values, out) in rest.chunks(VALUES).zip(last) {
        let mut eight = [0; 8];
        eight[..values.len()].copy_from_slice(values);
        *out = byte(digits(eight));
    }
    Ok(())
}

/// Returns eight values plus one in a byte each, the first one in the lowest.
#[inline(always)]
fn digits(values: [i8; 8]) -> u64 {
    const SIGNS: u64 = 0x8080_8080_8080_8080;
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Without the signs nothing is carried into the next byte.
    let values = u64::from_le_bytes(values.map(|value| value as u8));
    ((values & !SIGNS) + ONES) ^ (values & SIGNS)
}

/// Returns the byte of the five lowest digits.
#[inline(always)]
fn byte(digits: u64) -> u8 {
    // Digit i stands in byte i and meets the power 3^i at byte 4 - i, so that all meet in byte 4, below which no sum
    // reaches 256.
    const POWERS: u64 = 1 << 32 | 3 << 24 | 9 << 16 | 27 << 8 | 81;
    (digits.wrapping_mul(POWERS) >> 32) as u8
}

/// Unpacks `out.len()` values. Digits past the last value do not count.
///
/// # Errors
/// `Mismatch` when `packed` does not have the bytes of the values, or at the first byte above 242.
pub fn unpack(packed: &[u8], out: &mut [i8]) -> Result<()> {
    check_len(out.len(), packed.len())?;
    check(BitNetDType::TernaryBase3, packed, 0)?;
    let (fives, rest) = out.as_chunks_mut::<VALUES>();
    for (values, &byte) in fives.iter_mut().zip(packed) {
        *values = DIGITS[usize::from(byte)];
    }
    if let (Some(&byte), false) = (packed.last(), rest.is_empty()) {
        rest.copy_from_slice(&DIGITS[usize::from(byte)][..rest.len()]);
    }
    Ok(())
}

fn check_len(values: usize, bytes: usize) -> Result<()> {
    match BitNetDType::TernaryBase3.size_bytes(values) {
        Some(expected) if expected == bytes => Ok(()),
        expected => Err(BitNetError::mismatch(
            format!("bytes of {values} ternary values in base 3"),
            expected.unwrap_or(usize::MAX),
            bytes,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip_at_every_length() {
        // A prime period, so that exchanged places cannot cancel.
        let values: Vec<i8> = (0..251).map(|i: i32| (i * i % 7 % 3) as i8 - 1).collect();
        for len in 0..values.len() {
            let mut packed = vec![0; BitNetDType::TernaryBase3.size_bytes(len).unwrap()];
            pack(&values[..len], &mut packed).unwrap();
            let mut out = vec![7; len];
            unpack(&packed, &mut out).unwrap();
            assert_eq!(out, values[..len]);
        }
    }

    #[test]
    fn the_first_value_is_the_lowest_digit() {
        let mut byte = [0];
        pack(&[1, 0, 0, 0, -1], &mut byte).unwrap();
        assert_eq!(byte, [2 + 3 + 9 + 27]);
        pack(&[-1], &mut byte).unwrap();
        assert_eq!(byte, [3 + 9 + 27 + 81]);
    }

    #[test]
    fn what_is_not_ternary_is_refused() {
        let error = pack(&[0, 2], &mut [0]).unwrap_err().to_string();
        assert_eq!(error, "value 1: expected -1, 0 or +1, found 2");
        assert!(pack(&[0; 5], &mut [0; 2]).is_err());
        assert!(unpack(&[121], &mut [0; 6]).is_err());
        assert!(unpack(&[243], &mut [0; 5]).is_err());
    }

    #[test]
    fn digits_past_the_last_value_do_not_count() {
        let mut out = [7; 4];
        unpack(&[121 + 81], &mut out).unwrap();
        assert_eq!(out, [0; 4]);
    }
}
